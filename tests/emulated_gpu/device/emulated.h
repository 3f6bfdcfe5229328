/* What the device, the emulated cuBLAS and the translated kernels share. */
#ifndef EMULATED_H
#define EMULATED_H
#include <stddef.h>
#include <stdint.h>

/* A device address p is never mapped for the host: its bytes lie at p + EMU_SHADOW, which only kernels add. */
#define EMU_SHADOW 0x1000000000ULL /* 64 GiB */
static inline void *emu_real(uint64_t p) { return (void *)(p + EMU_SHADOW); }

typedef struct emu_thread {
    uint32_t tid[3], ntid[3], ctaid[3], nctaid[3];
    uint32_t linear, lane, warp;
    const char *params;
    char *shared;
    uint32_t dynamic_shared;
    void *fiber;
} emu_thread;

typedef struct {
    const char *name;
    void (*body)(emu_thread *);
    uint32_t param_bytes, params;
    const uint32_t *param_offset, *param_size;
    uint32_t static_shared;
    int barriers; /* whether its threads wait for each other */
} emu_kernel;

typedef struct {
    const char *name;
    void *address; /* of its first bytes in the library; they are copied to the device */
    size_t bytes;
    uint64_t *device; /* where the kernels find its device address */
} emu_global;

/* Services to translated kernels: fibers.c */
void emu_barrier(emu_thread *, uint32_t id, uint32_t count);
uint32_t emu_barrier_red(emu_thread *, uint32_t id, uint32_t count, int kind, uint32_t pred); /* 0 popc 1 and 2 or */
uint32_t emu_shfl(emu_thread *, int mode, uint32_t a, uint32_t b, uint32_t c, uint32_t mask, uint32_t *in_range);
uint32_t emu_vote(emu_thread *, int mode, uint32_t pred, uint32_t mask);
uint32_t emu_redux(emu_thread *, int mode, uint32_t a, uint32_t mask);
uint32_t emu_match_any(emu_thread *, uint64_t a, uint32_t mask);
void emu_warpsync(emu_thread *, uint32_t mask);
uint32_t emu_activemask(emu_thread *);
void emu_trap(emu_thread *, const char *why);
int emu_vprintf(const char *format, const char *arguments);

/* Services to cuBLAS: an operation on a stream begins with this head. */
typedef struct emu_op {
    int (*run)(struct emu_op *); /* 0, or a CUresult */
    const char *what;
    size_t bytes;
} emu_op;
int emu_submit(void *stream, emu_op *op, size_t bytes); /* copies the operation */
int emu_is_capturing(void *stream);
int emu_stream_elsewhere(void *stream);
int emu_device_now(void);
int emu_of_other_device(const void *p);
void emu_log(const char *format, ...);
#endif
