/* The rest of the driver API: errors, contexts, versions. */
#include "device.h"

int ready(void) {
    if (!settings.driver_version) return CUDA_ERROR_STUB_LIBRARY;
    if (!settings.devices) return CUDA_ERROR_NO_DEVICE;
    return sticky;
}

static const struct {
    int code;
    const char *name, *text;
} ERRORS[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
};
API CUresult cuGetErrorName(CUresult e, const char **s) {
    TRACE;
    *s = "CUDA_ERROR_UNKNOWN";
    for (unsigned i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == (int)e) *s = ERRORS[i].name;
    return CUDA_SUCCESS;
}
API CUresult cuGetErrorString(CUresult e, const char **s) {
    TRACE;
    *s = "unknown error";
    for (unsigned i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == (int)e) *s = ERRORS[i].text;
    return CUDA_SUCCESS;
}

static char the_context;
API CUresult cuInit(unsigned f) {
    TRACE;
    return (CUresult)(settings.devices ? 0 : CUDA_ERROR_NO_DEVICE);
}
/* NVRTC looks for tables of tools here, and lives without them */
API CUresult cuGetExportTable(const void **table, const CUuuid *id) {
    TRACE;
    *table = NULL;
    return CUDA_ERROR_NOT_FOUND;
}
API CUresult cuDriverGetVersion(int *v) {
    TRACE;
    *v = settings.driver_version;
    return CUDA_SUCCESS;
}
API CUresult cuDeviceGetCount(int *n) {
    TRACE;
    *n = settings.devices;
    return (CUresult)ready();
}
API CUresult cuCtxGetCurrent(CUcontext *c) {
    TRACE;
    *c = (CUcontext)&the_context;
    return CUDA_SUCCESS;
}
API CUresult cuCtxSetCurrent(CUcontext c) {
    TRACE;
    return CUDA_SUCCESS;
}
API CUresult cuCtxCreate_v2(CUcontext *c, unsigned f, CUdevice d) {
    TRACE;
    *c = (CUcontext)&the_context;
    return CUDA_SUCCESS;
}
API CUresult cuCtxDestroy_v2(CUcontext c) {
    TRACE;
    return CUDA_SUCCESS;
}
API CUresult cuCtxGetDevice(CUdevice *d) {
    TRACE;
    *d = 0;
    return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice d) {
    TRACE;
    return CUDA_SUCCESS;
}
API CUresult cuStreamGetCtx(CUstream s, CUcontext *c) {
    TRACE;
    *c = (CUcontext)&the_context;
    return CUDA_SUCCESS;
}
