/* A pool of worker threads, and parallel_for. Each thread begins with its own part of the tasks, always the same one, so
   that its part of the weights is in its own cache; then it helps with the others' parts: a thread that has lost its core
   delays only the one task that it has begun. But taken by another thread a task's memory moves from cache to cache, there
   and back. So the last task of a part is left to its thread for a while, and all of them where cores share no cache, as
   long as that thread goes on working. Whether they do shows in the time in which a worker finds its part: it may change. */
#include "library.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

enum { MOST_THREADS = 64, SPINS = 4000, BITS = 20, PATIENCE = 6, LONG_PATIENCE = 300, PAUSES = 16 };

/* Each thread's part of the job. A thread that increments a ticket (generation, end, next task) owns the task that it read;
   `first` is the ticket, and `began` the time in cycles, when the job began. All that a thread must know lies together, and
   what it tells elsewhere: each crosses over to another core once. (Processors fetch lines of 64 bytes in pairs.) */
static struct {
    _Alignas(128) _Atomic uint64_t ticket, first, began;
    run_task *run;
    const void *argument;
    atomic_int threads;
} parts[MOST_THREADS];
static struct { _Alignas(128) atomic_long tasks; } finished[MOST_THREADS]; /* by a worker, ever */
static struct { _Alignas(128) atomic_long asleep; atomic_int far_apart, started; } all = {.started = 1};
static long finished_before, generation;         /* by all workers; of the job: changed with the pool's mutex */
static _Alignas(128) pthread_mutex_t sleep_mutex = PTHREAD_MUTEX_INITIALIZER, pool_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static _Thread_local int wanted = 1; /* of this caller's work, its own thread included */
/* Cycles: 300 to 600 on an Intel Xeon, whose cores share a cache but keep much to themselves. This form was not measured on
   AMD's processors; in the form before it was 1,000 on Intel's, 400 through a common cache of AMD's, 2,000 without one. */
enum { FAR = 250, ASLEEP = 20000, SURE = 64 };

#define LOW(ticket) ((ticket) & ((1u << BITS) - 1))
static inline int64_t left(uint64_t ticket) { return (int64_t)LOW(ticket >> BITS) - (int64_t)LOW(ticket); }
static inline int has_task(uint64_t ticket) { return left(ticket) > 0; }

/* `far_apart`, 0 to SURE, goes up for each worker that took longer than FAR, else down. */
static void note_handover(int number) {
    uint64_t cycles = __builtin_ia32_rdtsc() - atomic_load_explicit(&parts[number].began, memory_order_relaxed);
    int before = atomic_load_explicit(&all.far_apart, memory_order_relaxed), after = before + (cycles > FAR ? 1 : -1);
    if (cycles < ASLEEP && after >= 0 && after <= SURE) atomic_store_explicit(&all.far_apart, after, memory_order_relaxed);
}

/* Returns how many tasks it ran. */
static long work(int number) {
    int patient = atomic_load_explicit(&all.far_apart, memory_order_relaxed) > SURE / 2;
    long ran = 0;
    for (int i = 0, threads = atomic_load_explicit(&parts[number].threads, memory_order_relaxed); i < threads; i++) {
        int other = (number + i) % threads;
        _Atomic uint64_t *ticket = &parts[other].ticket;
        uint64_t first = atomic_load_explicit(&parts[other].first, memory_order_relaxed), last = first;
        long done = 0; /* told once: the caller waits for it, and every write takes the cache line from it */
        for (int polls = 0;;) {
            uint64_t seen = atomic_load(ticket);
            if (!has_task(seen)) break;
            if (seen != last) last = seen, polls = 0; /* its thread goes on working */
            int most = patient && seen != first ? LONG_PATIENCE : patient || left(seen) == 1 ? PATIENCE : 0;
            if (i && polls++ < most) {
                for (int pause = 0; pause < PAUSES; pause++) __builtin_ia32_pause();
                continue;
            }
            uint64_t mine = atomic_fetch_add(ticket, 1);
            if (!has_task(mine)) break;
            last = mine + 1, first = mine == first ? last : first;
            parts[other].run(parts[other].argument, (word)LOW(mine)); /* of a job that cannot end before this task */
            done++;
        }
        ran += done;
        if (done && number) atomic_fetch_add(&finished[number].tasks, done);
    }
    return ran;
}

static void *worker(void *argument) {
    int number = (int)(intptr_t)argument, spins = 0;
    flush_subnormals();
    for (;;) {
        if (has_task(atomic_load(&parts[number].ticket))) {
            note_handover(number);
            work(number);
            spins = 0;
        } else if (++spins < SPINS) {
            __builtin_ia32_pause();
        } else {
            pthread_mutex_lock(&sleep_mutex);
            atomic_fetch_add(&all.asleep, 1);
            if (!has_task(atomic_load(&parts[number].ticket))) pthread_cond_wait(&wake, &sleep_mutex);
            atomic_fetch_sub(&all.asleep, 1);
            pthread_mutex_unlock(&sleep_mutex);
            spins = 0;
        }
    }
    return NULL;
}

/* A forked child has no workers, and the mutexes in whatever state they were. */
static void after_fork(void) {
    all.started = 1, finished_before = 0;
    atomic_store(&all.asleep, 0);
    for (int i = 0; i < MOST_THREADS; i++) atomic_store(&parts[i].ticket, 0), atomic_store(&finished[i].tasks, 0);
    sleep_mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    pool_mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    wake = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

/* Workers inherit a mask that blocks every signal: signals go to the threads of the program. */
static int start_worker(int number) {
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, NULL, worker, (void *)(intptr_t)number);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return !failed && !pthread_detach(thread);
}

/* The number of threads of this thread's work from now on, itself included. It is the caller's own: what another thread
   sets does not change it. */
void twostroke_set_threads(word count) {
    static int forks_are_watched;
    int threads = (int)(count < 1 ? 1 : count > MOST_THREADS ? MOST_THREADS : count);
    if (threads > atomic_load(&all.started)) {
        pthread_mutex_lock(&pool_mutex);
        if (!forks_are_watched++) pthread_atfork(NULL, NULL, after_fork);
        while (all.started < threads && start_worker(all.started)) all.started++;
        pthread_mutex_unlock(&pool_mutex);
        if (threads > all.started) threads = all.started;
    }
    wanted = threads;
}

word twostroke_threads(void) { return wanted; }

/* Any of them may have helped: also one that this job did not count on, if it was late. */
static long finished_by_workers(void) {
    long tasks = 0;
    for (int i = 1; i < all.started; i++) tasks += atomic_load_explicit(&finished[i].tasks, memory_order_acquire);
    return tasks;
}

/* A caller that finds the pool at work for another one does not wait: it runs its tasks itself. */
void parallel_for(run_task *run, const void *argument, word count, int worth) {
    if (worth && wanted > atomic_load_explicit(&all.started, memory_order_relaxed)) twostroke_set_threads(wanted); /* forked */
    if (!worth || count < 2 || count >= 1 << BITS || wanted == 1 || pthread_mutex_trylock(&pool_mutex)) {
        for (word i = 0; i < count; i++) run(argument, i);
        return;
    }
    uint64_t began = __builtin_ia32_rdtsc();
    generation++;
    for (int threads = wanted, i = threads - 1; i >= 0; i--) {
        uint64_t next = (uint64_t)(count * i / threads), end = (uint64_t)(count * (i + 1) / threads);
        uint64_t ticket = (uint64_t)generation << 2 * BITS | end << BITS | next;
        parts[i].run = run, parts[i].argument = argument;
        atomic_store_explicit(&parts[i].began, began, memory_order_relaxed);
        atomic_store_explicit(&parts[i].threads, threads, memory_order_relaxed);
        atomic_store_explicit(&parts[i].first, ticket, memory_order_relaxed);
        atomic_store_explicit(&parts[i].ticket, ticket, memory_order_release);
    }
    if (atomic_fetch_add(&all.asleep, 0)) { /* which is read after the tickets were written */
        pthread_mutex_lock(&sleep_mutex);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&sleep_mutex);
    }
    finished_before += count - work(0);
    for (int spins = 0; finished_by_workers() != finished_before; __builtin_ia32_pause())
        if (++spins > SPINS) sched_yield(); /* the thread that has the last task may be waiting for a core */
    pthread_mutex_unlock(&pool_mutex);
}
