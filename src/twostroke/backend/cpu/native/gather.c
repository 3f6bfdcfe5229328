/* Rows gathered into two blocks of columns, where several threads multiply each its half of the depth (both_halves in
   blocks.c): a thread gathers, reads and overwrites its own block, and no line of it ever leaves the thread's cache. Within
   whole rows the blocks would be pieces: a processor reads ahead, beyond the end of a piece, and so takes lines away from
   the other thread. */
#include "library.h"

enum { GATHERED = 1 << 15, NARROW = 16, PARTS_OF_BLOCK = 4 }; /* elements from which this pays; columns; tasks of a block */

_Thread_local in_blocks gathered;

typedef struct { const take_call *take; const ufunc_call *widen; char *to; word width, first; } gather_call;

static void gather_task(const void *argument, word index) {
    const gather_call *g = argument;
    const take_call *x = g->take;
    word start = index < PARTS_OF_BLOCK ? 0 : g->first, width = start ? g->width - start : g->first, part = index % PARTS_OF_BLOCK;
    word row = x->count * part / PARTS_OF_BLOCK, end = x->count * (part + 1) / PARTS_OF_BLOCK;
    char *to = g->to + (x->count * start + row * width) * x->size;
    ufunc_call widen;
    if (g->widen) widen = *g->widen;
    word bytes = g->widen ? width : width * x->size, skip = g->widen ? start : start * x->size;
    for (word i = row; i < end; i++) /* all at once: one by one each row would wait for its own memory */
        for (word line = 0; line < bytes; line += 64) __builtin_prefetch(taken_row(x, i) + skip + line);
    for (; row < end; row++, to += width * x->size) {
        if (!g->widen) {
            memcpy(to, taken_row(x, row) + skip, (size_t)bytes);
            continue;
        }
        widen.array[0].at = (char *)taken_row(x, row) + skip;
        widen.array[widen.count - 1].at = to;
        ufunc_part(&widen, 0, 1, 0, width);
    }
}

/* The number of operations done by this: 0, or the take and what widens its bytes. */
word gather_in_blocks(const operation *op, word left) {
    const take_call *x = &op->take;
    if (x->columns <= NARROW || left < 2 || twostroke_threads() == 1) return 0;
    const ufunc_call *widen = op[1].kind == UFUNC && op[1].ufunc.array[0].at == x->out ? &op[1].ufunc : NULL;
    word width = widen ? x->row_bytes : x->row_bytes / x->size;
    word first = (x->size == sizeof(float) ? halves_float : halves_double)(x->count, x->columns, width);
    if (!first || x->count * width < GATHERED) return 0;
    char *to = widen ? widen->array[widen->count - 1].at : x->out;
    parallel_for(gather_task, &(gather_call){x, widen, to, width, first}, 2 * PARTS_OF_BLOCK, 1);
    gathered = (in_blocks){to, first};
    return widen ? 2 : 1;
}
