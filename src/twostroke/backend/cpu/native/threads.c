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

/* For each thread a ticket (generation, end, next task): a thread that increments it owns the task that it read. `first` is
   what it was when the job began. */
static struct { _Alignas(64) _Atomic uint64_t value, first; } tickets[MOST_THREADS];
static atomic_long unfinished, asleep;
static run_task *the_task;
static const void *the_argument;
static pthread_mutex_t sleep_mutex = PTHREAD_MUTEX_INITIALIZER, pool_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static _Thread_local int wanted = 1; /* of this caller's work, its own thread included */
static atomic_int job_threads = 1;
/* Cycles: some 400 through a common cache of AMD's processors, 2,000 without one; 1,000 through that of Intel's, whose cores
   keep more to themselves. */
enum { FAR = 700, ASLEEP = 20000, SURE = 64 };
static _Atomic uint64_t job_began;              /* in cycles */
static atomic_int far_apart;                    /* 0 to SURE: up for each worker that took longer than FAR, else down */
static atomic_int started = 1;

#define LOW(ticket) ((ticket) & ((1u << BITS) - 1))
static inline int64_t left(uint64_t ticket) { return (int64_t)LOW(ticket >> BITS) - (int64_t)LOW(ticket); }
static inline int has_task(uint64_t ticket) { return left(ticket) > 0; }

static void note_handover(void) {
    uint64_t cycles = __builtin_ia32_rdtsc() - atomic_load_explicit(&job_began, memory_order_relaxed);
    int before = atomic_load_explicit(&far_apart, memory_order_relaxed), after = before + (cycles > FAR ? 1 : -1);
    if (cycles < ASLEEP && after >= 0 && after <= SURE) atomic_store_explicit(&far_apart, after, memory_order_relaxed);
}

static void work(int number) {
    int patient = atomic_load_explicit(&far_apart, memory_order_relaxed) > SURE / 2;
    for (int i = 0, threads = atomic_load_explicit(&job_threads, memory_order_relaxed); i < threads; i++) {
        int other = (number + i) % threads;
        _Atomic uint64_t *ticket = &tickets[other].value;
        uint64_t first = atomic_load_explicit(&tickets[other].first, memory_order_relaxed), last = first;
        long done = 0; /* told once: every write to `unfinished` takes its cache line from the other threads */
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
            the_task(the_argument, (word)LOW(mine));
            done++;
        }
        if (done) atomic_fetch_sub(&unfinished, done);
    }
}

static void *worker(void *argument) {
    int number = (int)(intptr_t)argument, spins = 0;
    flush_subnormals();
    for (;;) {
        if (has_task(atomic_load(&tickets[number].value))) {
            note_handover();
            work(number);
            spins = 0;
        } else if (++spins < SPINS) {
            __builtin_ia32_pause();
        } else {
            pthread_mutex_lock(&sleep_mutex);
            atomic_fetch_add(&asleep, 1);
            if (!has_task(atomic_load(&tickets[number].value))) pthread_cond_wait(&wake, &sleep_mutex);
            atomic_fetch_sub(&asleep, 1);
            pthread_mutex_unlock(&sleep_mutex);
            spins = 0;
        }
    }
    return NULL;
}

/* A forked child has no workers, and the mutexes in whatever state they were. */
static void after_fork(void) {
    started = 1;
    atomic_store(&asleep, 0);
    for (int i = 0; i < MOST_THREADS; i++) atomic_store(&tickets[i].value, 0);
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
    if (threads > atomic_load(&started)) {
        pthread_mutex_lock(&pool_mutex);
        if (!forks_are_watched++) pthread_atfork(NULL, NULL, after_fork);
        while (started < threads && start_worker(started)) started++;
        pthread_mutex_unlock(&pool_mutex);
        if (threads > started) threads = started;
    }
    wanted = threads;
}

word twostroke_threads(void) { return wanted; }

/* A caller that finds the pool at work for another one does not wait: it runs its tasks itself. */
void parallel_for(run_task *run, const void *argument, word count, int worth) {
    if (worth && wanted > atomic_load_explicit(&started, memory_order_relaxed)) twostroke_set_threads(wanted); /* forked */
    if (!worth || count < 2 || count >= 1 << BITS || wanted == 1 || pthread_mutex_trylock(&pool_mutex)) {
        for (word i = 0; i < count; i++) run(argument, i);
        return;
    }
    int threads = wanted;
    atomic_store(&job_threads, threads);
    the_task = run, the_argument = argument;
    atomic_store_explicit(&job_began, __builtin_ia32_rdtsc(), memory_order_relaxed);
    atomic_store(&unfinished, count);
    for (int i = 0; i < threads; i++) {
        uint64_t generation = (atomic_load(&tickets[i].value) >> 2 * BITS) + 1;
        uint64_t next = (uint64_t)(count * i / threads), end = (uint64_t)(count * (i + 1) / threads);
        uint64_t ticket = generation << 2 * BITS | end << BITS | next;
        atomic_store_explicit(&tickets[i].first, ticket, memory_order_relaxed);
        atomic_store(&tickets[i].value, ticket);
    }
    if (atomic_load(&asleep)) {
        pthread_mutex_lock(&sleep_mutex);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&sleep_mutex);
    }
    work(0);
    for (int spins = 0; atomic_load(&unfinished); __builtin_ia32_pause())
        if (++spins > SPINS) sched_yield(); /* the thread that has the last task may be waiting for a core */
    pthread_mutex_unlock(&pool_mutex);
}
