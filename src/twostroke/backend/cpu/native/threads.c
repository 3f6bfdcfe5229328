/* Threads that share out tasks. Each begins with its own part, always the same one, so that it finds its part of the
   weights in its own cache, and then helps with the others': one that has lost its core holds up at most the task that
   it has begun. */

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

typedef int64_t word;
#define AT(w) ((char *)(intptr_t)(w))

enum { MOST_THREADS = 64, SPINS = 4000, BITS = 20 };

typedef void run_task(const void *, word);

/* For each thread a ticket (generation, end, next task): whoever adds one to it owns the task that it read. */
static struct {
    _Alignas(64) _Atomic uint64_t value;
} tickets[MOST_THREADS];
static atomic_long unfinished, asleep;
static run_task *the_task;
static const void *the_argument;
static pthread_mutex_t door = PTHREAD_MUTEX_INITIALIZER, in_use = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t bell = PTHREAD_COND_INITIALIZER;
static atomic_int wanted = 1;
static int started = 1;

static inline int has_task(uint64_t ticket) {
    uint64_t low = (1u << BITS) - 1;
    return (ticket & low) < (ticket >> BITS & low);
}

static inline void pause_a_little(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void work(int number) {
    for (int i = 0, threads = wanted; i < threads; i++) {
        _Atomic uint64_t *ticket = &tickets[(number + i) % threads].value;
        while (has_task(atomic_load(ticket))) {
            uint64_t mine = atomic_fetch_add(ticket, 1);
            if (!has_task(mine)) break;
            the_task(the_argument, (word)(mine & ((1u << BITS) - 1)));
            atomic_fetch_sub(&unfinished, 1);
        }
    }
}

static void *worker(void *argument) {
    int number = (int)(intptr_t)argument, spins = 0;
    for (;;) {
        if (number < wanted && has_task(atomic_load(&tickets[number].value))) {
            work(number);
            spins = 0;
        } else if (++spins < SPINS) {
            pause_a_little();
        } else {
            pthread_mutex_lock(&door);
            atomic_fetch_add(&asleep, 1);
            if (!has_task(atomic_load(&tickets[number].value))) pthread_cond_wait(&bell, &door);
            atomic_fetch_sub(&asleep, 1);
            pthread_mutex_unlock(&door);
            spins = 0;
        }
    }
    return NULL;
}

/* A fork has no workers, and locks in whatever state they were. */
static void after_fork(void) {
    started = 1;
    atomic_store(&asleep, 0);
    for (int i = 0; i < MOST_THREADS; i++) atomic_store(&tickets[i].value, 0);
    door = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    in_use = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    bell = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

/* The number of threads from now on. */
void twostroke_set_threads(word count) {
    pthread_mutex_lock(&in_use);
    wanted = (int)(count < 1 ? 1 : count > MOST_THREADS ? MOST_THREADS : count);
    for (; started < wanted; started++) {
        static int forks_are_watched;
        pthread_t thread;
        if (!forks_are_watched++) pthread_atfork(NULL, NULL, after_fork);
        if (pthread_create(&thread, NULL, worker, (void *)(intptr_t)started)) break;
        pthread_detach(thread);
    }
    if (started < wanted) wanted = started;
    pthread_mutex_unlock(&in_use);
}

word twostroke_threads(void) { return wanted; }

/* Run tasks 0 .. count - 1, by several threads if that is wanted and the work is ``worth`` it. Who calls holds
   ``in_use``. */
static void share(run_task *run, const void *argument, word count, int worth) {
    int threads = wanted;
    if (!worth || threads == 1 || count == 1 || count >= 1 << BITS) {
        for (word i = 0; i < count; i++) run(argument, i);
        return;
    }
    the_task = run, the_argument = argument;
    atomic_store(&unfinished, count);
    for (int i = 0; i < threads; i++) {
        uint64_t generation = (atomic_load(&tickets[i].value) >> 2 * BITS) + 1;
        uint64_t next = (uint64_t)(count * i / threads), end = (uint64_t)(count * (i + 1) / threads);
        atomic_store(&tickets[i].value, generation << 2 * BITS | end << BITS | next);
    }
    if (atomic_load(&asleep)) {
        pthread_mutex_lock(&door);
        pthread_cond_broadcast(&bell);
        pthread_mutex_unlock(&door);
    }
    work(0);
    for (int spins = 0; atomic_load(&unfinished); pause_a_little())
        if (++spins > SPINS) sched_yield(); /* whoever has the last task may be waiting for a core */
}
