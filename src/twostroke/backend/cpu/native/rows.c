/* Products with one row of A or a depth of one: a batch of one sample. */
#include "tiles.h"

/* The factors of a row product or an outer product: `count` elements of A. A zero is left out: its row of the matrix (rows are
   `far` apart) is neither read nor changed, so an infinity or NaN in it has no effect. Where none is left out they are read
   in place, because a list would cost a tenth of a step of one sample. Returns how many there are. */
static word find_factors(product *p, const element *a, word stride, word count, word far) {
    workspace *to = p->space;
    word n = 0, i = 0, whole = stride == 1 ? count / LANES * LANES : 0;
    while (i < whole && not_zero(load(a + i)) == (1u << LANES) - 1) i += LANES;
    while (i < count && i >= whole && a[i * stride] != 0) i++;
    p->in_place = a, p->stride = stride, p->far = far, p->listed = i < count;
    if (!p->listed) return count;
    for (i = 0; i < whole; i += LANES)
        for (unsigned bits = not_zero(load(a + i)); bits; bits &= bits - 1) {
            word at = i + __builtin_ctz(bits);
            to->factors[n] = a[at], to->places[n++] = at * far;
        }
    for (; i < count; i++) {
        to->factors[n] = a[i * stride], to->places[n] = i * far;
        n += to->factors[n] != 0;
    }
    return n;
}
INLINE element factor(const product *p, word i) { return p->listed ? p->space->factors[i] : p->in_place[i * p->stride]; }
INLINE word place(const product *p, word i) { return p->listed ? p->space->places[i] : i * p->far; }

/* Factors times their rows of B: several vectors at once, because one sum would wait for its own last addition. */
INLINE void row_strip(const product *p, const element *b, word first, word stop, element *c, word columns, int vectors, int whole) {
    vector sum[WIDE_STRIP / LANES];
    element sums[WIDE_STRIP];
    mask last = first_lanes(columns - (vectors - 1) * LANES);
    EACH(v, vectors) sum[v] = fill(0);
    for (word i = first; i < stop; i++) {
        const element *line = b + place(p, i);
        vector x = fill(factor(p, i));
        EACH(v, vectors) {
            vector y = whole || v < vectors - 1 ? load(line + v * LANES) : load_part(last, line + v * LANES);
            sum[v] = multiply_add(x, y, sum[v]);
        }
    }
    EACH(v, vectors) store(sums + v * LANES, sum[v]);
    write_tile(p, sums, c, 1, columns);
}

static void row_product(const product *p, word first, word stop) {
    word j = 0, n = p->columns;
    for (; j + WIDE_STRIP <= n; j += WIDE_STRIP) row_strip(p, p->b + j, first, stop, p->c + j, WIDE_STRIP, 8, 1);
    for (; j + STRIP <= n; j += STRIP) row_strip(p, p->b + j, first, stop, p->c + j, STRIP, 4, 1);
    for (; j + PANEL <= n; j += PANEL) row_strip(p, p->b + j, first, stop, p->c + j, PANEL, 2, 1);
    if (j + LANES < n) row_strip(p, p->b + j, first, stop, p->c + j, n - j, 2, 0);
    else if (j < n) row_strip(p, p->b + j, first, stop, p->c + j, n - j, 1, 0);
}

/* A part of the factors; each part has its own row of sums. */
static void row_task(const void *argument, word index) {
    product part = *(const product *)argument;
    word first = index * part.chunk, stop = first + part.chunk < part.depth ? first + part.chunk : part.depth;
    part.c += index * part.columns;
    row_product(&part, first, stop);
}

INLINE element dot(const element *a, const element *b, vector sums, word d, word depth) {
    element values[LANES], sum = 0;
    for (; d + LANES <= depth; d += LANES) sums = multiply_add(load(a + d), load(b + d), sums);
    for (; d < depth; d++) sum = fused(a[d], b[d], sum);
    store(values, sums);
    for (int n = LANES / 2; n; n /= 2)
        for (int v = 0; v < n; v++) values[v] += values[v + n];
    return values[0] + sum;
}

/* B is the transpose of a matrix with contiguous rows: each element of C is a dot product. */
static void dots_task(const void *argument, word index) {
    const product *p = argument;
    word first = index * p->chunk, end = first + p->chunk < p->columns ? first + p->chunk : p->columns;
    word even = p->depth / (2 * LANES) * 2 * LANES, together;
    for (word j = first; p->depth < LANES && j < end; j++) { /* no vector would be full */
        const element *b = p->b + j * p->b_column;
        element sum = 0, *c = p->c + j;
        for (word d = 0; d < p->depth; d++) sum = fused(p->a[d], b[d], sum);
        *c = p->beta == 0 ? p->alpha * sum : fused(p->beta, *c, p->alpha * sum);
    }
    if (p->depth < LANES) return;
    for (word j = first; j < end; j += together) {
        const element *b = p->b + j * p->b_column;
        word step = p->b_column;
        together = end - j < 4 ? 1 : 4; /* dot products, whose sums do not wait for each other */
        vector sums[4][2];
        EACH(r, 4) sums[r][0] = sums[r][1] = fill(0);
        for (word d = 0; d < even; d += 2 * LANES) {
            vector x = load(p->a + d), y = load(p->a + d + LANES);
#define ADD_ROW(r)                                                                       \
    sums[r][0] = multiply_add(x, load(b + (r) * step + d), sums[r][0]);                  \
    sums[r][1] = multiply_add(y, load(b + (r) * step + d + LANES), sums[r][1]);
            ADD_ROW(0)
            if (together == 1) continue;
            ADD_ROW(1) ADD_ROW(2) ADD_ROW(3)
        }
        for (word r = 0; r < together; r++) {
            element value = p->alpha * dot(p->a, b + r * step, sums[r][0] + sums[r][1], even, p->depth), *c = p->c + j + r;
            *c = p->beta == 0 ? value : fused(p->beta, *c, value);
        }
    }
}

/* The end of a row of C <- x b + beta C, from column j on: without a masked store, which would delay the load of the next row. */
INLINE void outer_end(const product *p, element x, element *y, word j) {
    const element *b = p->b;
    element beta = p->beta;
    for (; j + 4 <= p->columns; j += 4) {
        four old = beta == 0 ? FOUR(setzero)() : FOUR(mul)(FOUR(set1)(beta), FOUR(loadu)(y + j));
        FOUR(storeu)(y + j, FOUR(fmadd)(FOUR(set1)(x), FOUR(loadu)(b + j), old));
    }
    for (; j < p->columns; j++) y[j] = fused(x, b[j], beta == 0 ? 0 : beta * y[j]);
}

/* `vectors` vectors of some rows: there b stays in registers. */
INLINE void outer_strip(const product *p, word row, word end, word column, int vectors, int kept, int added) {
    vector line[WIDE_STRIP / LANES], beta = fill(p->beta);
    EACH(v, vectors) line[v] = load(p->b + column + v * LANES);
    for (; row < end; row++) {
        vector x = fill(p->alpha * factor(p, row));
        element *to = p->c + place(p, row) + column;
        EACH(v, vectors) {
            vector old = kept ? multiply(beta, load(to + v * LANES)) : fill(0);
            vector value = multiply_add(x, line[v], old);
            store(to + v * LANES, value);
            if (added) store(to + p->to_p + v * LANES, load(to + p->to_p + v * LANES) + value);
        }
    }
}

/* Depth one: a batch of one sample is added to the weights, to the factors' rows of C. Wide rows one by one: memory is
   fastest along them. */
static void outer_task(const void *argument, word index) {
    /* Read once: C's elements cannot be these, as long as no function gets their address. */
    const product own = *(const product *)argument, *p = &own;
    word i = index * p->chunk, end = i + p->chunk < p->rows ? i + p->chunk : p->rows, n = p->columns, j = 0;
    if (n < 4 * WIDE_STRIP) {
#define STRIPS(vectors)                                                        \
    for (; j + (vectors) * LANES <= n; j += (vectors) * LANES)                 \
        if (p->to_p) outer_strip(p, i, end, j, vectors, p->beta != 0, 1);      \
        else if (p->beta != 0) outer_strip(p, i, end, j, vectors, 1, 0);       \
        else outer_strip(p, i, end, j, vectors, 0, 0);
        STRIPS(8) STRIPS(4) STRIPS(1)
        for (; i < end && j < n; i++) {
            outer_end(p, p->alpha * factor(p, i), p->c + place(p, i), j);
            if (p->to_p) add_tile(argument, p->c + place(p, i) + j, 1, n - j);
        }
        return;
    }
    for (vector beta = fill(p->beta); i < end; i++, j = 0) {
        element x = p->alpha * factor(p, i), *y = p->c + place(p, i);
        for (; j + STRIP <= n; j += STRIP)
            EACH(v, STRIP / LANES) {
                vector old = p->beta == 0 ? fill(0) : multiply(beta, load(y + j + v * LANES));
                store(y + j + v * LANES, multiply_add(fill(x), load(p->b + j + v * LANES), old));
            }
        outer_end(p, x, y, j);
        if (p->to_p) add_tile(argument, y, 1, n);
    }
}

static void row_by_matrix(product p) {
    element *sums = p.space->sums;
    product part = p;
    part.depth = find_factors(&part, p.a, p.a_depth, p.depth, p.b_row);
    word parts = part.depth * p.columns >= SHARED_ROW && p.columns <= WIDEST ? PARTS : 1;
    if (parts == 1) {
        row_product(&part, 0, part.depth);
        return;
    }
    part.c = sums, part.alpha = 1, part.beta = 0, part.chunk = (part.depth + parts - 1) / parts;
    parallel_for(row_task, &part, parts, 1);
    for (word j = 0; j < p.columns; j++) {
        element sum = sums[j];
        for (word i = 1; i < parts; i++) sum += sums[i * p.columns + j];
        sum *= p.alpha;
        p.c[j] = p.beta == 0 ? sum : fused(p.beta, p.c[j], sum);
    }
}

/* Whether it was such a product, computed here. The number of parts does not depend on the number of threads. */
int row_of_a(product p) {
    if (p.depth == 1 && p.b_column == 1 && p.c_column == 1) {
        product part = p;
        for (word row = 0; row < p.rows; row += FACTORS, part.c += FACTORS * p.c_row) {
            word count = p.rows - row < FACTORS ? p.rows - row : FACTORS;
            part.rows = find_factors(&part, p.a + row * p.a_row, p.a_row, count, p.c_row);
            /* As the forward pass, which reads the rows of factors other than zero: else one thread would read what the other
               keeps. All rows change where C is scaled (beta) or added. */
            word parts = part.rows * p.columns >= SHARED_ROW ? PARTS : 1;
            if (p.beta != 1 || p.to_p) part.rows = count, part.listed = 0;
            part.chunk = (part.rows + parts - 1) / parts;
            parallel_for(outer_task, &part, parts, parts > 1);
        }
    } else if (p.rows == 1 && p.b_row == 1 && p.a_depth == 1 && p.c_column == 1 && (p.b_column != 1 || p.columns == 1)) {
        word parts = p.columns * p.depth >= SHARED_ROW && p.columns >= PARTS && p.columns <= WIDEST ? PARTS : 1;
        p.chunk = (p.columns + parts - 1) / parts;
        parallel_for(dots_task, &p, parts, parts > 1);
    } else if (p.rows == 1 && p.b_column == 1 && p.c_column == 1) {
        product part = p;
        for (word d = 0; d < p.depth; d += FACTORS) {
            part.depth = p.depth - d < FACTORS ? p.depth - d : FACTORS;
            part.a = p.a + d * p.a_depth, part.b = p.b + d * p.b_row, part.beta = d ? 1 : p.beta;
            row_by_matrix(part);
        }
    } else {
        return 0;
    }
    return 1;
}
