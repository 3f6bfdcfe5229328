/* The threads of a block as fibers: each runs until it waits for the others, at a barrier or in its warp. */
#include "device.h"

typedef struct Fiber {
    void *sp;
    emu_thread t;
    int state; /* 0 ready, 1 waits at a barrier, 2 waits in its warp, 3 done */
    uint32_t bar_id, bar_count, bar_pred, bar_result;
    int bar_kind;
    int w_kind;
    uint32_t w_mask, w_a, w_b, w_c, w_result, w_ok;
    uint64_t w_wide;
    char *stack;
} Fiber;

#define STACK (64 << 10)
static Fiber *fibers;
static int n_fibers, live_fibers;
static void *scheduler_sp;
static Fiber *current_fiber;
static const emu_kernel *current_kernel;

void emu_switch(void **save, void *load);
__asm__(".text\n.globl emu_switch\n.hidden emu_switch\nemu_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

static void to_scheduler(void) {
    Fiber *f = current_fiber;
    emu_switch(&f->sp, scheduler_sp);
}

static void fiber_main(void) {
    Fiber *f = current_fiber;
    current_kernel->body(&f->t);
    f->state = 3;
    live_fibers--;
    to_scheduler();
    __builtin_trap();
}

static void release_barriers(uint32_t id) {
    /* all threads that live stand at this barrier (or the number that it names) */
    uint32_t waiting = 0, want = live_fibers, popc = 0, all = 1, any = 0;
    for (int i = 0; i < n_fibers; i++)
        if (fibers[i].state == 1 && fibers[i].bar_id == id) {
            waiting++;
            if (fibers[i].bar_count) want = fibers[i].bar_count;
            popc += fibers[i].bar_pred;
            all &= fibers[i].bar_pred;
            any |= fibers[i].bar_pred;
        }
    if (!waiting || waiting < want) return;
    for (int i = 0; i < n_fibers; i++)
        if (fibers[i].state == 1 && fibers[i].bar_id == id) {
            int kind = fibers[i].bar_kind;
            fibers[i].bar_result = kind == 0 ? popc : kind == 1 ? all : any;
            fibers[i].state = 0;
        }
}

API uint32_t emu_barrier_red(emu_thread *t, uint32_t id, uint32_t count, int kind, uint32_t pred) {
    Fiber *f = t->fiber;
    f->state = 1;
    f->bar_id = id;
    f->bar_count = count;
    f->bar_kind = kind;
    f->bar_pred = pred;
    to_scheduler();
    return f->bar_result;
}

API void emu_barrier(emu_thread *t, uint32_t id, uint32_t count) { emu_barrier_red(t, id, count, 0, 0); }

enum { W_SYNC, W_SHFL, W_VOTE = 8, W_REDUX = 16, W_MATCH = 32 };

static void finish_warp(Fiber *warp, uint32_t mask, int kind) {
    uint32_t ballot = 0, sum = 0, and = ~0u, or = 0, xor = 0, umin = ~0u, umax = 0;
    int32_t smin = INT32_MAX, smax = INT32_MIN;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) {
            uint32_t a = warp[i].w_a;
            if (a) ballot |= 1u << i;
            sum += a;
            and &= a;
            or |= a;
            xor ^= a;
            if (a < umin) umin = a;
            if (a > umax) umax = a;
            if ((int32_t)a < smin) smin = a;
            if ((int32_t)a > smax) smax = a;
        }
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        Fiber *f = &warp[i];
        if (kind >= W_SHFL && kind < W_VOTE) {
            int mode = kind - W_SHFL, b = f->w_b & 31, clamp = f->w_c & 31, seg = f->w_c >> 8 & 31;
            int max = (i & seg) | (clamp & ~seg), min = i & seg, j = 0, ok = 0;
            switch (mode) {
            case 0:
                j = i - b;
                ok = j >= max;
                break; /* up */
            case 1:
                j = i + b;
                ok = j <= max;
                break; /* down */
            case 2:
                j = i ^ b;
                ok = j <= max;
                break; /* bfly */
            case 3:
                j = min | (b & ~seg);
                ok = j <= max;
                break; /* idx */
            }
            if (!ok) j = i;
            if (!(mask >> j & 1)) fault(CUDA_ERROR_LAUNCH_FAILED, "shfl from lane %d, which is not in the mask", j);
            f->w_result = warp[j].w_a;
            f->w_ok = ok;
        } else if (kind >= W_VOTE && kind < W_REDUX) {
            int mode = kind - W_VOTE;
            f->w_result = mode == 0   ? ballot == mask
                          : mode == 1 ? ballot != 0
                          : mode == 2 ? ballot == 0 || ballot == mask
                                      : ballot;
        } else if (kind >= W_REDUX && kind < W_MATCH) {
            uint32_t values[] = {sum, umin, umax, and, or, xor, (uint32_t)smin, (uint32_t)smax};
            f->w_result = values[kind - W_REDUX];
        } else if (kind == W_MATCH) {
            uint32_t same = 0;
            for (int j = 0; j < 32; j++)
                if ((mask >> j & 1) && warp[j].w_wide == f->w_wide) same |= 1u << j;
            f->w_result = same;
        }
        f->state = 0;
    }
}

static void warp_op(emu_thread *t, int kind, uint32_t mask) {
    Fiber *f = t->fiber, *warp = f - t->lane;
    uint32_t there = 0, last = n_fibers - t->warp * 32;
    if (!(mask >> t->lane & 1)) fault(CUDA_ERROR_LAUNCH_FAILED, "a lane that is not in its own mask");
    for (uint32_t i = 0; i < 32 && i < last; i++)
        if (warp[i].state != 3) there |= 1u << i;
    mask &= there;
    f->w_kind = kind;
    f->w_mask = mask;
    f->state = 2;
    uint32_t arrived = 0;
    for (uint32_t i = 0; i < 32 && i < last; i++)
        if ((mask >> i & 1) && warp[i].state == 2 && warp[i].w_kind == kind && (warp[i].w_mask & there) == mask)
            arrived |= 1u << i;
    if (arrived == mask)
        finish_warp(warp, mask, kind);
    else
        to_scheduler();
}

API uint32_t emu_shfl(emu_thread *t, int mode, uint32_t a, uint32_t b, uint32_t c, uint32_t mask, uint32_t *ok) {
    Fiber *f = t->fiber;
    f->w_a = a;
    f->w_b = b;
    f->w_c = c;
    warp_op(t, W_SHFL + mode, mask);
    if (ok) *ok = f->w_ok;
    return f->w_result;
}
API uint32_t emu_vote(emu_thread *t, int mode, uint32_t pred, uint32_t mask) {
    Fiber *f = t->fiber;
    f->w_a = pred != 0;
    warp_op(t, W_VOTE + mode, mask);
    return f->w_result;
}
API uint32_t emu_redux(emu_thread *t, int mode, uint32_t a, uint32_t mask) {
    Fiber *f = t->fiber;
    f->w_a = a;
    warp_op(t, W_REDUX + mode, mask);
    return f->w_result;
}
API uint32_t emu_match_any(emu_thread *t, uint64_t a, uint32_t mask) {
    Fiber *f = t->fiber;
    f->w_wide = a;
    f->w_a = 0;
    warp_op(t, W_MATCH, mask);
    return f->w_result;
}
API void emu_warpsync(emu_thread *t, uint32_t mask) {
    ((Fiber *)t->fiber)->w_a = 0;
    warp_op(t, W_SYNC, mask);
}
API uint32_t emu_activemask(emu_thread *t) {
    Fiber *warp = (Fiber *)t->fiber - t->lane;
    uint32_t there = 0, last = n_fibers - t->warp * 32;
    for (uint32_t i = 0; i < 32 && i < last; i++)
        if (warp[i].state != 3) there |= 1u << i;
    return there;
}

void run_block_fibers(const emu_kernel *k, emu_thread base, int count) {
    if (!fibers) {
        fibers = calloc(1024, sizeof *fibers);
        char *stacks =
            mmap(NULL, 1024UL * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        for (int i = 0; i < 1024; i++) fibers[i].stack = stacks + (size_t)i * STACK;
    }
    n_fibers = live_fibers = count;
    current_kernel = k;
    for (int i = 0; i < count; i++) {
        Fiber *f = &fibers[i];
        char *stack = f->stack;
        memset(f, 0, sizeof *f);
        f->stack = stack;
        f->t = base;
        f->t.linear = i;
        f->t.lane = i & 31;
        f->t.warp = i >> 5;
        f->t.tid[0] = i % base.ntid[0];
        f->t.tid[1] = i / base.ntid[0] % base.ntid[1];
        f->t.tid[2] = i / (base.ntid[0] * base.ntid[1]);
        f->t.fiber = f;
        uint64_t *sp = (uint64_t *)(stack + STACK);
        *--sp = 0; /* so that the stack is aligned as after a call */
        *--sp = (uint64_t)fiber_main;
        sp -= 6;
        f->sp = sp;
    }
    while (live_fibers) {
        int ran = 0;
        for (int n = 0; n < count; n++) {
            int i = settings.order_down ? count - 1 - n : n;
            if (fibers[i].state != 0) continue;
            ran = 1;
            current_fiber = &fibers[i];
            emu_switch(&scheduler_sp, fibers[i].sp);
        }
        for (uint32_t id = 0; id < 16 && live_fibers; id++) release_barriers(id);
        if (!ran && live_fibers) {
            int stuck = 1;
            for (int i = 0; i < count; i++)
                if (fibers[i].state == 0) stuck = 0;
            /* lanes that ended while others waited for them */
            if (stuck)
                for (int i = 0; i < count && stuck; i++)
                    if (fibers[i].state == 2) {
                        Fiber *warp = &fibers[i & ~31];
                        uint32_t mask = 0, same = 0;
                        for (int j = 0; j < 32 && (i & ~31) + j < count; j++)
                            if (warp[j].state != 3) mask |= 1u << j;
                        mask &= fibers[i].w_mask;
                        for (int j = 0; j < 32; j++)
                            if ((mask >> j & 1) && warp[j].state == 2 && warp[j].w_kind == fibers[i].w_kind)
                                same |= 1u << j;
                        if (same == mask) {
                            finish_warp(warp, mask, fibers[i].w_kind);
                            stuck = 0;
                        }
                    }
            if (stuck)
                fault(CUDA_ERROR_LAUNCH_FAILED, "%s: %d threads wait for a barrier that the others do not reach",
                      k->name, live_fibers);
        }
    }
}

API int emu_vprintf(const char *format, const char *arguments) {
    complain("printf in a kernel: %s", format);
    return 0;
}
