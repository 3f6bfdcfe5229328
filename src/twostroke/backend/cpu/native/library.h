/* What the units of the library share: the operations that program.py writes, the pool of threads, the product. */

#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
typedef int64_t word;

/* --- Operations. Every member has 8 bytes; library.c lists the offsets, which library.py compares with its own. --- */

/* C <- alpha A B + beta C, all in float32 or all in float64; then P <- P + C, where there is an array P, laid out as C.
   Strides are in elements; alpha and beta are read at every call. */
typedef struct {
    const void *a; word a_row, a_depth;
    const void *b; word b_row, b_column;
    void *c; word c_row, c_column;
    word rows, columns, depth;
    const void *alpha, *beta;
    void *p;
} product_call;

/* One call of a NumPy ufunc as two nested loops; strides in bytes, the result last. In a rowwise run, a row of the result is
   `row_elements` of the inner loop, or, where that is 0, all of it: then the outer loop goes over the rows. */
typedef void ufunc_loop(char **arrays, const intptr_t *length, const intptr_t *strides, void *data);
enum { NOT_WIDENED, TO_FLOAT, TO_DOUBLE };
typedef struct { char *at; word outer, inner; } ufunc_array;
typedef struct {
    ufunc_loop *loop; void *data;
    word count, outer, inner;       /* the number of arrays; the lengths of the loops */
    word widen_first, widen_result; /* bytes that are read; truth values that are written */
    word row_elements;
    ufunc_array array[3];
} ufunc_call;

/* `columns` are those of the product that alone reads the rows, with its gradient; 0 where others read them. Then the rows
   may lie in blocks (gather.c). They are elements of `size` bytes; bytes are widened by the next operation. */
typedef struct {
    char *out; const char *source; const word *indices;
    word count, row_bytes, source_rows, columns, size;
} take_call;
typedef struct { const char *source; word row, column, rows, columns; word *out; word is_double; } argmax_call;
typedef struct { char *to; const char *from; word bytes; } copy_call; /* zeros where there is no `from` */

/* The `count` operations after it, ufuncs and products, compute each of `rows` rows for itself: threads may take rows through
   all of them. */
typedef struct { word count, rows; } rowwise_run;

enum { UFUNC, TAKE, ARGMAX, COPY, PRODUCT_FLOAT, PRODUCT_DOUBLE, ROWWISE };
typedef struct {
    word kind;
    union {
        ufunc_call ufunc; take_call take; argmax_call argmax; copy_call copy; product_call product; rowwise_run rowwise;
    };
} operation;

/* A copy before or after each step; the step's number times a stride is added to each address. */
typedef struct { char *to; word to_step; const char *from; word from_step, bytes; } move;

/* The steps `first` to `first + steps`: the moves before, the operations, the moves after. */
typedef struct { const operation *operations; word count; const move *moves; word before, after, first, steps; } program;

/* --- Functions between the units --- */

/* From now on subnormal numbers (below 1.2e-38, or 2.2e-308) count as zeros in this thread; returns the control word before.
   Velocities that nothing feeds any more end there, and some processors need a hundred times as long for them. */
enum { SUBNORMALS_ARE_ZEROS = 0x8040 }; /* as results and as arguments */
static inline unsigned flush_subnormals(void) {
    unsigned before = __builtin_ia32_stmxcsr();
    if (~before & SUBNORMALS_ARE_ZEROS) __builtin_ia32_ldmxcsr(before | SUBNORMALS_ARE_ZEROS);
    return before;
}
/* To change the word takes longer than to read it: the products of a step do not change it. */
static inline void end_flush(unsigned before) {
    if (~before & SUBNORMALS_ARE_ZEROS) __builtin_ia32_ldmxcsr(before);
}

/* Run the tasks 0 to count - 1: on several threads if the work is `worth` it and the pool is free. */
typedef void run_task(const void *argument, word index);
void parallel_for(run_task *run, const void *argument, word count, int worth);

/* The elements `start` to `stop` of the inner loop, for the rows `row` to `end` of the outer one. */
void ufunc_part(const ufunc_call *call, word row, word end, word start, word stop);
const char *taken_row(const take_call *call, word i);

/* Whether the next products find the rows at `at` in two blocks of columns, each contiguous: the first of so many. */
typedef struct { const void *at; word first; } in_blocks;
extern _Thread_local in_blocks gathered;
word gather(const operation *op, word left);
word halves_float(word rows, word columns, word depth);
word halves_double(word rows, word columns, word depth);

EXPORT word twostroke_threads(void);
EXPORT void twostroke_set_threads(word count);
EXPORT void twostroke_product_float(const product_call *call);
EXPORT void twostroke_product_double(const product_call *call);
EXPORT void twostroke_play(const program *program);
EXPORT word twostroke_flush(word on);
EXPORT double twostroke_largest(const void *numbers, word count, word size);
EXPORT word twostroke_latency(word rounds);
EXPORT word twostroke_layout(word index);
EXPORT word twostroke_runs_here(void);
