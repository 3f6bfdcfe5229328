/* The reductions of CUB that CuPy holds compiled for a GPU, computed on the host. */
#include "device.h"

typedef struct {
    emu_op op;
    void *x, *y;
    long segments, size;
    int kind, type;
} CubOp;
/* CuPy's dtype ids: 0 i8 1 u8 2 i16 3 u16 4 i32 5 u32 6 i64 7 u64 8 f16 9 f32 10 f64 11 c64 12 c128 13 bool */
#define REDUCE(T)                                                                                                      \
    do {                                                                                                               \
        const T *x = emu_real((uint64_t)c->x);                                                                         \
        char *y = emu_real((uint64_t)c->y);                                                                            \
        for (long s = 0; s < c->segments; s++, x += c->size) {                                                         \
            T best = c->kind == 7 ? 1 : c->kind == 0 ? 0 : x[0];                                                       \
            long at = 0;                                                                                               \
            for (long i = 0; i < c->size; i++) switch (c->kind) {                                                      \
                case 0: best = best + x[i]; break;                                                                     \
                case 7: best = best * x[i]; break;                                                                     \
                case 1:                                                                                                \
                    if (x[i] < best || x[i] != x[i]) best = x[i];                                                      \
                    break;                                                                                             \
                case 2:                                                                                                \
                    if (x[i] > best || x[i] != x[i]) best = x[i];                                                      \
                    break;                                                                                             \
                case 3:                                                                                                \
                    if (x[i] < best) {                                                                                 \
                        best = x[i];                                                                                   \
                        at = i;                                                                                        \
                    }                                                                                                  \
                    break;                                                                                             \
                case 4:                                                                                                \
                    if (x[i] > best) {                                                                                 \
                        best = x[i];                                                                                   \
                        at = i;                                                                                        \
                    }                                                                                                  \
                    break;                                                                                             \
                }                                                                                                      \
            if (c->kind == 3 || c->kind == 4) {                                                                        \
                *(int *)y = at;                                                                                        \
                *(T *)(y + (sizeof(T) > 4 ? sizeof(T) : 4)) = best;                                                    \
            } else                                                                                                     \
                ((T *)y)[s] = best;                                                                                    \
        }                                                                                                              \
    } while (0)
static int run_cub(emu_op *raw) {
    CubOp *c = (CubOp *)raw;
    switch (c->type) {
    case 0: REDUCE(int8_t); break;
    case 1:
    case 13: REDUCE(uint8_t); break;
    case 2: REDUCE(int16_t); break;
    case 3: REDUCE(uint16_t); break;
    case 4: REDUCE(int32_t); break;
    case 5: REDUCE(uint32_t); break;
    case 6: REDUCE(int64_t); break;
    case 7: REDUCE(uint64_t); break;
    case 9: REDUCE(float); break;
    case 10: REDUCE(double); break;
    default: complain("CUB: no type %d", c->type); return CUDA_ERROR_NOT_SUPPORTED;
    }
    return 0;
}
static void cub_submit(void *x, void *y, long segments, long size, void *stream, int kind, int type) {
    CubOp op = {{run_cub, "CUB reduction"}, x, y, segments, size, kind, type};
    emu_submit(stream, &op.op, sizeof op);
}
static void emu_cub_device_reduce(void *ws, size_t *n, void *x, void *y, int size, void *stream, int kind, int type) {
    cub_submit(x, y, 1, size, stream, kind, type);
}
static void emu_cub_device_segmented_reduce(void *ws, size_t *n, void *x, void *y, int segments, int size, void *stream,
                                            int kind, int type) {
    cub_submit(x, y, segments, size, stream, kind, type);
}
static size_t emu_cub_reduce_workspace(void) { return 767; }
static size_t emu_cub_segmented_workspace(void) { return 1; }
static void scan_missing(void) {
    complain("CUB scans and histograms are not emulated");
    abort();
}

/* By their mangled names. */
const struct replacement CUB[] = {
    {"_Z17cub_device_reducePvRmS_S_iP11CUstream_stii", emu_cub_device_reduce},
    {"_Z27cub_device_segmented_reducePvRmS_S_iiP11CUstream_stii", emu_cub_device_segmented_reduce},
    {"_Z36cub_device_reduce_get_workspace_sizePvS_iP11CUstream_stii", emu_cub_reduce_workspace},
    {"_Z46cub_device_segmented_reduce_get_workspace_sizePvS_iiP11CUstream_stii", emu_cub_segmented_workspace},
    {"_Z15cub_device_scanPvRmS_S_iP11CUstream_stii", scan_missing},
    {NULL, NULL},
};
