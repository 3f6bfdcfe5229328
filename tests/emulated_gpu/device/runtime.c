/* The runtime API of devices and memory. */
#include "device.h"

static __thread int last_error;

cudaError_t say(int code) {
    if (code) last_error = code;
    return (cudaError_t)code;
}

int started(void) {
    if (!settings.driver_version) return cudaErrorInsufficientDriver;
    if (settings.driver_version < 12000) return cudaErrorInsufficientDriver;
    if (!settings.devices) return cudaErrorNoDevice;
    return sticky;
}

API cudaError_t cudaGetLastError(void) {
    TRACE;
    int e = last_error;
    last_error = 0;
    return (cudaError_t)(sticky ? sticky : e);
}
API cudaError_t cudaPeekAtLastError(void) {
    TRACE;
    return (cudaError_t)(sticky ? sticky : last_error);
}
API cudaError_t cudaDriverGetVersion(int *v) {
    TRACE;
    *v = settings.driver_version;
    return cudaSuccess;
}
API cudaError_t cudaGetDeviceCount(int *n) {
    TRACE;
    *n = 0;
    int e = started();
    if (!e) *n = settings.devices;
    return say(e);
}
API cudaError_t cudaGetDevice(int *d) {
    TRACE;
    *d = device_now;
    return say(started());
}
API cudaError_t cudaSetDevice(int d) {
    TRACE;
    int e = started();
    if (e && e == sticky && settings.quiet_set) e = 0;
    if (!e && (d < 0 || d >= settings.devices)) e = cudaErrorInvalidDevice;
    if (!e) device_now = d;
    return say(e);
}
API cudaError_t cudaDeviceSynchronize(void) {
    TRACE;
    LOCK;
    int code = started();
    for (Stream *s = streams; !code && s; s = s->next)
        if (s->capturing) {
            invalidate_all();
            code = cudaErrorStreamCaptureUnsupported;
        }
    if (!code) code = run_all();
    emu_log("wait device -> %d", code);
    UNLOCK;
    return say(code);
}
API cudaError_t cudaDeviceGetAttribute(int *v, enum cudaDeviceAttr a, int d) {
    TRACE;
    int e = started();
    if (e) return say(e);
    if (d < 0 || d >= settings.devices) return say(cudaErrorInvalidDevice);
    switch ((int)a) {
    case cudaDevAttrMaxThreadsPerBlock: *v = 1024; break;
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: *v = 1024; break;
    case cudaDevAttrMaxBlockDimZ: *v = 64; break;
    case cudaDevAttrMaxGridDimX: *v = 2147483647; break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: *v = 65535; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *v = 49152; break;
    case cudaDevAttrTotalConstantMemory: *v = 65536; break;
    case cudaDevAttrWarpSize: *v = 32; break;
    case cudaDevAttrMaxRegistersPerBlock: *v = 65536; break;
    case cudaDevAttrClockRate: *v = 1000000; break;
    case cudaDevAttrMultiProcessorCount: *v = 132; break;
    case cudaDevAttrIntegrated: *v = 0; break;
    case cudaDevAttrCanMapHostMemory: *v = 1; break;
    case cudaDevAttrConcurrentKernels: *v = 1; break;
    case cudaDevAttrMemoryClockRate: *v = 1000000; break;
    case cudaDevAttrL2CacheSize: *v = 50 << 20; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *v = 2048; break;
    case cudaDevAttrUnifiedAddressing: *v = 1; break;
    case cudaDevAttrComputeCapabilityMajor: *v = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *v = 0; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *v = 233472; break;
    case cudaDevAttrMaxRegistersPerMultiprocessor: *v = 65536; break;
    case cudaDevAttrManagedMemory: *v = 0; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *v = 232448; break;
    case cudaDevAttrMemoryPoolsSupported: *v = 0; break;
    case cudaDevAttrCooperativeLaunch: *v = 1; break;
    default: *v = 0;
    }
    return cudaSuccess;
}
API cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int d) {
    TRACE; /* the header names it _v2 */
    int e = started();
    if (e) return say(e);
    if (d < 0 || d >= settings.devices) return say(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "Emulated CUDA device");
    memcpy(p->uuid.bytes, "emulated-device0", 16);
    p->uuid.bytes[15] = '0' + d;
    p->totalGlobalMem = settings.total_memory;
    p->sharedMemPerBlock = 49152;
    p->regsPerBlock = 65536;
    p->warpSize = 32;
    p->memPitch = 2147483647;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->clockRate = 1000000;
    p->totalConstMem = 65536;
    p->major = 9;
    p->minor = 0;
    p->textureAlignment = 512;
    p->multiProcessorCount = 132;
    p->canMapHostMemory = 1;
    p->concurrentKernels = 1;
    p->pciBusID = d + 1;
    p->unifiedAddressing = 1;
    p->memoryClockRate = 1000000;
    p->memoryBusWidth = 5120;
    p->l2CacheSize = 50 << 20;
    p->maxThreadsPerMultiProcessor = 2048;
    p->sharedMemPerMultiprocessor = 233472;
    p->regsPerMultiprocessor = 65536;
    p->sharedMemPerBlockOptin = 232448;
    return cudaSuccess;
}
API cudaError_t cudaDeviceGetPCIBusId(char *s, int n, int d) {
    TRACE;
    snprintf(s, n, "0000:%02x:00.0", d + 1);
    return say(started());
}
API cudaError_t cudaDeviceGetByPCIBusId(int *d, const char *s) {
    TRACE;
    unsigned a, b;
    *d = sscanf(s, "%x:%x", &a, &b) == 2 ? (int)b - 1 : 0;
    return say(started());
}
API cudaError_t cudaDeviceCanAccessPeer(int *v, int a, int b) {
    TRACE;
    *v = 0;
    return say(started());
}
API cudaError_t cudaDeviceEnablePeerAccess(int p, unsigned f) {
    TRACE;
    return say(cudaErrorNotSupported);
}
API cudaError_t cudaDeviceGetLimit(size_t *v, enum cudaLimit l) {
    TRACE;
    *v = 1024;
    return say(started());
}
API cudaError_t cudaDeviceSetLimit(enum cudaLimit l, size_t v) {
    TRACE;
    return say(started());
}

/* An unsafe call is refused while the calling thread captures in another mode than the relaxed one. */
int unsafe(void) {
    for (Stream *s = streams; s; s = s->next)
        if (s->capturing && s->mode != cudaStreamCaptureModeRelaxed) {
            invalidate(s);
            return cudaErrorStreamCaptureUnsupported;
        }
    return 0;
}
static int do_malloc(void **p, size_t n) {
    int e = started();
    if (!e) e = unsafe();
    *p = NULL;
    if (!e && n) e = allocate((uint64_t *)p, n, 0);
    emu_log("malloc %zu -> %p %s", n, *p, captures ? "UNDER CAPTURE" : "");
    return e;
}
API cudaError_t cudaMalloc(void **p, size_t n) {
    TRACE;
    R(do_malloc(p, n));
}
API cudaError_t cudaMallocManaged(void **p, size_t n, unsigned f) {
    TRACE;
    return say(cudaErrorNotSupported);
}
API cudaError_t cudaMallocAsync(void **p, size_t n, cudaStream_t s) {
    TRACE;
    return say(cudaErrorNotSupported);
}
API cudaError_t cudaFreeAsync(void *p, cudaStream_t s) {
    TRACE;
    return say(cudaErrorNotSupported);
}
static int do_free(void *p) {
    int e = started();
    if (!p || e) return e;
    if ((e = unsafe())) return e;
    for (Stream *s = streams; s; s = s->next)
        if (!s->capturing) run_until(s, s->queued); /* cudaFree waits */
    emu_log("free %p %s", p, captures ? "UNDER CAPTURE" : "");
    return sticky ? sticky : release((uint64_t)p);
}
API cudaError_t cudaFree(void *p) {
    TRACE;
    R(do_free(p));
}
static int do_host_alloc(void **p, size_t n) {
    int e = started();
    if (!e) e = unsafe();
    if (!e) e = allocate((uint64_t *)p, n ? n : 1, 1);
    emu_log("host malloc %zu -> %p", n, *p);
    return e;
}
API cudaError_t cudaHostAlloc(void **p, size_t n, unsigned f) {
    TRACE;
    R(do_host_alloc(p, n));
}
API cudaError_t cudaMallocHost(void **p, size_t n) {
    TRACE;
    R(do_host_alloc(p, n));
}
API cudaError_t cudaFreeHost(void *p) {
    TRACE;
    R(do_free(p));
}
API cudaError_t cudaHostRegister(void *p, size_t n, unsigned f) {
    TRACE;
    return say(cudaErrorNotSupported);
}
API cudaError_t cudaHostUnregister(void *p) {
    TRACE;
    return say(cudaErrorNotSupported);
}
API cudaError_t cudaMemGetInfo(size_t *f, size_t *t) {
    TRACE;
    int e = started();
    *f = settings.total_memory - used_memory[device_now];
    *t = settings.total_memory;
    return say(e);
}
API cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
    TRACE;
    memset(a, 0, sizeof *a);
    Block *b = block_of(p);
    a->type = !b ? cudaMemoryTypeUnregistered : b->pinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    a->device = b ? b->device : -2;
    a->devicePointer = b ? (void *)p : NULL;
    a->hostPointer = b && b->pinned ? (void *)p : NULL;
    return say(started());
}
