/* Matrix products in float32: C <- alpha A B + beta C, every matrix with strides of its own.

   A tile of C stays in registers while the depth is walked. B is first laid out in panels as wide as a tile, unless C
   has so few rows that this would not pay. Every element is summed in one order, whatever the number of threads and
   whatever the rows beside it: its bits depend on neither. */

#include <string.h>

typedef struct {
    const float *a, *b;
    float *c;
    word a_row, a_depth, b_row, b_column, c_row, c_column, rows, columns, depth;
    float alpha, beta;
    word chunk, chunks, group; /* rows of a task, the number of such tasks, the panels of one */
    word packed, a_packed;     /* whether B is in panels, and A in rows of tiles */
} product;

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>

#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 12 };
typedef __m512 vector;
typedef __mmask16 mask;
#define first_lanes(n) ((mask)((1u << (n)) - 1))
#define load_part(m, p) _mm512_maskz_loadu_ps(m, p)
#define store_part(p, m, v) _mm512_mask_storeu_ps(p, m, v)
#define load(p) _mm512_loadu_ps(p)
#define store(p, v) _mm512_storeu_ps(p, v)
#define fill(x) _mm512_set1_ps(x)
#define multiply(x, y) _mm512_mul_ps(x, y)
#define multiply_add(x, y, z) _mm512_fmadd_ps(x, y, z)
#else
enum { LANES = 8, ROWS = 6 };
typedef __m256 vector;
typedef __m256i mask;
static const int32_t LANE_MASKS[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
#define first_lanes(n) _mm256_loadu_si256((const __m256i *)(LANE_MASKS + 8 - (n)))
#define load_part(m, p) _mm256_maskload_ps(p, m)
#define store_part(p, m, v) _mm256_maskstore_ps(p, m, v)
#define load(p) _mm256_loadu_ps(p)
#define store(p, v) _mm256_storeu_ps(p, v)
#define fill(x) _mm256_set1_ps(x)
#define multiply(x, y) _mm256_mul_ps(x, y)
#define multiply_add(x, y, z) _mm256_fmadd_ps(x, y, z)
#endif

#define INLINE static inline __attribute__((always_inline))

enum {
    PANEL = 2 * LANES,
    STRIP = 4 * LANES,
    BLOCK_COLUMNS = 512, /* B in panels takes 2 MiB at most */
    BLOCK_DEPTH = 1024,
    CHUNK = 4 * ROWS,
    TASKS = 16,            /* that a product is cut into, if it has the rows and panels */
    PACKED_ROWS = 24,      /* rows of C from which panels pay */
    SHARED = 1 << 17,      /* multiplications from which threads share a product */
    SHARED_ROW = 1 << 16,  /* the same where one row meets a matrix: memory is what takes the time */
    PARTS = 8,             /* of such a matrix */
    WIDEST = 1 << 13,      /* columns, for such parts */
};

/* The sums of a tile into C. Not inlined: each tile would bring a copy of it. */
__attribute__((noinline)) static void write_tile(const product *p, const float *sums, float *c, word rows, word columns) {
    vector alpha = fill(p->alpha), beta = fill(p->beta);
    for (word r = 0; r < rows; r++, sums += STRIP, c += p->c_row) {
        word j = 0;
        for (; p->c_column == 1 && j + LANES <= columns; j += LANES) {
            vector value = multiply(alpha, load(sums + j));
            store(c + j, p->beta == 0.0f ? value : multiply_add(beta, load(c + j), value));
        }
        for (; p->c_column == 1 && j + 4 <= columns; j += 4) {
            __m128 value = _mm_mul_ps(_mm_set1_ps(p->alpha), _mm_loadu_ps(sums + j));
            _mm_storeu_ps(c + j, p->beta == 0.0f ? value : _mm_fmadd_ps(_mm_set1_ps(p->beta), _mm_loadu_ps(c + j), value));
        }
        for (; j < columns; j++) {
            float *to = c + j * p->c_column, value = p->alpha * sums[j];
            *to = p->beta == 0.0f ? value : __builtin_fmaf(p->beta, *to, value);
        }
    }
}

/* One tile of ``rows`` x ``vectors`` (constants of the compiler) of C at ``c``, ``columns`` of them to be written. */
INLINE void tile(const product *p, const float *a, word a_row, word a_depth, const float *b, word b_row, float *c,
                 word columns, int rows, int vectors, int whole) {
    vector sum[ROWS][4], line[4];
    float sums[ROWS * STRIP];
    mask last = first_lanes(columns - (vectors - 1) * LANES);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[r][v] = fill(0.0f);
    for (word d = 0; d < p->depth; d++, a += a_depth, b += b_row) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            line[v] = whole || v < vectors - 1 ? load(b + v * LANES) : load_part(last, b + v * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            vector x = fill(a[r * a_row]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sum[r][v] = multiply_add(x, line[v], sum[r][v]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) store(sums + r * STRIP + v * LANES, sum[r][v]);
    write_tile(p, sums, c, rows, columns);
}

/* The rows of A that a tile takes at once: what is left of ``rows``. */
INLINE int tile_rows(word rows) { return rows >= ROWS ? ROWS : rows >= 4 ? 4 : 1; }

INLINE void tiles(const product *p, const float *a, int a_packed, word rows, const float *b, word b_row, float *c,
                  word columns, int vectors, int whole) {
    for (word row = 0, n; row < rows; row += n, c += n * p->c_row) {
        n = tile_rows(rows - row);
        const float *from = a + row * (a_packed ? p->depth : p->a_row);
        word a_row = a_packed ? 1 : p->a_row, a_depth = a_packed ? n : p->a_depth;
        if (n == ROWS) tile(p, from, a_row, a_depth, b, b_row, c, columns, ROWS, vectors, whole);
        else if (n == 4) tile(p, from, a_row, a_depth, b, b_row, c, columns, 4, vectors, whole);
        else tile(p, from, a_row, a_depth, b, b_row, c, columns, 1, vectors, whole);
    }
}

/* Rows of A in the order in which tiles read them. */
static void pack_rows(const product *p, const float *a, word rows, float *to) {
    for (word row = 0, n; row < rows; row += n, a += n * p->a_row) {
        n = tile_rows(rows - row);
        word d = 0;
        for (; p->a_depth == 1 && n % 4 == 0 && d + 4 <= p->depth; d += 4, to += 4 * n)
            for (word r = 0; r < n; r += 4) {
                const float *from = a + r * p->a_row + d;
                __m128 r0 = _mm_loadu_ps(from), r1 = _mm_loadu_ps(from + p->a_row);
                __m128 r2 = _mm_loadu_ps(from + 2 * p->a_row), r3 = _mm_loadu_ps(from + 3 * p->a_row);
                _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
                _mm_storeu_ps(to + r, r0), _mm_storeu_ps(to + n + r, r1);
                _mm_storeu_ps(to + 2 * n + r, r2), _mm_storeu_ps(to + 3 * n + r, r3);
            }
        for (; p->a_row == 1 && n % 4 == 0 && d < p->depth; d++, to += n)
            for (word r = 0; r < n; r += 4) _mm_storeu_ps(to + r, _mm_loadu_ps(a + r + d * p->a_depth));
        for (; d < p->depth; d++, to += n)
            for (word r = 0; r < n; r++) to[r] = a[r * p->a_row + d * p->a_depth];
    }
}

static float panels[BLOCK_COLUMNS * BLOCK_DEPTH] __attribute__((aligned(64)));

/* Some rows of C by some panels of B. */
static void tiles_task(const void *argument, word index) {
    static _Thread_local float rows_of_a[CHUNK * BLOCK_DEPTH] __attribute__((aligned(64)));
    const product *p = argument;
    word row = index % p->chunks * p->chunk, first = index / p->chunks * p->group;
    word rows = p->rows - row < p->chunk ? p->rows - row : p->chunk, a_packed = p->a_packed;
    const float *a = p->a + row * p->a_row;
    if (a_packed) pack_rows(p, a, rows, rows_of_a), a = rows_of_a;
    for (word panel = first; panel < first + p->group && panel * PANEL < p->columns; panel++) {
        word column = panel * PANEL, columns = p->columns - column < PANEL ? p->columns - column : PANEL;
        const float *b = p->packed ? panels + column * p->depth : p->b + column;
        float *c = p->c + row * p->c_row + column * p->c_column;
        word b_row = p->packed ? PANEL : p->b_row;
        if (columns <= LANES && p->packed) tiles(p, a, (int)a_packed, rows, b, b_row, c, columns, 1, 1);
        else if (columns <= LANES) tiles(p, a, (int)a_packed, rows, b, b_row, c, columns, 1, 0);
        else if (columns == PANEL || p->packed) tiles(p, a, (int)a_packed, rows, b, b_row, c, columns, 2, 1);
        else tiles(p, a, (int)a_packed, rows, b, b_row, c, columns, 2, 0);
    }
}

/* Panel ``index`` of B: its rows one after the other, zeros where B ends. */
static void pack_task(const void *argument, word index) {
    const product *p = argument;
    word column = index * PANEL, columns = p->columns - column < PANEL ? p->columns - column : PANEL, d = 0;
    const float *b = p->b + column * p->b_column;
    float *to = panels + column * p->depth;
    if (columns < PANEL) memset(to, 0, (size_t)(p->depth * PANEL) * sizeof(float));
    if (p->b_column == 1) {
        for (; d < p->depth; d++, to += PANEL) memcpy(to, b + d * p->b_row, (size_t)columns * sizeof(float));
        return;
    }
    for (; p->b_row == 1 && d + 4 <= p->depth; d += 4, to += 4 * PANEL) {
        word j = 0;
        for (; j + 4 <= columns; j += 4) {
            const float *from = b + d + j * p->b_column;
            __m128 r0 = _mm_loadu_ps(from), r1 = _mm_loadu_ps(from + p->b_column);
            __m128 r2 = _mm_loadu_ps(from + 2 * p->b_column), r3 = _mm_loadu_ps(from + 3 * p->b_column);
            _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
            _mm_storeu_ps(to + j, r0), _mm_storeu_ps(to + PANEL + j, r1);
            _mm_storeu_ps(to + 2 * PANEL + j, r2), _mm_storeu_ps(to + 3 * PANEL + j, r3);
        }
        for (; j < columns; j++)
            for (word i = 0; i < 4; i++) to[i * PANEL + j] = b[d + i + j * p->b_column];
    }
    for (; d < p->depth; d++, to += PANEL)
        for (word j = 0; j < columns; j++) to[j] = b[d * p->b_row + j * p->b_column];
}

/* A block of the columns and of the depth. */
static void block_product(product p) {
    int worth = p.rows * p.columns * p.depth >= SHARED;
    word count = (p.columns + PANEL - 1) / PANEL;
    p.packed = p.rows >= PACKED_ROWS || p.b_column != 1;
    if (p.packed) share(pack_task, &p, count, worth && count > 1);
    p.a_packed = p.rows >= PACKED_ROWS && p.columns >= 256;
    p.chunk = p.rows < CHUNK * TASKS ? ROWS : CHUNK;
    p.chunks = (p.rows + p.chunk - 1) / p.chunk;
    p.group = p.chunks >= TASKS ? count : (count * p.chunks + TASKS - 1) / TASKS;
    share(tiles_task, &p, p.chunks * ((count + p.group - 1) / p.group), worth);
}

/* --- one row of A ------------------------------------------------------------------------------------------ */

/* Strips of columns, or else the sums would wait for each other. */
static void row_product(const product *p) {
    word j = 0, n = p->columns;
    for (; j + STRIP <= n; j += STRIP) tile(p, p->a, 0, p->a_depth, p->b + j, p->b_row, p->c + j, STRIP, 1, 4, 1);
    for (; j + PANEL <= n; j += PANEL) tile(p, p->a, 0, p->a_depth, p->b + j, p->b_row, p->c + j, PANEL, 1, 2, 1);
    if (j + LANES < n) tile(p, p->a, 0, p->a_depth, p->b + j, p->b_row, p->c + j, n - j, 1, 2, 0);
    else if (j < n) tile(p, p->a, 0, p->a_depth, p->b + j, p->b_row, p->c + j, n - j, 1, 1, 0);
}

/* The sum over a part of the depth, into a row of its own of C. */
static void row_task(const void *argument, word index) {
    product part = *(const product *)argument;
    word first = index * part.chunk;
    part.a += first * part.a_depth, part.b += first * part.b_row, part.c += index * part.columns;
    part.depth = part.depth - first < part.chunk ? part.depth - first : part.chunk;
    if (part.depth < 0) part.depth = 0;
    row_product(&part);
}

INLINE float dot(const float *a, const float *b, vector sums, word d, word depth) {
    float values[LANES], sum = 0.0f;
    for (; d + LANES <= depth; d += LANES) sums = multiply_add(load(a + d), load(b + d), sums);
    for (; d < depth; d++) sum = __builtin_fmaf(a[d], b[d], sum);
    store(values, sums);
    for (int n = LANES / 2; n; n /= 2)
        for (int v = 0; v < n; v++) values[v] += values[v + n];
    return values[0] + sum;
}

/* The transpose of a matrix: every element of C is a row of it times a row. */
static void dots_task(const void *argument, word index) {
    const product *p = argument;
    word first = index * p->chunk, end = first + p->chunk < p->columns ? first + p->chunk : p->columns;
    word even = p->depth / (2 * LANES) * 2 * LANES, together;
    for (word j = first; j < end; j += together) {
        const float *b = p->b + j * p->b_column;
        word step = p->b_column;
        together = end - j < 4 ? 1 : 4; /* rows: their sums do not wait for each other */
        vector sums[4][2] = {{fill(0.0f), fill(0.0f)}, {fill(0.0f), fill(0.0f)}, {fill(0.0f), fill(0.0f)}, {fill(0.0f), fill(0.0f)}};
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
            float value = p->alpha * dot(p->a, b + r * step, sums[r][0] + sums[r][1], even, p->depth), *c = p->c + j + r;
            *c = p->beta == 0.0f ? value : __builtin_fmaf(p->beta, *c, value);
        }
    }
}

/* Depth one, what a batch of one sample adds to the weights: C is walked through once, row by row. The end of a row is
   written exactly: a masked store would hold up the load of the next row. */
static void outer_task(const void *argument, word index) {
    const product *p = argument;
    word row = index * p->chunk, end = row + p->chunk < p->rows ? row + p->chunk : p->rows, n = p->columns;
    const float *b = p->b;
    float beta = p->beta;
    for (; row < end; row++) {
        float x = p->alpha * p->a[row * p->a_row], *y = p->c + row * p->c_row;
        word j = 0;
        for (; j + LANES <= n; j += LANES) {
            vector old = beta == 0.0f ? fill(0.0f) : multiply(fill(beta), load(y + j));
            store(y + j, multiply_add(fill(x), load(b + j), old));
        }
        for (; j + 4 <= n; j += 4) {
            __m128 old = beta == 0.0f ? _mm_setzero_ps() : _mm_mul_ps(_mm_set1_ps(beta), _mm_loadu_ps(y + j));
            _mm_storeu_ps(y + j, _mm_fmadd_ps(_mm_set1_ps(x), _mm_loadu_ps(b + j), old));
        }
        for (; j < n; j++) y[j] = __builtin_fmaf(x, b[j], beta == 0.0f ? 0.0f : beta * y[j]);
    }
}

/* A matrix that meets one row is shared in the same parts of its rows when it is read and when it is changed: each
   thread finds its part in its own cache. The number of parts does not depend on the number of threads. */
static int row_of_a(product p) {
    word work = p.rows * p.columns * p.depth, parts = work >= SHARED_ROW && p.columns <= WIDEST ? PARTS : 1;
    if (p.depth == 1 && p.b_column == 1 && p.c_column == 1) {
        p.chunk = (p.rows + parts - 1) / parts;
        share(outer_task, &p, parts, parts > 1);
    } else if (p.rows == 1 && p.b_row == 1 && p.a_depth == 1 && p.c_column == 1 && p.b_column != 1) {
        p.chunk = (p.columns + parts - 1) / parts;
        share(dots_task, &p, parts, parts > 1);
    } else if (p.rows == 1 && p.b_column == 1 && p.c_column == 1 && parts == 1) {
        row_product(&p);
    } else if (p.rows == 1 && p.b_column == 1 && p.c_column == 1) {
        static float sums[PARTS * WIDEST];
        product part = p;
        part.c = sums, part.beta = 0.0f, part.chunk = (p.depth + parts - 1) / parts;
        share(row_task, &part, parts, 1);
        for (word j = 0; j < p.columns; j++) {
            float sum = sums[j];
            for (word i = 1; i < parts; i++) sum += sums[i * p.columns + j];
            p.c[j] = p.beta == 0.0f ? sum : __builtin_fmaf(p.beta, p.c[j], sum);
        }
    } else {
        return 0;
    }
    return 1;
}

static void whole_product(product p) {
    if ((p.rows == 1 || p.depth == 1) && row_of_a(p)) return;
    product block = p;
    for (word column = 0; column < p.columns; column += BLOCK_COLUMNS) {
        block.columns = p.columns - column < BLOCK_COLUMNS ? p.columns - column : BLOCK_COLUMNS;
        for (word d = 0; d < p.depth; d += BLOCK_DEPTH) {
            block.depth = p.depth - d < BLOCK_DEPTH ? p.depth - d : BLOCK_DEPTH;
            block.a = p.a + d * p.a_depth, block.b = p.b + d * p.b_row + column * p.b_column;
            block.c = p.c + column * p.c_column, block.beta = d ? 1.0f : p.beta;
            block_product(block);
        }
    }
}

#define HAVE_PRODUCTS 1
#else
static void whole_product(product p) { (void)p, (void)share; }
#define HAVE_PRODUCTS 0
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
