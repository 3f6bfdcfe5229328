/* What the units of the emulated driver and runtime share. */
#ifndef DEVICE_H
#define DEVICE_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "emulated.h"

#define API __attribute__((visibility("default")))
#define PAGE 4096UL
#define WINDOW EMU_SHADOW
#define MOST_DEVICES 8

/* settings.c */
extern struct settings {
    int devices, driver_version, late, order_down, quiet_set;
    size_t total_memory;
    long fault_at, oom_at, refuse_at;
    FILE *log_file;
    char cache_dir[512], own_dir[512];
} settings;
double now(void);                       /* seconds of a clock that only goes forward */
void complain(const char *format, ...); /* one line on stderr */

/* One lock around every call. */
extern pthread_mutex_t big;
#define LOCK pthread_mutex_lock(&big)
#define UNLOCK pthread_mutex_unlock(&big)
extern int captures; /* how many streams are being captured */
extern int sticky;   /* a CUresult that every later call returns, or 0 */
extern __thread int device_now;
/* The first word of each function of the API: the log tells what is called while a stream is captured. */
#define TRACE                                                                                                          \
    do {                                                                                                               \
        if (captures) emu_log("under capture: %s", __func__);                                                          \
    } while (0)

/* memory.c */
typedef struct {
    uint64_t base, start, bytes, span; /* of its pages; of the block; its pages and the unmapped one after them */
    int pinned, device;
} Block;
extern char *window_base;
extern size_t used_memory[MOST_DEVICES];
extern int loading; /* a module's globals are allocated: EMULATED_GPU_OOM_AT does not count them */
int in_window(const void *p);
Block *block_of(const void *p);
int device_range(const void *p, size_t bytes);
int allocate(uint64_t *out, size_t bytes, int pinned);
int release(uint64_t p);

/* faults.c, fibers.c */
extern volatile int in_op;
void fault(int code, const char *format, ...) __attribute__((noreturn));
int run_op(emu_op *op);
void run_block_fibers(const emu_kernel *k, emu_thread base, int count);

/* queues.c */
typedef struct Node {
    struct Node *next;
    uint64_t seq, wait_seq[4];
    struct Stream *wait_on[4];
    int waits;
    emu_op op;
} Node;

typedef struct Graph {
    int count, cap, refs;
    emu_op **ops;
} Graph;

typedef struct Stream {
    uint64_t queued, done; /* the numbers of its last operation, and of the last one that ran */
    Node *head, *tail;
    unsigned flags;
    int priority, busy, dead, device;
    int capturing, mode; /* cudaStreamCaptureStatus, cudaStreamCaptureMode */
    Graph *graph;
    int origin; /* whether the capture began here */
    struct Stream *next;
} Stream;

typedef struct Event {
    Stream *stream;
    uint64_t seq;
    double at;
    int recorded;
    Graph *captured_in;
    unsigned flags;
} Event;

extern Stream null_stream; /* the legacy stream, and after it all others */
#define streams (&null_stream)
Stream *stream_of(void *p);
int run_until(Stream *s, uint64_t seq);
int run_all(void);
int wait_for(Stream *s);
void invalidate(Stream *s);
void invalidate_all(void);
int legacy_forbidden(void);
Node *append(Stream *s, size_t bytes);

/* runtime.c */
cudaError_t say(int code);
int started(void);
int unsafe(void);

/* modules.c */
typedef struct {
    const emu_kernel *k;
    int max_dynamic_shared;
} Function;
int ready(void);

/* cub.c: functions of CuPy's extensions that are replaced, up to a NULL */
extern const struct replacement {
    const char *name;
    void *to;
} CUB[];

#define D(call)                                                                                                        \
    CUresult code_;                                                                                                    \
    LOCK;                                                                                                              \
    code_ = (CUresult)(call);                                                                                          \
    UNLOCK;                                                                                                            \
    return code_
#define R(call)                                                                                                        \
    int code_;                                                                                                         \
    LOCK;                                                                                                              \
    code_ = (call);                                                                                                    \
    UNLOCK;                                                                                                            \
    return say(code_)
#endif
