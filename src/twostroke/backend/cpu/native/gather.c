/* Several threads gather the rows of a batch. Bytes are widened on the way, and what only the widening would read is not
   written. (One thread is as quick with one operation after the other.)

   Where two threads multiply each its half of the depth (both_halves in blocks.c), the rows lie in two blocks of columns: a
   thread gathers, reads and overwrites its own block, and no line of it ever leaves the thread's cache. Within whole rows the
   halves would be pieces: a processor reads ahead, beyond the end of a piece, and so takes lines away from the other thread. */
#include "library.h"

enum { SHARED_GATHER = 1 << 12, NARROW = 16, TASKS_OF_GATHER = 8 }; /* elements from which threads share it; columns */

_Thread_local in_blocks gathered;

/* `first` is the width of the first block, or of all. */
typedef struct { const take_call *take; const ufunc_call *widen; char *to; word width, first, tasks; } gather_call;

static void gather_task(const void *argument, word index) {
    const gather_call *g = argument;
    const take_call *x = g->take;
    word start = index < g->tasks ? 0 : g->first, width = start ? g->width - start : g->first, part = index % g->tasks;
    word row = x->count * part / g->tasks, end = x->count * (part + 1) / g->tasks, size = g->widen ? 1 : x->size;
    char *to = g->to + (x->count * start + row * width) * x->size;
    ufunc_call widen;
    if (g->widen) widen = *g->widen;
    for (word i = row; i < end; i++) /* all at once: one by one each row would wait for its own memory */
        for (word at = 0; at < width * size; at += 64) __builtin_prefetch(taken_row(x, i) + start * size + at);
    for (; row < end; row++, to += width * x->size) {
        const char *from = taken_row(x, row) + start * size;
        if (g->widen) {
            widen.array[0].at = (char *)from, widen.array[widen.count - 1].at = to;
            ufunc_part(&widen, 0, 1, 0, width);
        } else {
            memcpy(to, from, (size_t)(width * size));
        }
    }
}

/* The number of operations done by this: 0, or the take and what widens its bytes. */
word gather(const operation *op, word left) {
    const take_call *x = &op->take;
    if (!x->columns || left < 2 || twostroke_threads() == 1) return 0;
    const ufunc_call *widen = op[1].kind == UFUNC && op[1].ufunc.array[0].at == x->out ? &op[1].ufunc : NULL;
    word width = widen ? x->row_bytes : x->row_bytes / x->size;
    if (x->count * width < SHARED_GATHER) return 0;
    word first = (x->size == sizeof(float) ? halves_float : halves_double)(x->count, x->columns, width);
    char *to = widen ? widen->array[widen->count - 1].at : x->out;
    int blocks = first && x->columns > NARROW ? 2 : 1;
    gather_call call = {x, widen, to, width, blocks == 2 ? first : width, TASKS_OF_GATHER / blocks};
    parallel_for(gather_task, &call, TASKS_OF_GATHER, 1);
    if (blocks == 2) gathered = (in_blocks){to, first};
    return widen ? 2 : 1;
}
