/* CuPy's extensions hold the CUDA runtime statically. When one is loaded, each of its functions is led here by a jump. */
#include "device.h"
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/stat.h>

static int unimplemented(const char *name) {
    complain("%s is not emulated", name);
    return say(cudaErrorNotSupported);
}

static void jump(char *at, void *to, const char *name) {
    unsigned char code[32];
    int n = 0;
    if (name) {
        code[n++] = 0x48;
        code[n++] = 0xBF;
        memcpy(code + n, &name, 8);
        n += 8;
    } /* mov rdi, name */
    code[n++] = 0x49;
    code[n++] = 0xBB;
    memcpy(code + n, &to, 8);
    n += 8; /* mov r11, to */
    code[n++] = 0x41;
    code[n++] = 0xFF;
    code[n++] = 0xE3; /* jmp r11 */
    char *page = (char *)((uint64_t)at & ~(PAGE - 1));
    mprotect(page, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    memcpy(at, code, n);
    mprotect(page, 2 * PAGE, PROT_READ | PROT_EXEC);
}

/* CuPy links the CUDA runtime statically. Its functions are still named in the file, so each is led here. */
static void patch(const char *path, uint64_t base) {
    int fd = open(path, O_RDONLY), runtime = strstr(path, "/runtime.") != NULL, replaced = 0;
    struct stat info;
    if (fd < 0 || fstat(fd, &info)) return;
    char *file = mmap(NULL, info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (file == MAP_FAILED) return;
    Elf64_Ehdr *head = (Elf64_Ehdr *)file;
    Elf64_Shdr *sections = (Elf64_Shdr *)(file + head->e_shoff);
    for (int i = 0; i < head->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        Elf64_Sym *symbols = (Elf64_Sym *)(file + sections[i].sh_offset);
        const char *names = file + sections[sections[i].sh_link].sh_offset;
        for (size_t k = 0; k < sections[i].sh_size / sizeof *symbols; k++) {
            if (ELF64_ST_TYPE(symbols[k].st_info) != STT_FUNC || !symbols[k].st_value) continue;
            const char *name = names + symbols[k].st_name;
            char *at = (char *)base + symbols[k].st_value;
            if (!strncmp(name, "_Z", 2) || !strncmp(name, "cub_", 4))
                for (int c = 0; CUB[c].name; c++)
                    if (!strcmp(name, CUB[c].name)) {
                        jump(at, CUB[c].to, NULL);
                        replaced++;
                    }
            if (strncmp(name, "cuda", 4) || name[4] < 'A' || name[4] > 'Z' || symbols[k].st_size < 32) continue;
            if (!strncmp(name, "cudaGetError", 12) || !strcmp(name, "cudaRuntimeGetVersion")) continue;
            void *to = dlsym(RTLD_DEFAULT, name);
            Dl_info whose;
            if (to && dladdr(to, &whose) && strstr(whose.dli_fname, settings.own_dir)) {
                jump(at, to, NULL);
                replaced++;
            } else if (runtime)
                jump(at, unimplemented, strdup(name));
        }
    }
    munmap(file, info.st_size);
    emu_log("# %d functions of %s are emulated", replaced, path);
}

__attribute__((noinline)) static void after_dlopen(void *handle, const char *path) {
    static const char *seen[64];
    static int n;
    if (!strstr(path, "/cupy")) return;
    struct link_map *map;
    if (dlinfo(handle, RTLD_DI_LINKMAP, &map)) return;
    for (int i = 0; i < n; i++)
        if (seen[i] == (const char *)map) return;
    if (n < 64) seen[n++] = (const char *)map;
    patch(path, map->l_addr);
}

static void *(*real_dlopen)(const char *, int);
__attribute__((optimize("O2"))) API void *dlopen(const char *path, int mode) {
    if (!real_dlopen) real_dlopen = dlsym(RTLD_NEXT, "dlopen");
    if (path &&
        (strstr(path, "cuda/api/runtime.") || strstr(path, "cupy/cuda/cub.") || strstr(path, "cupy/cuda/thrust.") ||
         strstr(path, "cupy/cuda/jitify.") || strstr(path, "random/_generator_api."))) {
        void *handle = real_dlopen(path, mode);
        if (handle) after_dlopen(handle, path);
        return handle;
    }
    return real_dlopen(path, mode); /* a jump: the library's own search path is that of the caller */
}
