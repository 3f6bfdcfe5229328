/* How long a cache line takes from one processor to another. */
#define _GNU_SOURCE /* affinity */
#include "library.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

enum { NOT_READY = -1, END = -2, AT_ONCE = 16, LONGEST_NS = 20000000 };

/* The caller makes `turn` odd, the other thread even. */
typedef struct { _Alignas(128) atomic_long turn; word place; } game;

static int move_to(word place) {
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET((size_t)place, &only);
    return !sched_setaffinity(0, sizeof only, &only);
}

static word now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000 + t.tv_nsec;
}

static void *answer(void *argument) {
    game *g = argument;
    atomic_store(&g->turn, move_to(g->place) ? 0 : END);
    for (long turn; (turn = atomic_load(&g->turn)) != END; __builtin_ia32_pause())
        if (turn % 2) atomic_store(&g->turn, turn + 1);
    return NULL;
}

/* Picoseconds one way between the first two processors that this process may use, over so many rounds or 20 ms; 0 where it
   may use one only. */
word twostroke_latency(word rounds) {
    cpu_set_t allowed;
    word places[2], found = 0, result = 0, done = 0, spent = 0;
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return 0;
    for (word i = 0; i < CPU_SETSIZE && found < 2; i++)
        if (CPU_ISSET((size_t)i, &allowed)) places[found++] = i;
    game g = {.turn = NOT_READY, .place = found < 2 ? 0 : places[1]};
    pthread_t other;
    if (found < 2 || !move_to(places[0])) return 0;
    if (!pthread_create(&other, NULL, answer, &g)) {
        while (atomic_load(&g.turn) == NOT_READY) sched_yield();
        for (word began = now(); done < rounds && spent < LONGEST_NS && atomic_load(&g.turn) != END; spent = now() - began)
            for (word i = 0; i < AT_ONCE; i++, done++) {
                atomic_store(&g.turn, 2 * done + 1);
                while (atomic_load(&g.turn) != 2 * done + 2) __builtin_ia32_pause();
            }
        atomic_store(&g.turn, END);
        pthread_join(other, NULL);
        result = done ? spent * 500 / done : 0;
    }
    sched_setaffinity(0, sizeof allowed, &allowed);
    return result;
}
