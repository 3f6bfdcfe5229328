/* Streams are queues of operations. They run at once, or (EMULATED_GPU_QUEUE=late) as late as CUDA allows. */
#include "device.h"

Stream null_stream;
static Stream per_thread_stream;
Stream *stream_of(void *p) {
    if (p == NULL || p == (void *)1) return &null_stream;
    if (p == (void *)2) return &per_thread_stream;
    for (Stream *s = streams; s; s = s->next)
        if (s == p) return s->dead ? NULL : s;
    return NULL;
}

/* Runs what is queued on s up to the operation of this number. */
int run_until(Stream *s, uint64_t seq) {
    int code = 0;
    if (s->busy) return 0;
    s->busy = 1;
    while (s->head && s->head->seq <= seq) {
        Node *n = s->head;
        for (int i = 0; i < n->waits; i++) run_until(n->wait_on[i], n->wait_seq[i]);
        s->head = n->next;
        if (!s->head) s->tail = NULL;
        if (n->op.run) {
            int e = run_op(&n->op);
            if (e) code = e;
        }
        s->done = n->seq;
        free(n);
    }
    s->busy = 0;
    return sticky ? sticky : code;
}

int run_all(void) {
    int code = 0;
    for (Stream *s = streams; s; s = s->next) {
        int e = run_until(s, s->queued);
        if (e) code = e;
    }
    int e = run_until(&per_thread_stream, per_thread_stream.queued);
    return e ? e : code;
}

void invalidate(Stream *s) {
    if (s->capturing) s->capturing = cudaStreamCaptureStatusInvalidated;
    for (Stream *o = streams; o; o = o->next)
        if (o->capturing && o->graph == s->graph) o->capturing = cudaStreamCaptureStatusInvalidated;
}
void invalidate_all(void) {
    for (Stream *o = streams; o; o = o->next)
        if (o->capturing) o->capturing = cudaStreamCaptureStatusInvalidated;
}

/* The legacy stream may not be used while a blocking stream is captured. */
int legacy_forbidden(void) {
    for (Stream *s = streams; s; s = s->next)
        if (s->capturing && !(s->flags & cudaStreamNonBlocking)) {
            invalidate(s);
            return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
        }
    return 0;
}

static void depend(Node *n, Stream *on) {
    if (on->head && n->waits < 4) {
        n->wait_on[n->waits] = on;
        n->wait_seq[n->waits++] = on->queued;
    }
}

Node *append(Stream *s, size_t bytes) {
    Node *n = calloc(1, sizeof *n - sizeof(emu_op) + bytes);
    n->seq = ++s->queued;
    if (s == &null_stream) {
        int more = 0;
        for (Stream *o = streams; o; o = o->next)
            if (o != s && !(o->flags & cudaStreamNonBlocking) && o->head) {
                if (n->waits < 4)
                    depend(n, o);
                else
                    more = 1;
            }
        if (more)
            for (Stream *o = streams; o; o = o->next)
                if (o != s && !(o->flags & cudaStreamNonBlocking)) run_until(o, o->queued);
    } else if (!(s->flags & cudaStreamNonBlocking)) {
        depend(n, &null_stream);
    }
    if (s->tail)
        s->tail->next = n;
    else
        s->head = n;
    s->tail = n;
    return n;
}

static int graph_add(Graph *g, emu_op *op, size_t bytes) {
    if (g->count == g->cap) g->ops = realloc(g->ops, (g->cap = g->cap * 2 + 32) * sizeof *g->ops);
    memcpy(g->ops[g->count++] = malloc(bytes), op, bytes);
    return 0;
}

API int emu_submit(void *stream, emu_op *op, size_t bytes) {
    static long captured;
    LOCK;
    int code = 0;
    Stream *s = stream_of(stream);
    op->bytes = bytes;
    if (sticky)
        code = sticky;
    else if (!s)
        code = CUDA_ERROR_INVALID_HANDLE;
    else if (s->capturing == cudaStreamCaptureStatusInvalidated)
        code = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    else if (s->capturing && ++captured == settings.refuse_at) {
        invalidate(s);
        code = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    } else if (s->capturing) {
        emu_log("capture %p %s", stream, op->what);
        code = graph_add(s->graph, op, bytes);
    } else if (s == &null_stream && (code = legacy_forbidden())) {
    } else {
        emu_log("queue %p %s", stream, op->what);
        memcpy(&append(s, bytes)->op, op, bytes);
        if (!settings.late || s->queued - s->done > 20000) code = run_until(s, s->queued);
    }
    UNLOCK;
    return code;
}

/* Kernels and products need a stream of the current device. */
API int emu_stream_elsewhere(void *stream) {
    LOCK;
    Stream *s = stream_of(stream);
    int elsewhere = s && s != &null_stream && s != &per_thread_stream && s->device != device_now;
    UNLOCK;
    return elsewhere;
}

API int emu_is_capturing(void *stream) {
    LOCK;
    Stream *s = stream_of(stream);
    int c = s ? s->capturing : 0;
    UNLOCK;
    return c;
}

/* Waits for a stream; a wait ends a capture. */
int wait_for(Stream *s) {
    if (s->capturing) {
        invalidate(s);
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    if (s == &null_stream) {
        int e = legacy_forbidden();
        if (e) return e;
        for (Stream *o = streams; o; o = o->next)
            if (!(o->flags & cudaStreamNonBlocking) && !o->capturing) run_until(o, o->queued);
    }
    return run_until(s, s->queued);
}
