/* PTX translated to C, compiled by gcc and kept in the cache; modules, functions and globals of the driver API. */
#include "device.h"
#include <dlfcn.h>
#include <errno.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* From build.py: PROJECT, the folder that holds tests/; TRANSLATOR_STAMP, a hash of the translator's text, part of a
 * cached kernel's name. */

typedef struct {
    void *so;
    const emu_kernel *kernels;
    int count;
    const emu_global *globals;
    int n_globals;
} Module;

static uint64_t hash_of(const char *s, size_t n) {
    uint64_t h = 1469598103934665603ULL;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 1099511628211ULL;
    return h;
}

static int run_translator(const char *ptx, const char *so) {
    pid_t child = fork();
    if (child < 0) return -1;
    if (!child) {
        unsetenv("LD_PRELOAD");
        unsetenv("LD_LIBRARY_PATH");
        const char *python = getenv("EMULATED_GPU_PYTHON");
        if (chdir(PROJECT)) _exit(127);
        execlp(python ? python : "python3", "python3", "-E", "-s", "-S", "-m", "tests.emulated_gpu.translator", ptx, so,
               (char *)NULL);
        _exit(127);
    }
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int load_module(CUmodule *out, const char *image) {
    if (!memcmp(image, "\177ELF", 4) || !(strstr(image, ".version"))) {
        complain("only PTX can run here, not machine code: set CUPY_COMPILE_WITH_PTX=1 and another CUPY_CACHE_DIR");
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    }
    size_t n = strlen(image);
    char path[700], so[700], temporary[720];
    mkdir(settings.cache_dir, 0777);
    snprintf(path, sizeof path, "%s/%016lx.ptx", settings.cache_dir, hash_of(image, n));
    snprintf(so, sizeof so, "%s/%016lx-" TRANSLATOR_STAMP ".so", settings.cache_dir, hash_of(image, n));
    if (access(so, R_OK)) {
        double begin = now();
        snprintf(temporary, sizeof temporary, "%s.%d", path, getpid());
        FILE *f = fopen(temporary, "w");
        if (!f) {
            complain("cannot write %s", temporary);
            return CUDA_ERROR_OPERATING_SYSTEM;
        }
        fwrite(image, 1, n, f);
        fclose(f);
        rename(temporary, path);
        int code = run_translator(path, so);
        if (code) {
            complain("%s was not translated (exit %d)", path, code);
            return CUDA_ERROR_INVALID_PTX;
        }
        emu_log("# translated %s in %.2f s", path, now() - begin);
    }
    Module *m = calloc(1, sizeof *m);
    m->so = dlopen(so, RTLD_NOW | RTLD_LOCAL);
    if (!m->so) {
        complain("%s", dlerror());
        return CUDA_ERROR_INVALID_PTX;
    }
    m->kernels = dlsym(m->so, "emu_kernels");
    m->count = *(int *)dlsym(m->so, "emu_kernel_count");
    m->globals = dlsym(m->so, "emu_globals");
    m->n_globals = *(int *)dlsym(m->so, "emu_global_count");
    for (int i = 0; i < m->n_globals; i++) {
        const emu_global *g = &m->globals[i];
        uint64_t p;
        if (*g->device) continue; /* the same .so twice */
        loading = 1;
        int code = allocate(&p, g->bytes, 0);
        loading = 0;
        if (code) return code;
        memcpy(emu_real(p), g->address, g->bytes);
        *g->device = p;
    }
    *out = (CUmodule)m;
    return 0;
}
typedef struct {
    char *text;
} Link;
API CUresult cuLinkCreate_v2(unsigned n, CUjit_option *o, void **v, CUlinkState *out) {
    TRACE;
    *out = calloc(1, sizeof(Link));
    return CUDA_SUCCESS;
}
API CUresult cuLinkAddData_v2(CUlinkState l, CUjitInputType t, void *data, size_t n, const char *name, unsigned k,
                              CUjit_option *o, void **v) {
    TRACE;
    ((Link *)l)->text = strndup(data, n);
    return CUDA_SUCCESS;
}
API CUresult cuLinkAddFile_v2(CUlinkState l, CUjitInputType t, const char *p, unsigned k, CUjit_option *o, void **v) {
    TRACE;
    return CUDA_SUCCESS;
}
API CUresult cuLinkComplete(CUlinkState l, void **out, size_t *n) {
    TRACE;
    *out = ((Link *)l)->text;
    *n = strlen(*out) + 1;
    return CUDA_SUCCESS;
}
API CUresult cuLinkDestroy(CUlinkState l) {
    TRACE;
    return CUDA_SUCCESS;
}

API CUresult cuModuleLoadData(CUmodule *m, const void *image) {
    TRACE;
    D(ready() ? ready() : load_module(m, image));
}
API CUresult cuModuleLoad(CUmodule *m, const char *path) {
    TRACE;
    FILE *f = fopen(path, "r");
    if (!f) return CUDA_ERROR_FILE_NOT_FOUND;
    char *text = NULL;
    size_t have = 0;
    ssize_t n = getdelim(&text, &have, 0, f);
    fclose(f);
    if (n < 0) return CUDA_ERROR_INVALID_IMAGE;
    CUresult e = cuModuleLoadData(m, text);
    free(text);
    return e;
}
API CUresult cuModuleUnload(CUmodule m) {
    TRACE;
    return (CUresult)sticky; /* graphs may hold its kernels */
}
API CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *name) {
    TRACE;
    Module *module = (Module *)m;
    for (int i = 0; i < module->count; i++)
        if (!strcmp(module->kernels[i].name, name)) {
            Function *out = calloc(1, sizeof *out);
            out->k = &module->kernels[i];
            *f = (CUfunction)out;
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_NOT_FOUND;
}
API CUresult cuModuleGetGlobal_v2(CUdeviceptr *p, size_t *n, CUmodule m, const char *name) {
    TRACE;
    Module *module = (Module *)m;
    for (int i = 0; i < module->n_globals; i++)
        if (!strcmp(module->globals[i].name, name)) {
            *p = *module->globals[i].device;
            if (n) *n = module->globals[i].bytes;
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_NOT_FOUND;
}
