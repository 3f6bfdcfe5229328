/* What tiles call: the sums written to C, and the depths that are not skipped. */
#include "tiles.h"

/* C <- alpha sums + beta C. */
void write_tile(const product *p, const element *sums, element *c, word rows, word columns) {
    vector alpha = fill(p->alpha), beta = fill(p->beta);
    word even = p->c_row == 1 ? rows & ~(word)3 : 0; /* rows that lie side by side: four by four */
    for (word r = 0; r < even; r += 4, sums += 4 * STRIP, c += 4)
        for (word j = 0; j < columns; j++) {
            four sum = FOUR(setr)(sums[j], sums[STRIP + j], sums[2 * STRIP + j], sums[3 * STRIP + j]);
            four value = FOUR(mul)(FOUR(set1)(p->alpha), sum);
            element *to = c + j * p->c_column;
            FOUR(storeu)(to, p->beta == 0 ? value : FOUR(fmadd)(FOUR(set1)(p->beta), FOUR(loadu)(to), value));
        }
    for (word r = even; r < rows; r++, sums += STRIP, c += p->c_row) {
        word j = 0;
        for (; p->c_column == 1 && j + LANES <= columns; j += LANES) {
            vector value = multiply(alpha, load(sums + j));
            store(c + j, p->beta == 0 ? value : multiply_add(beta, load(c + j), value));
        }
        for (; p->c_column == 1 && j + 4 <= columns; j += 4) {
            four value = FOUR(mul)(FOUR(set1)(p->alpha), FOUR(loadu)(sums + j));
            FOUR(storeu)(c + j, p->beta == 0 ? value : FOUR(fmadd)(FOUR(set1)(p->beta), FOUR(loadu)(c + j), value));
        }
        for (; j < columns; j++) {
            element *to = c + j * p->c_column, value = p->alpha * sums[j];
            *to = p->beta == 0 ? value : fused(p->beta, *to, value);
        }
    }
}

/* P <- P + C for a tile of C that was just written: a velocity is added to the weights while it is in the nearest cache. */
void add_tile(const product *p, element *c, word rows, word columns) {
    for (word r = 0; r < rows; r++, c += p->c_row) {
        element *to = c + p->to_p;
        word j = 0;
        for (; p->c_column == 1 && j + LANES <= columns; j += LANES) store(to + j, load(to + j) + load(c + j));
        for (; j < columns; j++) to[j * p->c_column] += c[j * p->c_column];
    }
}

/* The number of depths at which one of `rows` rows of A (at most two vectors) is not zero, and in `at`, unless NULL, these
   depths. Most pixels of MNIST are zero. */
INLINE word nonzero_depths(const element *a, word a_row, word a_depth, word rows, word depth, uint16_t *at) {
    word n = 0, d = 0;
    if (a_row == 1) {
        word more = rows > LANES ? rows - LANES : 0;
        for (mask m = first_lanes(rows - more), rest = first_lanes(more); d < depth; d++) {
            if (at) at[n] = (uint16_t)d;
            unsigned found = not_zero(load_part(m, a + d * a_depth));
            if (more) found |= not_zero(load_part(rest, a + d * a_depth + LANES));
            n += found != 0;
        }
    } else {
        for (; d < depth; d += LANES) {
            mask m = first_lanes(depth - d < LANES ? depth - d : LANES);
            unsigned found = 0;
            for (word r = 0; r < rows; r++) found |= not_zero(load_part(m, a + r * a_row + d));
            if (!at) n += __builtin_popcount(found);
            else for (; found; found &= found - 1) at[n++] = (uint16_t)(d + __builtin_ctz(found));
        }
    }
    return n;
}

void list_depths(const element *a, word a_row, word a_depth, word rows, word depth, depths *list) {
    list->count = nonzero_depths(a, a_row, a_depth, rows, depth, list->at);
}

/* Whether lists pay, judged from the rows of two tiles. */
int lists_pay(const product *p) {
    product block = block_of_a(p, 0);
    if (p->first) *(p->a_row == 1 ? &block.rows : &block.depth) = p->first;
    p = &block;
    word found = 0, rows = p->rows < ROWS ? p->rows : ROWS, tiles = p->rows < 2 * ROWS ? 1 : 2;
    if (p->a_row != 1 && p->a_depth != 1) return 0;
    for (word i = 1; i <= tiles; i++) {
        word row = p->rows * i / 4 < p->rows - rows ? p->rows * i / 4 : p->rows - rows;
        found += nonzero_depths(p->a + row * p->a_row, p->a_row, p->a_depth, rows, p->depth, NULL);
    }
    return found * 8 < p->depth * tiles * 7;
}
