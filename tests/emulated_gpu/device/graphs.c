/* Capture and graphs. A graph is the list of its captured operations; branches run one after the other. */
#include "device.h"

static int do_begin(void *p, int mode) {
    int e = started();
    Stream *s = stream_of(p);
    if (e) return e;
    if (!s || s == streams) return cudaErrorStreamCaptureUnsupported;
    if (s->capturing) return cudaErrorIllegalState;
    s->capturing = cudaStreamCaptureStatusActive;
    s->mode = mode;
    s->origin = 1;
    s->graph = calloc(1, sizeof *s->graph);
    s->graph->refs = 1;
    captures++;
    emu_log("begin capture %p mode %d", p, mode);
    return 0;
}
API cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode m) {
    TRACE;
    R(do_begin(s, m));
}
static int do_end(void *p, cudaGraph_t *out) {
    Stream *s = stream_of(p);
    *out = NULL;
    if (!s || !s->capturing) return cudaErrorIllegalState;
    if (!s->origin) {
        invalidate(s);
        return cudaErrorStreamCaptureUnmatched;
    }
    int code = s->capturing == cudaStreamCaptureStatusInvalidated ? cudaErrorStreamCaptureInvalidated : 0;
    Graph *g = s->graph;
    for (Stream *o = streams; o; o = o->next)
        if (o->capturing && o->graph == g) {
            o->capturing = 0;
            o->graph = NULL;
        }
    captures--;
    emu_log("end capture %p: %d nodes -> %d", p, g->count, code);
    if (!code) *out = (cudaGraph_t)g;
    return code;
}
API cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) {
    TRACE;
    R(do_end(s, g));
}
API cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *v) {
    TRACE;
    LOCK;
    Stream *x = stream_of(s);
    int e = started();
    if (!e && !x) e = cudaErrorInvalidResourceHandle;
    if (!e && x == streams) e = legacy_forbidden();
    *v = x ? (enum cudaStreamCaptureStatus)x->capturing : cudaStreamCaptureStatusNone;
    UNLOCK;
    return say(e);
}
static void drop(Graph *g) {
    if (--g->refs) return;
    for (int i = 0; i < g->count; i++) free(g->ops[i]);
    free(g->ops);
    free(g);
}
API cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, unsigned long long f) {
    TRACE;
    LOCK;
    ((Graph *)g)->refs++;
    *out = (cudaGraphExec_t)g;
    UNLOCK;
    return say(started());
}
API cudaError_t cudaGraphDestroy(cudaGraph_t g) {
    TRACE;
    LOCK;
    drop((Graph *)g);
    UNLOCK;
    return say(sticky);
}
API cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) {
    TRACE;
    LOCK;
    for (Stream *s = streams; s; s = s->next)
        if (!s->capturing) run_until(s, s->queued);
    drop((Graph *)g);
    UNLOCK;
    return say(sticky);
}
API cudaError_t cudaGraphUpload(cudaGraphExec_t g, cudaStream_t s) {
    TRACE;
    return say(started());
}
typedef struct {
    emu_op op;
    Graph *graph;
} GraphOp;
static int run_graph(emu_op *raw) {
    Graph *g = ((GraphOp *)raw)->graph;
    for (int i = 0; i < g->count; i++) {
        int e = g->ops[i]->run(g->ops[i]);
        if (e) return e;
    }
    return 0;
}
API cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s) {
    TRACE;
    GraphOp op = {{run_graph, "graph"}, (Graph *)g};
    int e = started();
    return say(e ? e : emu_submit(s, &op.op, sizeof op));
}
API cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *nodes, size_t *n) {
    TRACE;
    Graph *x = (Graph *)g;
    if (nodes)
        for (size_t i = 0; i < *n && i < (size_t)x->count; i++) nodes[i] = (cudaGraphNode_t)x->ops[i];
    *n = x->count;
    return cudaSuccess;
}
API cudaError_t cudaGraphDebugDotPrint(cudaGraph_t g, const char *path, unsigned f) {
    TRACE;
    FILE *file = fopen(path, "w");
    if (!file) return say(cudaErrorOperatingSystem);
    Graph *x = (Graph *)g;
    fprintf(file, "digraph dot {\nsubgraph cluster_1 {\n");
    for (int i = 0; i < x->count; i++) fprintf(file, "\"graph_1_node_%d\"[label=\"%s\"];\n", i, x->ops[i]->what);
    for (int i = 1; i < x->count; i++) fprintf(file, "\"graph_1_node_%d\" -> \"graph_1_node_%d\";\n", i - 1, i);
    fprintf(file, "}\n}\n");
    fclose(file);
    return cudaSuccess;
}
API cudaError_t cudaProfilerStart(void) {
    TRACE;
    return cudaSuccess;
}
API cudaError_t cudaProfilerStop(void) {
    TRACE;
    return cudaSuccess;
}
