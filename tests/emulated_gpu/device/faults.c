/* One operation of a queue, run so that a fault of its own becomes a CUresult that stays ("sticky"). */
#include "device.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>

volatile int in_op;
static sigjmp_buf fault_jump;
static char fault_text[256];

void fault(int code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(fault_text, sizeof fault_text, format, args);
    va_end(args);
    siglongjmp(fault_jump, code);
}

API void emu_trap(emu_thread *t, const char *why) { fault(CUDA_ERROR_LAUNCH_FAILED, "trap: %s", why); }

static struct sigaction old_segv, old_bus;
static int handlers;

static void on_segv(int sig, siginfo_t *info, void *context) {
    if (in_op && sig == SIGSEGV) {
        uint64_t a = (uint64_t)info->si_addr;
        snprintf(fault_text, sizeof fault_text, "an illegal address: %#lx (device address %#lx%s)", a,
                 (uint64_t)(a - EMU_SHADOW),
                 window_base && a - EMU_SHADOW - (uint64_t)window_base < WINDOW ? "" : ", not of the device");
        siglongjmp(fault_jump, CUDA_ERROR_ILLEGAL_ADDRESS);
    }
    struct sigaction *old = sig == SIGSEGV ? &old_segv : &old_bus;
    if (in_window(info->si_addr)) {
        static const char text[] = "emulated GPU: the host touched device memory\n";
        (void)!write(2, text, sizeof text - 1);
    }
    sigaction(sig, old, NULL); /* comes again and is then theirs */
    handlers = 0;
}

/* 0, or the CUresult that every later call returns too. */
int run_op(emu_op *op) {
    static long count;
    if (sticky) return sticky;
    if (++count == settings.fault_at) return sticky = CUDA_ERROR_ILLEGAL_ADDRESS;
    static __thread char *alternative; /* a kernel may fault on the last page of its fiber's stack */
    if (!alternative) {
        stack_t stack = {.ss_sp = alternative = malloc(1 << 16), .ss_size = 1 << 16};
        sigaltstack(&stack, NULL);
    }
    if (!handlers) {
        struct sigaction action = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
        sigaction(SIGSEGV, &action, &old_segv);
        handlers = 1;
    }
    int outer = in_op, code;
    sigjmp_buf saved;
    memcpy(&saved, &fault_jump, sizeof saved);
    if (!(code = sigsetjmp(fault_jump, 1))) {
        in_op = 1;
        code = op->run(op);
    } else {
        complain("%s: %s", op->what, fault_text);
    }
    in_op = outer;
    memcpy(&fault_jump, &saved, sizeof saved);
    if (code) {
        sticky = code;
        emu_log("# fault %d in %s", code, op->what);
    }
    return code;
}
