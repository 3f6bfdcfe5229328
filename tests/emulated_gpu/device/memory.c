/* Device memory. A block is mapped EMU_SHADOW above its device address, so the host faults where it touches one;
 * it ends at an unmapped page, begins as NaN (all bits set), and a freed address stays dead for long. */
#include "device.h"

char *window_base;
size_t used_memory[MOST_DEVICES];
int loading;
static Block *blocks; /* in the order of their addresses */
static int n_blocks, cap_blocks;
static uint64_t cursor;

int in_window(const void *p) { return window_base && (char *)p >= window_base && (char *)p < window_base + WINDOW; }

static void open_window(void) {
    if (window_base) return;
    char *p = mmap(NULL, 2 * WINDOW, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        complain("no address space");
        abort();
    }
    window_base = p;
    cursor = (uint64_t)p + PAGE;
}

/* index of the first block with base >= at */
static int block_at(uint64_t at) {
    int low = 0, high = n_blocks;
    while (low < high) {
        int middle = (low + high) / 2;
        if (blocks[middle].base < at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

Block *block_of(const void *p) {
    int i = block_at((uint64_t)p + 1) - 1;
    if (i < 0) return NULL;
    Block *b = &blocks[i];
    return (uint64_t)p >= b->start && (uint64_t)p < b->start + b->bytes ? b : NULL;
}

int allocate(uint64_t *out, size_t bytes, int pinned) {
    open_window();
    size_t rounded = (bytes + 255) & ~255UL, pages = (rounded + PAGE - 1) & ~(PAGE - 1), span = pages + PAGE;
    static long count;
    if (!pinned && used_memory[device_now] + pages > settings.total_memory) return CUDA_ERROR_OUT_OF_MEMORY;
    if (!pinned && settings.oom_at && !loading && ++count >= settings.oom_at) return CUDA_ERROR_OUT_OF_MEMORY;
    uint64_t end = (uint64_t)window_base + WINDOW, base = cursor;
    for (int turn = 0; turn < 2; turn++) { /* always onwards, so that freed addresses stay dead for long */
        int i = block_at(base);
        for (; i < n_blocks && blocks[i].base < base + span; i++) base = blocks[i].base + blocks[i].span;
        if (base + span <= end) break;
        if (turn) return CUDA_ERROR_OUT_OF_MEMORY;
        base = (uint64_t)window_base + PAGE;
    }
    if (pinned) {
        int fd = memfd_create("emulated-gpu-pinned", 0);
        if (fd < 0 || ftruncate(fd, pages)) return CUDA_ERROR_OUT_OF_MEMORY;
        mmap((void *)base, pages, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
        mmap((void *)(base + EMU_SHADOW), pages, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
        close(fd);
    } else {
        void *p = mmap((void *)(base + EMU_SHADOW), pages, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
        if (pages <= (256UL << 20)) memset(p, 0xFF, pages); /* NaN, -1: nobody may rely on zeros */
        used_memory[device_now] += pages;
    }
    if (n_blocks == cap_blocks) blocks = realloc(blocks, (cap_blocks = cap_blocks * 2 + 64) * sizeof *blocks);
    int i = block_at(base);
    memmove(blocks + i + 1, blocks + i, (n_blocks - i) * sizeof *blocks);
    /* at the end of the pages: what is read or written beyond it is a fault */
    blocks[i] = (Block){base, base + pages - rounded, bytes ? bytes : 1, span, pinned, device_now};
    n_blocks++;
    cursor = base + span;
    *out = blocks[i].start;
    return 0;
}

int release(uint64_t p) {
    Block *b = block_of((void *)p);
    if (!b || b->start != p) return CUDA_ERROR_INVALID_VALUE;
    size_t pages = b->span - PAGE;
    mmap((void *)(b->base + EMU_SHADOW), pages, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
         0);
    if (b->pinned)
        mmap((void *)b->base, pages, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    else
        used_memory[b->device] -= pages;
    int i = b - blocks;
    memmove(blocks + i, blocks + i + 1, (n_blocks - i - 1) * sizeof *blocks);
    n_blocks--;
    return 0;
}

/* Whether a kernel of the current device may be given this address: there is no access between settings.devices. */
API int emu_device_now(void) { return device_now; }

API int emu_of_other_device(const void *p) {
    Block *b = in_window(p) ? block_of(p) : NULL;
    return b && !b->pinned && b->device != device_now;
}

int device_range(const void *p, size_t bytes) {
    if (!bytes) return 1;
    Block *b = block_of(p);
    return b && (uint64_t)p + bytes <= b->start + ((b->bytes + 255) & ~255UL);
}
