/* The settings, read from the environment when the library is loaded (README.md lists them), and the log. */
#include "device.h"
#include <dlfcn.h>
#include <stdarg.h>
#include <time.h>

struct settings settings = {.devices = 1, .driver_version = 12090, .total_memory = 4UL << 30};
pthread_mutex_t big = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
int captures, sticky;
__thread int device_now;

double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

API void emu_log(const char *format, ...) {
    if (!settings.log_file) return;
    va_list args;
    va_start(args, format);
    vfprintf(settings.log_file, format, args);
    va_end(args);
    fputc('\n', settings.log_file);
    fflush(settings.log_file);
}

void complain(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "emulated GPU: ");
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

static const char *text(const char *name, const char *otherwise) {
    char full[64];
    snprintf(full, sizeof full, "EMULATED_GPU_%s", name);
    const char *found = getenv(full);
    return found ? found : otherwise;
}

static long number(const char *name, long otherwise) {
    const char *found = text(name, NULL);
    return found ? strtol(found, NULL, 0) : otherwise;
}

__attribute__((constructor)) static void begin(void) {
    settings.devices = number("DEVICES", settings.devices);
    if (settings.devices > MOST_DEVICES) settings.devices = MOST_DEVICES;
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (visible && (!*visible || *visible == '-')) settings.devices = 0;
    settings.driver_version = number("DRIVER", settings.driver_version);
    settings.total_memory = number("MEMORY", settings.total_memory);
    settings.late = !strcmp(text("QUEUE", "eager"), "late");
    settings.order_down = !strcmp(text("ORDER", "up"), "down");
    settings.quiet_set = !strcmp(text("SETDEVICE", "loud"), "quiet");
    settings.fault_at = number("FAULT_AT", 0);
    settings.oom_at = number("OOM_AT", 0);
    settings.refuse_at = number("REFUSE_AT", 0);
    const char *log = text("LOG", NULL);
    if (log) settings.log_file = fopen(log, "a");
    Dl_info info;
    dladdr((void *)begin, &info);
    snprintf(settings.own_dir, sizeof settings.own_dir, "%s", info.dli_fname);
    *strrchr(settings.own_dir, '/') = 0;
    snprintf(settings.cache_dir, sizeof settings.cache_dir, "%s", text("KERNELS", settings.own_dir));
}
