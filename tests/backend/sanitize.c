/* Random products and programs for the C library, run under the sanitizers by sanitize.py. Every array has exactly the
   memory that its shape and strides need, so that an access beyond it is found. Arguments: seed, rounds. */
#include "library.h"
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef TWOSTROKE_DOUBLE
typedef double element;
enum { PRODUCT = PRODUCT_DOUBLE, WIDE = TO_DOUBLE };
#define multiply twostroke_product_double
#define CLOSE 1e-13
#else
typedef float element;
enum { PRODUCT = PRODUCT_FLOAT, WIDE = TO_FLOAT };
#define multiply twostroke_product_float
#define CLOSE 1e-5
#endif

static _Thread_local uint64_t state;

static uint64_t draw(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state * 0x2545F4914F6CDD1D;
}
static word below(word n) { return (word)(draw() >> 33) % n; }
static element real(void) { return (element)below(2001) / 1000 - 1; }

static void fail(const char *what, word a, word b, word c) {
    fprintf(stderr, "sanitize.c: %s: %lld x %lld x %lld\n", what, (long long)a, (long long)b, (long long)c);
    exit(1);
}

typedef struct { element *at; word row, column, rows, columns, size; } matrix;

/* Rows or columns are contiguous, with up to three elements between them; or neither is contiguous. */
static matrix make(word rows, word columns, double zeros) {
    word gap = below(4) ? 0 : 1 + below(3), layout = below(5);
    matrix m = {.rows = rows, .columns = columns};
    if (layout < 2) m.row = columns + gap, m.column = 1;
    else if (layout < 4) m.row = 1, m.column = rows + gap;
    else m.row = 2 * columns + gap, m.column = 2;
    m.size = rows && columns ? (rows - 1) * m.row + (columns - 1) * m.column + 1 : 0;
    m.at = malloc((size_t)(m.size ? m.size : 1) * sizeof(element));
    for (word i = 0; i < m.size; i++) m.at[i] = (double)below(1000) < 1000 * zeros ? 0 : real();
    /* An axis of one element may have any stride, as in NumPy. */
    if (rows == 1) m.row = columns;
    if (columns == 1) m.column = 1;
    return m;
}

static word size_of(word largest) {
    static const word edges[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 49, 64, 65};
    word kind = below(4), n = kind < 3 ? edges[below(sizeof edges / sizeof *edges)] : below(largest);
    return n;
}

static void one_product(word rows, word columns, word depth, int threads) {
    double zeros = below(2) ? 0 : 0.01 * (double)below(101);
    matrix a = make(rows, depth, zeros), b = make(depth, columns, 0), c = make(rows, columns, 0);
    element alpha = below(3) ? real() : 1, beta = below(2) ? (element)below(2) : real();
    element *start = malloc((size_t)(c.size ? c.size : 1) * sizeof(element)), *first = NULL;
    memcpy(start, c.at, (size_t)c.size * sizeof(element));
    size_t bytes = (size_t)c.size * sizeof(element);
    element *p = rows > 1 && columns > 1 && below(2) ? malloc(bytes) : NULL, *old_p = p ? malloc(bytes) : NULL;
    for (word i = 0; p && i < c.size; i++) old_p[i] = real();
    product_call call = {a.at, a.row, a.column, b.at, b.row, b.column, c.at, c.row, c.column, rows, columns, depth, &alpha, &beta, p};
    for (int count = 1; count <= threads; count++) {
        if (threads > 1) twostroke_set_threads(count);
        memcpy(c.at, start, (size_t)c.size * sizeof(element));
        if (p) memcpy(p, old_p, bytes);
        multiply(&call);
        for (word i = 0; p && i < rows * columns; i++) {
            word at = i / columns * c.row + i % columns * c.column;
            if (p[at] != old_p[at] + c.at[at]) fail("the result was not added", rows, columns, depth);
            p[at] = old_p[at];
        }
        if (p && memcmp(p, old_p, bytes)) fail("added beside the result", rows, columns, depth);
        if (!first) first = memcpy(malloc((size_t)(c.size ? c.size : 1) * sizeof(element)), c.at, (size_t)c.size * sizeof(element));
        else if (memcmp(first, c.at, (size_t)c.size * sizeof(element))) fail("other bits with other threads", rows, columns, depth);
    }
    for (word checks = rows && columns ? 40 : 0; checks--;) {
        word i = below(rows), j = below(columns);
        double sum = 0, size = 0;
        for (word d = 0; d < depth; d++) {
            double term = (double)a.at[i * a.row + d * a.column] * b.at[d * b.row + j * b.column];
            sum += term, size += fabs(term);
        }
        double old = beta == 0 ? 0 : (double)beta * start[i * c.row + j * c.column];
        if (!(fabs(alpha * sum + old - c.at[i * c.row + j * c.column]) <= CLOSE * (fabs(alpha) * size + fabs(old) + 1e-6)))
            fail("a wrong product", rows, columns, depth);
    }
    /* What lies between the elements is not written. */
    for (word i = 0; i < rows; i++)
        for (word j = 0; j < columns; j++) c.at[i * c.row + j * c.column] = start[i * c.row + j * c.column];
    if (memcmp(c.at, start, (size_t)c.size * sizeof(element))) fail("written beside the result", rows, columns, depth);
    free(a.at), free(b.at), free(c.at), free(start), free(first), free(p), free(old_p);
}

/* --- programs: loops and routines of our own in the place of NumPy's and SciPy's --- */

static void add(char **x, const intptr_t *n, const intptr_t *step, void *data) {
    (void)data;
    for (intptr_t i = 0; i < *n; i++)
        *(element *)(x[2] + i * step[2]) = *(element *)(x[0] + i * step[0]) + *(element *)(x[1] + i * step[1]);
}
static void greater(char **x, const intptr_t *n, const intptr_t *step, void *data) {
    (void)data;
    for (intptr_t i = 0; i < *n; i++) x[2][i * step[2]] = *(element *)(x[0] + i * step[0]) > *(element *)(x[1] + i * step[1]);
}

/* Some steps of: gather rows of pixels, scale them, multiply, row by row add, compare and multiply, choose, multiply the rows'
   transpose; each step's inputs and results moved. Half of the programs allow rows in blocks (gather.c). */
static void one_program(int threads) {
    word rows = 1 + below(200), pixels = 2 + below(900), units = 2 + below(60), steps = 1 + below(4), samples = 1 + below(50);
    word columns = below(2) ? units : 0;
    unsigned char *source = malloc((size_t)(samples * pixels)), *batch = malloc((size_t)(rows * pixels));
    word *orders = malloc((size_t)(steps * rows) * sizeof(word)), *order = malloc((size_t)rows * sizeof(word));
    word *choices = malloc((size_t)(steps * rows) * sizeof(word)), *choice = malloc((size_t)rows * sizeof(word));
    element *x = malloc((size_t)(rows * pixels) * sizeof(element)), *z = malloc((size_t)(rows * units) * sizeof(element));
    element *truth = malloc((size_t)(rows * units) * sizeof(element));
    element *y = malloc((size_t)(rows * 3) * sizeof(element));
    element *gradient = malloc((size_t)(pixels * units) * sizeof(element)), *before = NULL;
    element *w = malloc((size_t)(pixels * units) * sizeof(element)), one = 1, zero = 0, half = (element)0.5;
    for (word i = 0; i < samples * pixels; i++) source[i] = (unsigned char)below(256);
    for (word i = 0; i < steps * rows; i++) orders[i] = below(samples + 20) - 10; /* out of range too: clipped */
    for (word i = 0; i < pixels * units; i++) w[i] = real();
    const word f = sizeof(element);
    operation list[] = {
        {.kind = TAKE, .take = {(char *)batch, (char *)source, order, rows, pixels, samples, columns, sizeof(element)}},
        {.kind = UFUNC, .ufunc = {add, NULL, 3, 1, rows * pixels, WIDE, NOT_WIDENED, 0,
                                  {{(char *)batch, 0, 1}, {(char *)&one, 0, 0}, {(char *)x, 0, f}}}},
        {.kind = PRODUCT, .product = {x, pixels, 1, w, units, 1, z, units, 1, rows, units, pixels, &half, &zero, NULL}},
        {.kind = ROWWISE, .rowwise = {3, rows}},
        {.kind = UFUNC, .ufunc = {add, NULL, 3, rows, units, NOT_WIDENED, NOT_WIDENED, 0,
                                  {{(char *)z, units * f, f}, {(char *)z, 0, f}, {(char *)truth, units * f, f}}}},
        {.kind = UFUNC, .ufunc = {greater, NULL, 3, units, rows, NOT_WIDENED, WIDE, 1,
                                  {{(char *)z, f, units * f}, {(char *)&half, 0, 0}, {(char *)truth, f, units * f}}}},
        {.kind = PRODUCT, .product = {truth, units, 1, w, 1, 1, y, 1, rows, rows, 3, units, &one, &zero, NULL}}, /* B is a part of w */
        {.kind = ARGMAX, .argmax = {(char *)z, units * f, f, rows, units, choice, WIDE == TO_DOUBLE}},
        {.kind = PRODUCT, .product = {x, 1, pixels, truth, units, 1, gradient, units, 1, pixels, units, rows, &one, &zero, NULL}},
        {.kind = COPY, .copy = {(char *)x, NULL, rows * pixels * f}},
        {.kind = COPY, .copy = {(char *)x, (char *)z, (pixels < units ? pixels : units) * f}},
    };
    move moves[] = {{(char *)order, 0, (char *)orders, rows * 8, rows * 8}, {(char *)choices, rows * 8, (char *)choice, 0, rows * 8}};
    program p = {list, sizeof list / sizeof *list, moves, 1, 1, 0, steps};
    word *first = NULL;
    for (int count = 1; count <= threads; count++) {
        if (threads > 1) twostroke_set_threads(count);
        twostroke_play(&p);
        size_t size = (size_t)(pixels * units) * sizeof(element);
        if (!before) before = memcpy(malloc(size), gradient, size);
        else if (memcmp(before, gradient, size)) fail("other gradients with other threads", rows, units, pixels);
        if (!first) first = memcpy(malloc((size_t)(steps * rows) * sizeof(word)), choices, (size_t)(steps * rows) * sizeof(word));
        else if (memcmp(first, choices, (size_t)(steps * rows) * sizeof(word))) fail("other choices with other threads", rows, units, pixels);
    }
#define PIXEL(i, d) source[(order[i] < 0 ? 0 : order[i] < samples ? order[i] : samples - 1) * pixels + (d)]
    for (word checks = 40; checks--;) {
        word d = below(pixels), j = below(units);
        double sum = 0;
        for (word i = 0; i < rows; i++) sum += (PIXEL(i, d) + 1.0) * truth[i * units + j];
        if (!(fabs(sum - gradient[d * units + j]) <= CLOSE * (sum + 1))) fail("a wrong gradient", rows, units, pixels);
    }
    for (word i = 0; i < rows * units; i++) {
        double sum = 0;
        for (word d = 0; d < pixels; d++) sum += 0.5 * (PIXEL(i / units, d) + 1) * w[d * units + i % units];
        if (!(fabs(sum - z[i]) <= 2e-3 * (double)pixels)) fail("a wrong program", rows, units, pixels);
        if (truth[i] != (element)(z[i] > half)) fail("a wrong comparison", rows, units, pixels);
    }
    for (word i = 0; i < rows * 3; i++) {
        double sum = 0;
        for (word j = 0; j < units; j++) sum += truth[i % rows * units + j] * w[j + i / rows];
        if (!(fabs(sum - y[i]) <= 1e-4 * (double)units)) fail("a wrong row", rows, units, pixels);
    }
    for (word i = 0; i < rows; i++)
        for (word j = 0; j < units; j++)
            if (z[i * units + j] > z[i * units + choice[i]]) fail("a wrong choice", rows, units, pixels);
    free(source), free(batch), free(orders), free(order), free(choices), free(choice);
    free(x), free(y), free(z), free(truth), free(w), free(first), free(gradient), free(before);
}

/* At any place of an array, that of a NaN as well. */
static void one_largest(word count, int threads) {
    element *x = malloc((size_t)count * sizeof(element));
    for (word i = 0; i < count; i++) x[i] = real();
    word at = below(count);
    x[at] = -3;
    for (int n = 1; n <= threads; n++) {
        if (threads > 1) twostroke_set_threads(n);
        if (twostroke_largest(x, count, sizeof(element)) != 3) fail("another number is the largest", count, at, n);
    }
    x[at] = (element)NAN;
    if (!isnan(twostroke_largest(x, count, sizeof(element)))) fail("a NaN was not found", count, at, threads);
    free(x);
}

static void rounds(word count, int threads) {
    for (word i = 0; i < count; i++) {
        one_product(size_of(200), size_of(300), size_of(400), threads);
        if (i % 8 == 0) one_program(threads);
        if (i % 64 == 0) one_product(40 + below(30), 1400 + below(300), 1030 + below(60), threads); /* beyond one block */
        if (i % 16 == 0) one_largest(1 + below(i % 64 ? 3000 : 300000), threads);
        if (i % 64 == 32) one_product(1, 30 + below(300), 3000 + below(20000), threads);
    }
}

static void *caller(void *argument) {
    state = (uint64_t)(intptr_t)argument;
    twostroke_set_threads(3);
    rounds(40, 1);
    return NULL;
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    state = strtoull(arguments[1], NULL, 10) * 2 + 1;
    word all = atoll(arguments[2]);
    rounds(all, 4);
    /* Several callers at once, each with its own number of threads. */
    pthread_t callers[4];
    for (intptr_t i = 0; i < 4; i++) pthread_create(&callers[i], NULL, caller, (void *)(i + 7));
    for (word i = 0; i < all; i++) twostroke_set_threads(1 + i % 4), one_product(1 + below(60), 1 + below(300), 1 + below(300), 1);
    for (int i = 0; i < 4; i++) pthread_join(callers[i], NULL);
    printf("%lld rounds\n", (long long)all);
    return 0;
}
