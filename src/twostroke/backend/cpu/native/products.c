/* Any product, by blocks of it (blocks.c) or, where one row meets a matrix, by rows.c. */

#if HAVE_PRODUCTS

static void whole_product(product p) {
    if (!p.depth) {
        for (word row = 0; row < p.rows; row++)
            for (word j = 0; j < p.columns; j++) {
                float *c = p.c + row * p.c_row + j * p.c_column;
                *c = p.beta == 0.0f ? 0.0f : p.beta * *c;
            }
        return;
    }
    if ((p.rows == 1 || p.depth == 1) && row_of_a(p)) return;
    if (large_b_product(p)) return;
    int wide = p.b_row == 1 && p.b_column != 1 && p.a_depth == 1 && p.columns > p.rows && p.columns * p.depth >= LARGE;
    int tall = p.a_row == 1 && p.a_depth != 1 && p.columns <= LANES && p.rows >= STRIP;
    if (wide || tall) {
        /* The transpose of C, from the transposes: so the smaller matrix is laid out in panels, or the larger read where
           it is, and no lanes of vectors are idle. */
        product turned = p;
        turned.a = p.b, turned.a_row = p.b_column, turned.a_depth = p.b_row;
        turned.b = p.a, turned.b_row = p.a_depth, turned.b_column = p.a_row;
        turned.c_row = p.c_column, turned.c_column = p.c_row, turned.rows = p.columns, turned.columns = p.rows;
        p = turned;
    }
    word width = p.depth * BLOCK_COLUMNS <= NEAR ? NEAR / p.depth / PANEL * PANEL : BLOCK_COLUMNS;
    product block = p;
    for (word column = 0; column < p.columns; column += width) {
        block.columns = p.columns - column < width ? p.columns - column : width;
        for (word d = 0; d < p.depth; d += BLOCK_DEPTH) {
            block.depth = p.depth - d < BLOCK_DEPTH ? p.depth - d : BLOCK_DEPTH;
            block.a = p.a + d * p.a_depth, block.b = p.b + d * p.b_row + column * p.b_column;
            block.c = p.c + column * p.c_column, block.beta = d ? 1.0f : p.beta;
            block_product(block);
        }
    }
}

#else
static void whole_product(product p) { (void)p, (void)share; }
#endif

/* a, its strides by row and depth (in elements, as all here), b, its strides by depth and column, c, its strides by row
   and column, rows, columns, depth, the addresses of alpha and beta. */
void twostroke_product(const word *op) {
    product p = {
        .a = (const float *)AT(op[0]), .a_row = op[1], .a_depth = op[2],
        .b = (const float *)AT(op[3]), .b_row = op[4], .b_column = op[5],
        .c = (float *)AT(op[6]), .c_row = op[7], .c_column = op[8],
        .rows = op[9], .columns = op[10], .depth = op[11],
        .alpha = *(const float *)AT(op[12]), .beta = *(const float *)AT(op[13]),
    };
    pthread_mutex_lock(&in_use);
    whole_product(p);
    pthread_mutex_unlock(&in_use);
}

word twostroke_has_products(void) { return HAVE_PRODUCTS; }
