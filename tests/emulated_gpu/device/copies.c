/* Copies and memset, on a queue; which of them wait for the device, and which end a capture. */
#include "device.h"

typedef struct {
    emu_op op;
    void *to;
    const void *from;
    size_t n;
    void *staged;
    int value;
} CopyOp;

static int run_copy(emu_op *raw) {
    CopyOp *c = (CopyOp *)raw;
    memmove(c->to, c->from, c->n);
    free(c->staged);
    return 0;
}
static int run_set(emu_op *raw) {
    CopyOp *c = (CopyOp *)raw;
    memset(c->to, c->value, c->n);
    return 0;
}

static void *translated(const void *p) { return in_window(p) ? emu_real((uint64_t)p) : (void *)p; }

static int copy(void *to, const void *from, size_t n, void *stream, int asynchronous) {
    LOCK;
    int code = 0, up = 0, down = 0;
    Stream *s = stream_of(stream);
    if (sticky) {
        code = sticky;
        goto out;
    }
    if (!s) {
        code = CUDA_ERROR_INVALID_HANDLE;
        goto out;
    }
    if (!n) goto out;
    if ((in_window(to) && !device_range(to, n)) || (in_window(from) && !device_range(from, n))) {
        complain("a copy of %zu bytes beyond a device array: %p <- %p", n, to, from);
        code = CUDA_ERROR_INVALID_VALUE;
        goto out;
    }
    up = !in_window(from);
    down = !in_window(to); /* from or to memory that is neither the device's nor pinned */
    emu_log("copy %zu bytes %s%s stream %p%s", n, up ? "pageable->" : "", down ? "->pageable" : "", stream,
            asynchronous ? " async" : "");
    if (s->capturing && (up || down || !asynchronous)) {
        invalidate(s);
        code = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        goto out;
    }
    CopyOp c = {.op = {run_copy, "copy"}, .to = translated(to), .from = translated(from), .n = n};
    if (up && settings.late && !s->capturing) {
        c.staged = malloc(n);
        memcpy(c.staged, from, n);
        c.from = c.staged;
    }
    code = emu_submit(stream, &c.op, sizeof c);
    Block *a = block_of(from), *b = block_of(to);
    int device_to_device = a && b && !a->pinned && !b->pinned;
    if (!code && !s->capturing && (down || (!asynchronous && !device_to_device))) code = wait_for(s);
out:
    UNLOCK;
    return code;
}

static int set_memory(void *to, int value, size_t n, void *stream) {
    if (!n) return 0;
    if (!device_range(to, n)) return CUDA_ERROR_INVALID_VALUE;
    CopyOp c = {.op = {run_set, "memset"}, .to = translated(to), .n = n, .value = value};
    return emu_submit(stream, &c.op, sizeof c);
}
API cudaError_t cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind k) {
    TRACE;
    int e = started();
    return say(e ? e : copy(to, from, n, NULL, 0));
}
API cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind k, cudaStream_t s) {
    TRACE;
    int e = started();
    return say(e ? e : copy(to, from, n, s, 1));
}
API cudaError_t cudaMemcpyPeer(void *to, int a, const void *from, int b, size_t n) {
    TRACE;
    return cudaMemcpy(to, from, n, cudaMemcpyDefault);
}
API cudaError_t cudaMemcpyPeerAsync(void *to, int a, const void *from, int b, size_t n, cudaStream_t s) {
    TRACE;
    return cudaMemcpyAsync(to, from, n, cudaMemcpyDefault, s);
}
API cudaError_t cudaMemset(void *p, int v, size_t n) {
    TRACE;
    int e = started();
    return say(e ? e : set_memory(p, v, n, NULL));
}
API cudaError_t cudaMemsetAsync(void *p, int v, size_t n, cudaStream_t s) {
    TRACE;
    int e = started();
    return say(e ? e : set_memory(p, v, n, s));
}
