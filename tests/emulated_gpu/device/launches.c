/* Kernel launches: grid, blocks, threads; and what the driver says of a function. */
#include "device.h"

typedef struct {
    emu_op op;
    const emu_kernel *k;
    uint32_t grid[3], block[3], dynamic_shared;
    char params[];
} LaunchOp;

static int run_launch(emu_op *raw) {
    LaunchOp *l = (LaunchOp *)raw;
    const emu_kernel *k = l->k;
    size_t shared = k->static_shared + l->dynamic_shared + 64;
    static char *memory;
    static size_t have;
    if (have < shared) memory = realloc(memory, have = shared);
    emu_thread base = {.ntid = {l->block[0], l->block[1], l->block[2]},
                       .nctaid = {l->grid[0], l->grid[1], l->grid[2]},
                       .params = l->params,
                       .shared = (char *)(((uint64_t)memory + 15) & ~15UL),
                       .dynamic_shared = l->dynamic_shared};
    uint32_t threads = l->block[0] * l->block[1] * l->block[2];
    uint64_t grid = (uint64_t)l->grid[0] * l->grid[1] * l->grid[2];
    for (uint64_t b = 0; b < grid; b++) {
        uint64_t at = settings.order_down ? grid - 1 - b : b;
        base.ctaid[0] = at % l->grid[0];
        base.ctaid[1] = at / l->grid[0] % l->grid[1];
        base.ctaid[2] = at / ((uint64_t)l->grid[0] * l->grid[1]);
        if (shared > 64) memset(base.shared, 0xFF, shared - 16);
        if (k->barriers) {
            run_block_fibers(k, base, threads);
            continue;
        }
        for (uint32_t n = 0; n < threads; n++) {
            uint32_t i = settings.order_down ? threads - 1 - n : n;
            base.linear = i;
            base.lane = i & 31;
            base.warp = i >> 5;
            base.tid[0] = i % base.ntid[0];
            base.tid[1] = i / base.ntid[0] % base.ntid[1];
            base.tid[2] = i / (base.ntid[0] * base.ntid[1]);
            k->body(&base);
        }
    }
    return 0;
}

static int launch(const Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                  unsigned shared, void *stream, void **args) {
    const emu_kernel *k = f->k;
    if (!gx || !gy || !gz || !bx || !by || !bz || gy > 65535 || gz > 65535 || bz > 64) return CUDA_ERROR_INVALID_VALUE;
    if ((uint64_t)bx * by * bz > 1024) return CUDA_ERROR_INVALID_VALUE;
    if (k->static_shared + shared > 227 * 1024 ||
        (int)shared > (f->max_dynamic_shared ? f->max_dynamic_shared : 48 * 1024))
        return CUDA_ERROR_INVALID_VALUE;
    size_t bytes = sizeof(LaunchOp) + k->param_bytes + 16;
    LaunchOp *l = calloc(1, bytes);
    l->op = (emu_op){run_launch, k->name, bytes};
    l->k = k;
    l->grid[0] = gx;
    l->grid[1] = gy;
    l->grid[2] = gz;
    l->block[0] = bx;
    l->block[1] = by;
    l->block[2] = bz;
    l->dynamic_shared = shared;
    for (uint32_t i = 0; i < k->params; i++) memcpy(l->params + k->param_offset[i], args[i], k->param_size[i]);
    int code = emu_stream_elsewhere(stream) ? CUDA_ERROR_INVALID_HANDLE : 0;
    if (settings.devices > 1)
        for (uint32_t at = 0; at + 8 <= k->param_bytes; at += 8)
            if (emu_of_other_device(*(void **)(l->params + at))) {
                complain("%s on device %d is given memory of another device", k->name, device_now);
                sticky = code = CUDA_ERROR_ILLEGAL_ADDRESS;
            }
    if (!code) code = emu_submit(stream, &l->op, bytes);
    free(l);
    return code;
}

API CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                            unsigned shared, CUstream stream, void **args, void **extra) {
    TRACE;
    if (extra) return CUDA_ERROR_NOT_SUPPORTED;
    D(launch((Function *)f, gx, gy, gz, bx, by, bz, shared, stream, args));
}
API CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                       unsigned bz, unsigned shared, CUstream stream, void **args) {
    TRACE;
    return cuLaunchKernel(f, gx, gy, gz, bx, by, bz, shared, stream, args, NULL);
}
API CUresult cuFuncGetAttribute(int *v, CUfunction_attribute a, CUfunction f) {
    TRACE;
    const Function *fn = (Function *)f;
    switch (a) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *v = 1024; break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *v = fn->k->static_shared; break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS: *v = 32; break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *v = 90; break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        *v = fn->max_dynamic_shared ? fn->max_dynamic_shared : 48 * 1024;
        break;
    default: *v = 0;
    }
    return CUDA_SUCCESS;
}
API CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v) {
    TRACE;
    if (a == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
        if (v > 227 * 1024) return CUDA_ERROR_INVALID_VALUE;
        ((Function *)f)->max_dynamic_shared = v;
    }
    return CUDA_SUCCESS;
}
API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, CUfunction f, int block, size_t shared) {
    TRACE;
    *n = block > 0 ? 2048 / block : 1;
    return CUDA_SUCCESS;
}
API CUresult cuOccupancyMaxPotentialBlockSize(int *grid, int *block, CUfunction f, CUoccupancyB2DSize z, size_t shared,
                                              int limit) {
    TRACE;
    *grid = 132;
    *block = limit ? (limit < 1024 ? limit : 1024) : 1024;
    return CUDA_SUCCESS;
}
