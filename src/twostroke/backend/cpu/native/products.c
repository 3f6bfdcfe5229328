/* A product of one type: one row or a depth of one (rows.c), a large B, or block by block (blocks.c). */
#include "tiles.h"
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

/* C^T = B^T A^T */
static product transposed(product p) {
    product turned = p;
    turned.a = p.b, turned.a_row = p.b_column, turned.a_depth = p.b_row;
    turned.b = p.a, turned.b_row = p.a_depth, turned.b_column = p.a_row;
    turned.c_row = p.c_column, turned.c_column = p.c_row, turned.rows = p.columns, turned.columns = p.rows;
    return turned;
}

static void whole_product(product p) {
    static const element zero;
    if (!p.rows || !p.columns) return;
    if (!p.depth) /* no sum: C <- beta C */
        p.a = p.b = &zero, p.a_row = p.a_depth = p.b_row = p.b_column = 0, p.depth = 1, p.alpha = 1;
    if (p.columns == 1 && p.rows > 1 && p.depth > 1) p = transposed(p); /* one row, whose lanes are used */
    if ((p.rows == 1 || p.depth == 1) && row_of_a(p)) return;
    if (p.a_depth == 1 && p.b_column == 1 && p.rows > 1) p.halved = half_depth(p.depth);
    if (both_halves(p) || large_b_product(p)) return;
    int wide = p.b_row == 1 && p.b_column != 1 && p.a_depth == 1 && p.columns > p.rows && p.columns * p.depth >= LARGE;
    int tall = p.a_row == 1 && p.a_depth != 1 && p.columns <= LANES && p.rows >= STRIP;
    if (wide || tall) p = transposed(p); /* then the smaller matrix is packed, or the larger one read in place, and all lanes are used */
    word width = p.depth * BLOCK_COLUMNS <= NEAR ? NEAR / p.depth / PANEL * PANEL : BLOCK_COLUMNS;
    for (word column = 0; column < p.columns; column += width) {
        for (word i = 0; i < depth_pieces(&p); i++) {
            product block = depth_piece(&p, piece_start(&p, i));
            block.b += column * p.b_column, block.c += column * p.c_column;
            block.columns = p.columns - column < width ? p.columns - column : width;
            block_product(block);
        }
    }
}

/* Every caller computes in a workspace of its own, so that none waits for another. They stay for later callers; the first
   needs no allocation. */
enum { MOST_CALLERS = 64 };
static workspace first_space;
static struct { atomic_int taken; workspace *space; } spaces[MOST_CALLERS] = {{.space = &first_space}};

static int take_space(void) {
    for (int i = 0;; i = (i + 1) % MOST_CALLERS) {
        if (!atomic_exchange(&spaces[i].taken, 1)) {
            if (spaces[i].space || (spaces[i].space = aligned_alloc(64, sizeof(workspace)))) return i;
            atomic_store(&spaces[i].taken, 0); /* out of memory: wait for one that is there */
        }
        if (i == MOST_CALLERS - 1) sched_yield();
    }
}

void TYPED(twostroke_product)(const product_call *call) {
    unsigned control = flush_subnormals();
    int space = take_space();
    whole_product((product){
        .a = call->a, .a_row = call->a_row, .a_depth = call->a_depth, .b = call->b, .b_row = call->b_row,
        .b_column = call->b_column, .c = call->c, .c_row = call->c_row, .c_column = call->c_column,
        .rows = call->rows, .columns = call->columns, .depth = call->depth,
        .alpha = *(const element *)call->alpha, .beta = *(const element *)call->beta, .space = spaces[space].space,
        .first = call->a == gathered.at ? gathered.first : 0,
        .to_p = call->p ? (element *)call->p - (element *)call->c : 0,
    });
    atomic_store(&spaces[space].taken, 0);
    end_flush(control);
}
