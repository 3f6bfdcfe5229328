/* The runtime API of streams and events. */
#include "device.h"

static int do_stream_create(cudaStream_t *out, unsigned flags, int priority) {
    int e = started();
    if (e) return e;
    Stream *s = calloc(1, sizeof *s);
    s->flags = flags;
    s->priority = priority;
    s->device = device_now;
    s->next = streams->next;
    streams->next = s;
    *out = (cudaStream_t)s;
    emu_log("stream %p created%s", s, flags & 1 ? ", non-blocking" : "");
    return 0;
}
API cudaError_t cudaStreamCreate(cudaStream_t *s) {
    TRACE;
    R(do_stream_create(s, 0, 0));
}
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned f) {
    TRACE;
    R(do_stream_create(s, f, 0));
}
API cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned f, int p) {
    TRACE;
    R(do_stream_create(s, f, p));
}
API cudaError_t cudaStreamGetFlags(cudaStream_t s, unsigned *f) {
    TRACE;
    Stream *x = stream_of(s);
    if (!x) return say(400);
    *f = x->flags;
    return cudaSuccess;
}
API cudaError_t cudaStreamGetPriority(cudaStream_t s, int *p) {
    TRACE;
    Stream *x = stream_of(s);
    if (!x) return say(400);
    *p = x->priority;
    return cudaSuccess;
}
static int do_stream_destroy(Stream *s) {
    if (!s || s == streams) return cudaErrorInvalidResourceHandle;
    run_until(s, s->queued);
    s->dead = 1; /* kept: events point to it */
    return sticky;
}
API cudaError_t cudaStreamDestroy(cudaStream_t s) {
    TRACE;
    R(do_stream_destroy(stream_of(s)));
}
static int do_stream_wait(cudaStream_t p) {
    int e = started();
    Stream *s = stream_of(p);
    if (!e) e = s ? wait_for(s) : cudaErrorInvalidResourceHandle;
    emu_log("wait stream %p -> %d", p, e);
    return e;
}
API cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    TRACE;
    R(do_stream_wait(s));
}
static int do_stream_query(Stream *s) {
    if (!s) return cudaErrorInvalidResourceHandle;
    if (s->capturing) {
        invalidate(s);
        return cudaErrorStreamCaptureUnsupported;
    }
    if (settings.late && s->head) { run_until(s, s->head->seq); } /* somebody polls: work goes on */
    return s->head ? cudaErrorNotReady : sticky;
}
API cudaError_t cudaStreamQuery(cudaStream_t s) {
    TRACE;
    R(do_stream_query(stream_of(s)));
}

typedef struct {
    emu_op op;
    Event *event;
} EventOp;
static int run_event(emu_op *raw) {
    ((EventOp *)raw)->event->at = now();
    return 0;
}
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned f) {
    TRACE;
    int e = started();
    if (e) return say(e);
    Event *v = calloc(1, sizeof *v);
    v->flags = f;
    *out = (cudaEvent_t)v;
    return cudaSuccess;
}
API cudaError_t cudaEventCreate(cudaEvent_t *out) {
    TRACE;
    return cudaEventCreateWithFlags(out, 0);
}
API cudaError_t cudaEventDestroy(cudaEvent_t e) {
    TRACE;
    return say(sticky); /* the queue may hold it */
}
static int do_record(Event *v, void *p) {
    int e = started();
    Stream *s = stream_of(p);
    if (e) return e;
    if (!s) return cudaErrorInvalidResourceHandle;
    if (s->capturing == cudaStreamCaptureStatusInvalidated) return cudaErrorStreamCaptureInvalidated;
    if (s->capturing) {
        v->captured_in = s->graph;
        v->recorded = 1;
        return 0;
    }
    EventOp op = {{run_event, "event"}, v};
    v->captured_in = NULL;
    v->stream = s;
    v->recorded = 1;
    v->seq = s->queued + 1;
    return emu_submit(p, &op.op, sizeof op);
}
API cudaError_t cudaEventRecord(cudaEvent_t v, cudaStream_t s) {
    TRACE;
    R(do_record((Event *)v, s));
}
static int do_event_wait(Event *v) {
    if (v->captured_in) {
        invalidate_all();
        return cudaErrorCapturedEvent;
    }
    emu_log("wait event");
    return v->recorded ? run_until(v->stream, v->seq) : 0;
}
API cudaError_t cudaEventSynchronize(cudaEvent_t v) {
    TRACE;
    R(do_event_wait((Event *)v));
}
static int do_event_query(Event *v) {
    if (v->captured_in) {
        invalidate_all();
        return cudaErrorCapturedEvent;
    }
    int e = unsafe();
    if (e) return e;
    if (settings.late && v->recorded && v->stream->done < v->seq && v->stream->head)
        run_until(v->stream, v->stream->head->seq);
    return !v->recorded || v->stream->done >= v->seq ? sticky : cudaErrorNotReady;
}
API cudaError_t cudaEventQuery(cudaEvent_t v) {
    TRACE;
    R(do_event_query((Event *)v));
}
API cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) {
    TRACE;
    Event *x = (Event *)a, *y = (Event *)b;
    if (!x->recorded || !y->recorded) return say(cudaErrorInvalidResourceHandle);
    if (x->stream->done < x->seq || y->stream->done < y->seq) return say(cudaErrorNotReady);
    *ms = (float)((y->at - x->at) * 1e3);
    return cudaSuccess;
}
static int do_stream_wait_event(void *p, Event *v) {
    Stream *s = stream_of(p);
    if (!s) return cudaErrorInvalidResourceHandle;
    if (v->captured_in) { /* the stream joins the capture */
        if (s == streams) return cudaErrorStreamCaptureImplicit;
        if (!s->capturing)
            for (Stream *o = streams; o; o = o->next)
                if (o->capturing && o->graph == v->captured_in) {
                    s->capturing = 1;
                    s->graph = o->graph;
                    s->mode = o->mode;
                    s->origin = 0;
                    return 0;
                }
        return 0;
    }
    if (s->capturing) {
        invalidate(s);
        return cudaErrorStreamCaptureIsolation;
    }
    if (!v->recorded || v->stream->done >= v->seq) return 0;
    Node *n = append(s, sizeof(emu_op));
    if (n->waits < 4) {
        n->wait_on[n->waits] = v->stream;
        n->wait_seq[n->waits++] = v->seq;
    } else
        run_until(v->stream, v->seq);
    return 0;
}
API cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t v, unsigned f) {
    TRACE;
    R(do_stream_wait_event(s, (Event *)v));
}

typedef struct {
    emu_op op;
    cudaHostFn_t fn;
    cudaStreamCallback_t back;
    void *data;
    cudaStream_t stream;
} HostOp;
static int run_host(emu_op *raw) {
    HostOp *h = (HostOp *)raw;
    if (h->fn)
        h->fn(h->data);
    else
        h->back(h->stream, (cudaError_t)sticky, h->data);
    return 0;
}
API cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t fn, void *data) {
    TRACE;
    HostOp h = {{run_host, "host function"}, fn, NULL, data, s};
    return say(emu_submit(s, &h.op, sizeof h));
}
API cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t fn, void *data, unsigned f) {
    TRACE;
    LOCK;
    Stream *x = stream_of(s);
    int capturing = x && x->capturing;
    if (capturing) invalidate(x);
    UNLOCK;
    if (capturing) return say(cudaErrorStreamCaptureUnsupported);
    HostOp h = {{run_host, "callback"}, NULL, fn, data, s};
    return say(emu_submit(s, &h.op, sizeof h));
}
