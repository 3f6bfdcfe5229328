/* An emulated cuBLAS: the products that twostroke and CuPy call and the state of a handle. Every other function that CuPy
 * links to refuses by name (build.py writes those). */
#define CUBLASAPI
#define __CUDA_FP16_H__ /* its header wants more of a toolkit than the wheels hold */
#define __CUDA_BF16_H__
typedef struct {
    unsigned short x;
} __half, __nv_bfloat16;
#include <cublas_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "emulated.h"
#define API __attribute__((visibility("default")))

typedef struct {
    uint32_t magic;
    void *stream, *workspace;
    size_t workspace_bytes;
    int pointer_mode, math_mode, atomics, device;
} Handle;
#define MAGIC 0xB1A5u
static Handle *of(cublasHandle_t h) {
    Handle *x = (Handle *)h;
    return x && x->magic == MAGIC ? x : NULL;
}
#define H                                                                                                              \
    Handle *h = of(handle);                                                                                            \
    if (!h) return CUBLAS_STATUS_NOT_INITIALIZED

extern cudaError_t cudaGetDevice(int *);
extern cudaError_t cudaDeviceSynchronize(void);

API cublasStatus_t cublasCreate_v2(cublasHandle_t *out) {
    int d;
    if (cudaGetDevice(&d)) return CUBLAS_STATUS_NOT_INITIALIZED;
    Handle *h = calloc(1, sizeof *h);
    h->magic = MAGIC;
    h->device = d;
    *out = (cublasHandle_t)h;
    emu_log("cublas create %p", h);
    return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    H;
    emu_log("cublas destroy %p", h);
    cudaDeviceSynchronize(); /* as the real one: it ends a capture */
    h->magic = 0;
    free(h);
    return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t s) {
    H;
    h->stream = s;
    h->workspace = NULL;
    h->workspace_bytes = 0;
    return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasGetStream_v2(cublasHandle_t handle, cudaStream_t *s) {
    H;
    *s = h->stream;
    return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *p, size_t n) {
    H;
    if ((uint64_t)p % 256) return CUBLAS_STATUS_INVALID_VALUE;
    h->workspace = p;
    h->workspace_bytes = n;
    return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t m) {
    H;
    h->pointer_mode = m;
    return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t *m) {
    H;
    *m = (cublasPointerMode_t)h->pointer_mode;
    return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t m) {
    H;
    h->math_mode = m;
    return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t *m) {
    H;
    *m = (cublasMath_t)h->math_mode;
    return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasSetAtomicsMode(cublasHandle_t handle, cublasAtomicsMode_t m) {
    H;
    h->atomics = m;
    return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasGetVersion_v2(cublasHandle_t handle, int *v) {
    *v = 120902;
    return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasGetProperty(libraryPropertyType t, int *v) {
    *v = t == MAJOR_VERSION ? 12 : t == MINOR_VERSION ? 9 : 2;
    return CUBLAS_STATUS_SUCCESS;
}

typedef struct {
    emu_op op;
    int dbl, ta, tb, m, n, k, lda, ldb, ldc, device_scalars, tf32;
    const void *alpha_p, *beta_p, *a, *b;
    void *c, *workspace;
    double alpha, beta;
} Gemm;

static float tf32(float x) { /* 10 bits of mantissa, to nearest */
    uint32_t u;
    memcpy(&u, &x, 4);
    if ((u & 0x7f800000) != 0x7f800000) u = (u + 0x1000) & ~0x1fffu;
    memcpy(&x, &u, 4);
    return x;
}

#define PRODUCT(T, NAME)                                                                                               \
    __attribute__((optimize("O3"), target("avx2,fma"))) static void NAME(const Gemm *g, T alpha, T beta) {             \
        const T *a = emu_real((uint64_t)g->a), *b = emu_real((uint64_t)g->b);                                          \
        T *c = emu_real((uint64_t)g->c);                                                                               \
        long m = g->m, n = g->n, k = g->k;                                                                             \
        T *pack = malloc(sizeof(T) * (m * k + m + 1)), *sum = pack + m * k;                                            \
        if (alpha != 0)                                                                                                \
            for (long l = 0; l < k; l++)                                                                               \
                for (long i = 0; i < m; i++) {                                                                         \
                    T v = g->ta ? a[l + i * (long)g->lda] : a[i + l * (long)g->lda];                                   \
                    pack[l * m + i] = g->tf32 ? (T)tf32((float)v) : v;                                                 \
                }                                                                                                      \
        for (long j = 0; j < n; j++) {                                                                                 \
            for (long i = 0; i < m; i++) sum[i] = 0;                                                                   \
            if (alpha != 0)                                                                                            \
                for (long l = 0; l < k; l++) {                                                                         \
                    T v = g->tb ? b[j + l * (long)g->ldb] : b[l + j * (long)g->ldb];                                   \
                    if (g->tf32) v = (T)tf32((float)v);                                                                \
                    const T *p = pack + l * m;                                                                         \
                    for (long i = 0; i < m; i++) sum[i] += p[i] * v;                                                   \
                }                                                                                                      \
            T *o = c + j * (long)g->ldc;                                                                               \
            if (beta == 0)                                                                                             \
                for (long i = 0; i < m; i++) o[i] = alpha * sum[i];                                                    \
            else                                                                                                       \
                for (long i = 0; i < m; i++) o[i] = alpha * sum[i] + beta * o[i];                                      \
        }                                                                                                              \
        free(pack);                                                                                                    \
    }
PRODUCT(float, product_f)
PRODUCT(double, product_d)

static int run_gemm(emu_op *raw) {
    Gemm *g = (Gemm *)raw;
    double alpha = g->alpha, beta = g->beta;
    if (g->device_scalars) {
        const void *p = emu_real((uint64_t)g->alpha_p), *q = emu_real((uint64_t)g->beta_p);
        alpha = g->dbl ? *(const double *)p : *(const float *)p;
        beta = g->dbl ? *(const double *)q : *(const float *)q;
    }
    /* the real one may scribble over its workspace: nobody may keep anything in it */
    if (g->workspace) memset(emu_real((uint64_t)g->workspace), 0xFF, 64);
    if (g->dbl)
        product_d(g, alpha, beta);
    else
        product_f(g, (float)alpha, (float)beta);
    return 0;
}

static cublasStatus_t gemm(Handle *h, int dbl, int ta, int tb, int m, int n, int k, const void *alpha, const void *a,
                           int lda, const void *b, int ldb, const void *beta, void *c, int ldc) {
    if (m < 0 || n < 0 || k < 0 || ta < 0 || ta > 2 || tb < 0 || tb > 2) return CUBLAS_STATUS_INVALID_VALUE;
    if (lda < (ta ? k : m) || lda < 1 || ldb < (tb ? n : k) || ldb < 1 || ldc < m || ldc < 1)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!alpha || !beta) return CUBLAS_STATUS_INVALID_VALUE;
    if (!m || !n) return CUBLAS_STATUS_SUCCESS;
    Gemm g = {.op = {run_gemm, dbl ? "dgemm" : "sgemm"},
              .dbl = dbl,
              .ta = ta != 0,
              .tb = tb != 0,
              .m = m,
              .n = n,
              .k = k,
              .lda = lda,
              .ldb = ldb,
              .ldc = ldc,
              .a = a,
              .b = b,
              .c = c,
              .workspace = h->workspace,
              .tf32 = !dbl && (h->math_mode & 0xf) == CUBLAS_TF32_TENSOR_OP_MATH};
    if (h->pointer_mode == CUBLAS_POINTER_MODE_DEVICE) {
        g.device_scalars = 1;
        g.alpha_p = alpha;
        g.beta_p = beta;
    } else { /* a device address faults here, as on a real one */
        g.alpha = dbl ? *(const double *)alpha : *(const float *)alpha;
        g.beta = dbl ? *(const double *)beta : *(const float *)beta;
    }
    if (emu_of_other_device(a) || emu_of_other_device(b) || emu_of_other_device(c) ||
        emu_of_other_device(h->workspace)) {
        fprintf(stderr, "emulated GPU: a product is given memory of another device\n");
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    if (h->device != emu_device_now() || emu_stream_elsewhere(h->stream)) {
        fprintf(stderr, "emulated GPU: a product on device %d is given a handle or a stream of another device\n",
                emu_device_now());
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    if (emu_is_capturing(h->stream) && !h->workspace)
        emu_log("# a product is captured without a workspace of the caller's");
    int code = emu_submit(h->stream, &g.op, sizeof g);
    return code ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n,
                                  int k, const float *alpha, const float *a, int lda, const float *b, int ldb,
                                  const float *beta, float *c, int ldc) {
    H;
    return gemm(h, 0, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
API cublasStatus_t cublasDgemm_v2(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n,
                                  int k, const double *alpha, const double *a, int lda, const double *b, int ldb,
                                  const double *beta, double *c, int ldc) {
    H;
    return gemm(h, 1, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
API cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                                const void *alpha, const void *a, cudaDataType at, int lda, const void *b,
                                cudaDataType bt, int ldb, const void *beta, void *c, cudaDataType ct, int ldc,
                                cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
    H;
    if (at != bt || at != ct || (at != CUDA_R_32F && at != CUDA_R_64F)) return CUBLAS_STATUS_NOT_SUPPORTED;
    return gemm(h, at == CUDA_R_64F, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
