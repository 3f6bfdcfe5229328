/* Plays a captured step: a list of operations, with no Python in between. No formula is written here: elementwise work is
   done by the inner loops that NumPy's ufuncs themselves call, matrix products by products.c. */
#include "library.h"

enum { PIECE = 4096, UFUNC_TASKS = 8, SHARED_ELEMENTS = 1 << 14, TOGETHER = 64, AHEAD = 4 };

__attribute__((optimize("O3"))) /* which vectorises the first loop */
static void widen(const char *bytes, word stride, char *out, word out_stride, word n, word kind) {
    const unsigned char *from = (const unsigned char *)bytes;
    if (kind == TO_FLOAT && stride == 1 && out_stride == (word)sizeof(float)) {
        float *to = (float *)out;
        for (word i = 0; i < n; i++) to[i] = from[i];
    } else if (kind == TO_FLOAT) {
        for (word i = 0; i < n; i++) *(float *)(out + i * out_stride) = from[i * stride];
    } else {
        for (word i = 0; i < n; i++) *(double *)(out + i * out_stride) = from[i * stride];
    }
}

/* The rows `row` to `end` of the outer loop, the elements `start` to `stop` of the inner one. What is widened goes piece
   by piece through a buffer that stays in the cache. */
void ufunc_part(const ufunc_call *call, word row, word end, word start, word stop) {
    static _Thread_local union { float floats[PIECE]; double doubles[PIECE]; } wide;
    static _Thread_local unsigned char truths[PIECE];
    word last = call->count - 1, piece = call->widen_first || call->widen_result ? PIECE : stop - start;
    for (; row < end; row++)
        for (word done = start; done < stop; done += piece) {
            intptr_t n = stop - done < piece ? stop - done : piece, strides[3];
            char *data[3];
            for (word i = 0; i <= last; i++) {
                const ufunc_array *x = &call->array[i];
                data[i] = x->at + row * x->outer + done * x->inner, strides[i] = x->inner;
            }
            char *result = data[last];
            if (call->widen_first) {
                word size = call->widen_first == TO_FLOAT ? sizeof(float) : sizeof(double);
                widen(data[0], strides[0], (char *)&wide, size, n, call->widen_first);
                data[0] = (char *)&wide, strides[0] = size;
            }
            if (call->widen_result) data[last] = (char *)truths, strides[last] = 1;
            call->loop(data, &n, strides, call->data);
            if (call->widen_result) widen((char *)truths, 1, result, call->array[last].inner, n, call->widen_result);
        }
}

/* The rows of a task of a rowwise run: they stay in the nearest cache, and a product of them is worth its call. */
static word block_rows(word rows) { return rows < 512 ? 32 : 64; }

/* Every task must have elements of the result of its own: along which loop they do. */
static int along_outer(const ufunc_call *x) { return x->outer >= UFUNC_TASKS && x->array[x->count - 1].outer; }

static void ufunc_task(const void *argument, word index) {
    const ufunc_call *x = argument;
    word row = x->outer * index / UFUNC_TASKS, end = x->outer * (index + 1) / UFUNC_TASKS;
    word start = x->inner * index / UFUNC_TASKS, stop = x->inner * (index + 1) / UFUNC_TASKS;
    if (along_outer(x)) ufunc_part(x, row, end, 0, x->inner);
    else ufunc_part(x, 0, x->outer, start, stop);
}

static void ufunc(const ufunc_call *x) {
    int shared = along_outer(x) || x->array[x->count - 1].inner;
    if (shared && x->outer * x->inner >= SHARED_ELEMENTS) parallel_for(ufunc_task, x, UFUNC_TASKS, 1);
    else ufunc_part(x, 0, x->outer, 0, x->inner);
}

/* The row of index `i`. Indices out of range are clipped, as by NumPy's mode "clip". */
const char *taken_row(const take_call *x, word i) {
    word row = x->indices[i] < 0 ? 0 : x->indices[i] < x->source_rows ? x->indices[i] : x->source_rows - 1;
    return x->source + row * x->row_bytes;
}

/* Rows further on are asked for ahead: they lie anywhere in memory. */
static void take(const take_call *x) {
    for (word i = 0; i < x->count; i++) {
        for (word at = 0; i + AHEAD < x->count && at + 64 <= x->row_bytes; at += 64)
            __builtin_prefetch(taken_row(x, i + AHEAD) + at);
        memcpy(x->out + i * x->row_bytes, taken_row(x, i), (size_t)x->row_bytes);
    }
}

/* The first of the largest in each row; a NaN is larger than every number. Many rows at a time: they lie side by side. */
#define ARGMAX(type, name)                                                                                  \
    __attribute__((optimize("O3"))) static void name(const argmax_call *x, word row, int rows) {            \
        type best[TOGETHER];                                                                                \
        int place[TOGETHER];                                                                                \
        const char *from = x->source + row * x->row;                                                        \
        for (int i = 0; i < rows; i++) best[i] = *(const type *)(from + i * x->row), place[i] = 0;          \
        for (int j = 1; j < x->columns; j++) {                                                              \
            const char *column = from + j * x->column;                                                      \
            for (int i = 0; i < rows; i++) {                                                                \
                type value = *(const type *)(column + i * x->row);                                          \
                int larger = !(value <= best[i]) & (best[i] == best[i]);                                    \
                place[i] = larger ? j : place[i], best[i] = larger ? value : best[i];                       \
            }                                                                                               \
        }                                                                                                   \
        for (int i = 0; i < rows; i++) x->out[row + i] = place[i];                                          \
    }
ARGMAX(float, argmax_float)
ARGMAX(double, argmax_double)

static void argmax(const argmax_call *x) {
    for (word row = 0, n; row < x->rows; row += n) {
        n = x->rows - row < TOGETHER ? x->rows - row : TOGETHER;
        (x->is_double ? argmax_double : argmax_float)(x, row, (int)n);
    }
}

static void copy(const copy_call *x) {
    if (x->from) memcpy(x->to, x->from, (size_t)x->bytes);
    else memset(x->to, 0, (size_t)x->bytes);
}

static void move_all(const move *x, word count, word step) {
    for (; count--; x++) memcpy(x->to + step * x->to_step, x->from + step * x->from_step, (size_t)x->bytes);
}

/* Some rows of a rowwise run, through all of its operations. */
static void rows_task(const void *argument, word index) {
    const operation *run = argument;
    word rows = run->rowwise.rows, block = block_rows(rows), first = index * block;
    word end = first + block < rows ? first + block : rows;
    for (const operation *op = run + 1; op <= run + run->rowwise.count; op++) {
        if (op->kind == UFUNC) {
            word width = op->ufunc.row_elements;
            if (width) ufunc_part(&op->ufunc, 0, op->ufunc.outer, first * width, end * width);
            else ufunc_part(&op->ufunc, first, end, 0, op->ufunc.inner);
        } else {
            word size = op->kind == PRODUCT_FLOAT ? sizeof(float) : sizeof(double);
            product_call part = op->product;
            part.a = (const char *)part.a + first * part.a_row * size, part.c = (char *)part.c + first * part.c_row * size;
            part.rows = end - first;
            (op->kind == PRODUCT_FLOAT ? twostroke_product_float : twostroke_product_double)(&part);
        }
    }
}

void twostroke_play(const program *p) {
    unsigned control = flush_subnormals();
    for (word step = p->first; step < p->first + p->steps; step++) {
        move_all(p->moves, p->before, step);
        gathered.at = NULL;
        for (const operation *op = p->operations, *end = op + p->count; op < end; op++)
            switch (op->kind) {
                case UFUNC: ufunc(&op->ufunc); break;
                case TAKE: {
                    word done = gather(op, end - op);
                    if (done) op += done - 1;
                    else take(&op->take);
                    break;
                }
                case ARGMAX: argmax(&op->argmax); break;
                case COPY: copy(&op->copy); break;
                case PRODUCT_FLOAT: twostroke_product_float(&op->product); break;
                case PRODUCT_DOUBLE: twostroke_product_double(&op->product); break;
                case ROWWISE: {
                    word rows = op->rowwise.rows, block = block_rows(rows);
                    parallel_for(rows_task, op, (rows + block - 1) / block, 1);
                    op += op->rowwise.count;
                    break;
                }
            }
        move_all(p->moves + p->before, p->after, step);
    }
    gathered.at = NULL;
    end_flush(control);
}
