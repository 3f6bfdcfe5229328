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
    word packs;                /* tasks that lay out B; those after them lay out A */
    word along_rows;           /* whether a task walks along rows of C before it goes down */
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
    BLOCK_COLUMNS = 512,
    BLOCK_DEPTH = 1024,
    B_FLOATS = BLOCK_COLUMNS * BLOCK_DEPTH, /* B in panels takes 2 MiB at most, and so does A */
    A_FLOATS = B_FLOATS,
    NEAR = 1 << 17,        /* floats of B in panels that stay in a core's cache beside all else */
    CHUNK = 4 * ROWS,
    TASKS = 32,            /* that a product is cut into, if it has the rows and panels */
    WIDTH = 4,             /* panels that are laid out together: memory is quicker along rows */
    PACKED_ROWS = 24,      /* rows of C from which panels pay */
    LARGE = 1 << 18,       /* floats of a matrix that does not stay in a core's cache */
    SHARED = 1 << 17,      /* multiplications from which threads share a product */
    SHARED_ROW = 1 << 16,  /* the same where one row meets a matrix: memory is what takes the time */
    PARTS = 8,             /* of such a matrix */
    WIDEST = 1 << 13,      /* columns, for such parts */
    FACTORS = 1 << 14,     /* of one row of A, that are listed at once */
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
    word depth = p->depth;
    float sums[ROWS * STRIP];
    mask last = first_lanes(columns - (vectors - 1) * LANES);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[r][v] = fill(0.0f);
    for (word d = 0; d < depth; d++, a += a_depth, b += b_row) {
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
    if (columns == vectors * LANES && p->c_column == 1) {
        vector alpha = fill(p->alpha), beta = fill(p->beta);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) {
                float *to = c + r * p->c_row + v * LANES;
                vector value = multiply(alpha, sum[r][v]);
                store(to, p->beta == 0.0f ? value : multiply_add(beta, load(to), value));
            }
        return;
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) store(sums + r * STRIP + v * LANES, sum[r][v]);
    write_tile(p, sums, c, rows, columns);
}

/* The rows of A that a tile takes at once: what is left of ``rows``. */
INLINE int tile_rows(word rows) { return rows >= ROWS ? ROWS : rows >= 4 ? 4 : 1; }

/* Tiles of ``vectors`` next to each other, one below the other. */
INLINE void tiles(const product *p, const float *a, word rows, const float *b, word b_row, float *c, word columns,
                  int vectors, int whole) {
    for (word row = 0, n; row < rows; row += n, c += n * p->c_row) {
        n = tile_rows(rows - row);
        const float *from = a + row * (p->a_packed ? p->depth : p->a_row);
        word a_row = p->a_packed ? 1 : p->a_row, a_depth = p->a_packed ? n : p->a_depth;
        if (n == ROWS) tile(p, from, a_row, a_depth, b, b_row, c, columns, ROWS, vectors, whole);
        else if (n == 4) tile(p, from, a_row, a_depth, b, b_row, c, columns, 4, vectors, whole);
        else tile(p, from, a_row, a_depth, b, b_row, c, columns, 1, vectors, whole);
    }
}

/* Rows of A in the order in which tiles read them. Four rows to the end of a cache line, then the next four: rows whose
   distance is a power of two would throw each other out. */
static void pack_rows(const product *p, const float *a, word rows, float *to) {
    for (word row = 0, n; row < rows; row += n, a += n * p->a_row, to += n * p->depth) {
        n = tile_rows(rows - row);
        word d = 0;
        for (; p->a_depth == 1 && n % 4 == 0 && d + 16 <= p->depth; d += 16)
            for (word r = 0; r < n; r += 4)
                for (word i = d; i < d + 16; i += 4) {
                    const float *from = a + r * p->a_row + i;
                    float *out = to + i * n + r;
                    __m128 r0 = _mm_loadu_ps(from), r1 = _mm_loadu_ps(from + p->a_row);
                    __m128 r2 = _mm_loadu_ps(from + 2 * p->a_row), r3 = _mm_loadu_ps(from + 3 * p->a_row);
                    _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
                    _mm_storeu_ps(out, r0), _mm_storeu_ps(out + n, r1);
                    _mm_storeu_ps(out + 2 * n, r2), _mm_storeu_ps(out + 3 * n, r3);
                }
        for (; p->a_row == 1 && n % 4 == 0 && d < p->depth; d++)
            for (word r = 0; r < n; r += 4) _mm_storeu_ps(to + d * n + r, _mm_loadu_ps(a + r + d * p->a_depth));
        for (; d < p->depth; d++)
            for (word r = 0; r < n; r++) to[d * n + r] = a[r * p->a_row + d * p->a_depth];
    }
}

/* Panel ``index`` of B from row ``d`` to ``end``: its rows one after the other, zeros where B ends. */
static void pack_panel(const product *p, word index, word d, word end, float *to) {
    word column = index * PANEL, columns = p->columns - column < PANEL ? p->columns - column : PANEL;
    const float *b = p->b + column * p->b_column;
    to += column * p->depth + d * PANEL;
    if (columns < PANEL) memset(to, 0, (size_t)((end - d) * PANEL) * sizeof(float));
    for (; p->b_row == 1 && d + 4 <= end; d += 4, to += 4 * PANEL) {
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
    for (; d < end; d++, to += PANEL)
        for (word j = 0; j < columns; j++) to[j] = b[d * p->b_row + j * p->b_column];
}

/* Whole panels ``first`` to ``stop`` of a B whose rows are contiguous. */
static void pack_panels(const product *p, word first, word stop, word d, word end, float *to) {
    for (; d < end; d++)
        for (word panel = first; panel < stop; panel++) {
            const float *from = p->b + d * p->b_row + panel * PANEL;
            float *line = to + (panel * p->depth + d) * PANEL;
            store(line, load(from)), store(line + LANES, load(from + LANES));
        }
}

static float panels[B_FLOATS] __attribute__((aligned(64)));
static float rows_of_a[A_FLOATS] __attribute__((aligned(64)));

static void pack_task(const void *argument, word index) {
    const product *p = argument;
    if (index >= p->packs) {
        word row = (index - p->packs) * p->chunk, rows = p->rows - row < p->chunk ? p->rows - row : p->chunk;
        pack_rows(p, p->a + row * p->a_row, rows, rows_of_a + row * p->depth);
        return;
    }
    /* A quarter of the depth of some panels. */
    word quarter = (p->depth + 3) / 4, d = index % 4 * quarter, end = d + quarter < p->depth ? d + quarter : p->depth;
    word first = index / 4 * WIDTH, stop = first + WIDTH, whole = p->b_column == 1 ? p->columns / PANEL : 0;
    if (whole > stop) whole = stop;
    if (first < whole) pack_panels(p, first, whole, d, end, panels);
    for (word panel = first < whole ? whole : first; panel < stop && panel * PANEL < p->columns; panel++)
        if (d < end) pack_panel(p, panel, d, end, panels);
}

/* Some rows of C by a panel of B. */
static void panel_tiles(const product *p, const float *a, word row, word rows, word panel) {
    word column = panel * PANEL, columns = p->columns - column < PANEL ? p->columns - column : PANEL;
    const float *b = p->packed ? panels + column * p->depth : p->b + column;
    float *c = p->c + row * p->c_row + column * p->c_column;
    word b_row = p->packed ? PANEL : p->b_row;
    if (columns <= LANES && p->packed) tiles(p, a, rows, b, b_row, c, columns, 1, 1);
    else if (columns <= LANES) tiles(p, a, rows, b, b_row, c, columns, 1, 0);
    else if (columns == PANEL || p->packed) tiles(p, a, rows, b, b_row, c, columns, 2, 1);
    else tiles(p, a, rows, b, b_row, c, columns, 2, 0);
}

/* Some rows of C by some panels of B. */
static void tiles_task(const void *argument, word index) {
    const product *p = argument;
    word row = index % p->chunks * p->chunk, first = index / p->chunks * p->group, count = (p->columns + PANEL - 1) / PANEL;
    word end = row + p->chunk < p->rows ? row + p->chunk : p->rows;
    word stop = first + p->group < count ? first + p->group : count;
    for (word n = p->along_rows ? ROWS : p->chunk; row < end; row += n) {
        word rows = end - row < n ? end - row : n;
        const float *a = p->a_packed ? rows_of_a + row * p->depth : p->a + row * p->a_row;
        for (word panel = first; panel < stop; panel++) panel_tiles(p, a, row, rows, panel);
    }
}

/* Few rows of A and a large B, which is read where it is, in strips: wide ones, for memory is quicker along rows. */
static void strips_task(const void *argument, word index) {
    enum { N = LANES == 16 ? 6 : 2 };
    const product *p = argument;
    const float *b = p->b + index * STRIP, *a = p->a;
    float *c = p->c + index * STRIP * p->c_column;
    for (word left = p->rows, n; left; left -= n, a += n * p->a_row, c += n * p->c_row) {
        n = left >= N ? N : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (n == N) tile(p, a, p->a_row, p->a_depth, b, p->b_row, c, STRIP, N, 4, 1);
        else if (n == 4) tile(p, a, p->a_row, p->a_depth, b, p->b_row, c, STRIP, 4, 4, 1);
        else if (n == 2) tile(p, a, p->a_row, p->a_depth, b, p->b_row, c, STRIP, 2, 4, 1);
        else tile(p, a, p->a_row, p->a_depth, b, p->b_row, c, STRIP, 1, 4, 1);
    }
}

/* A block of the columns and of the depth. */
static void block_product(product p) {
    if (p.rows < PACKED_ROWS && p.b_column == 1 && (p.columns * p.depth >= LARGE || p.c_column != 1)) {
        word strips = p.columns / STRIP;
        share(strips_task, &p, strips, p.rows * p.columns * p.depth >= SHARED);
        p.b += strips * STRIP, p.c += strips * STRIP * p.c_column, p.columns -= strips * STRIP;
        if (!p.columns) return;
    }
    int worth = p.rows * p.columns * p.depth >= SHARED;
    word count = (p.columns + PANEL - 1) / PANEL, rows = p.rows, all = A_FLOATS / p.depth / CHUNK * CHUNK;
    p.packed = rows >= PACKED_ROWS || p.b_column != 1;
    p.a_packed = rows >= PACKED_ROWS && p.columns >= 256;
    p.chunk = rows * count < CHUNK * TASKS ? ROWS : CHUNK;
    p.along_rows = p.columns * p.depth <= NEAR;
    p.packs = p.packed ? 4 * ((count + WIDTH - 1) / WIDTH) : 0;
    for (word row = 0; row < rows; row += p.rows, p.a += p.rows * p.a_row, p.c += p.rows * p.c_row, p.packs = 0) {
        p.rows = p.a_packed && rows - row > all ? all : rows - row;
        p.chunks = (p.rows + p.chunk - 1) / p.chunk;
        word parts = (TASKS + p.chunks - 1) / p.chunks, packs = p.packs + (p.a_packed ? p.chunks : 0);
        p.group = (count + parts - 1) / parts;
        if (packs) share(pack_task, &p, packs, worth && packs > 4);
        share(tiles_task, &p, p.chunks * ((count + p.group - 1) / p.group), worth);
    }
}

/* --- one row of A ------------------------------------------------------------------------------------------ */

/* A pixel that is black and a unit that is off are zeros: the rows of a matrix that they meet are neither read nor
   changed. (An infinity in such a row does not come through.) */
static float factors[FACTORS];
static word places[FACTORS];

/* The elements of a vector, and where they lie in steps of ``far``; those that are zero only if ``zeros``. */
static word list_factors(const float *a, word stride, word count, word far, int zeros) {
    word n = 0;
    for (word i = 0; i < count; i++) {
        factors[n] = a[i * stride], places[n] = i * far;
        n += zeros || factors[n] != 0.0f;
    }
    return n;
}

/* The listed factors times their rows of B: strips of columns, or else the sums would wait for each other. */
INLINE void row_strip(const product *p, const float *b, word first, word stop, float *c, word columns, int vectors, int whole) {
    vector sum[4] = {fill(0.0f), fill(0.0f), fill(0.0f), fill(0.0f)};
    float sums[STRIP];
    mask last = first_lanes(columns - (vectors - 1) * LANES);
    for (word i = first; i < stop; i++) {
        const float *line = b + places[i];
        vector x = fill(factors[i]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            sum[v] = multiply_add(x, whole || v < vectors - 1 ? load(line + v * LANES) : load_part(last, line + v * LANES), sum[v]);
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) store(sums + v * LANES, sum[v]);
    write_tile(p, sums, c, 1, columns);
}

static void row_product(const product *p, word first, word stop) {
    word j = 0, n = p->columns;
    for (; j + STRIP <= n; j += STRIP) row_strip(p, p->b + j, first, stop, p->c + j, STRIP, 4, 1);
    for (; j + PANEL <= n; j += PANEL) row_strip(p, p->b + j, first, stop, p->c + j, PANEL, 2, 1);
    if (j + LANES < n) row_strip(p, p->b + j, first, stop, p->c + j, n - j, 2, 0);
    else if (j < n) row_strip(p, p->b + j, first, stop, p->c + j, n - j, 1, 0);
}

/* A part of the factors, into a row of its own of C. */
static void row_task(const void *argument, word index) {
    product part = *(const product *)argument;
    word first = index * part.chunk, stop = first + part.chunk < part.depth ? first + part.chunk : part.depth;
    part.c += index * part.columns;
    row_product(&part, first, stop);
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

/* Depth one, what a batch of one sample adds to the weights: row by row of C, those that are listed. The end of a row is
   written exactly: a masked store would hold up the load of the next row. */
static void outer_task(const void *argument, word index) {
    const product *p = argument;
    word i = index * p->chunk, end = i + p->chunk < p->rows ? i + p->chunk : p->rows, n = p->columns;
    const float *b = p->b;
    float beta = p->beta;
    for (; i < end; i++) {
        float x = p->alpha * factors[i], *y = p->c + places[i];
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

static void row_by_matrix(product p) {
    static float sums[PARTS * WIDEST];
    product part = p;
    part.depth = list_factors(p.a, p.a_depth, p.depth, p.b_row, 0);
    word parts = part.depth * p.columns >= SHARED_ROW && p.columns <= WIDEST ? PARTS : 1;
    if (parts == 1) {
        row_product(&p, 0, part.depth);
        return;
    }
    part.c = sums, part.alpha = 1.0f, part.beta = 0.0f, part.chunk = (part.depth + parts - 1) / parts;
    share(row_task, &part, parts, 1);
    for (word j = 0; j < p.columns; j++) {
        float sum = sums[j];
        for (word i = 1; i < parts; i++) sum += sums[i * p.columns + j];
        sum *= p.alpha;
        p.c[j] = p.beta == 0.0f ? sum : __builtin_fmaf(p.beta, p.c[j], sum);
    }
}

/* The number of parts of a matrix that meets one row does not depend on the number of threads. */
static int row_of_a(product p) {
    if (p.depth == 1 && p.b_column == 1 && p.c_column == 1) {
        product part = p;
        for (word row = 0; row < p.rows; row += FACTORS, part.c += FACTORS * p.c_row) {
            word count = p.rows - row < FACTORS ? p.rows - row : FACTORS;
            part.rows = list_factors(p.a + row * p.a_row, p.a_row, count, p.c_row, p.beta != 1.0f);
            word parts = part.rows * p.columns >= SHARED_ROW ? PARTS : 1;
            part.chunk = (part.rows + parts - 1) / parts;
            share(outer_task, &part, parts, parts > 1);
        }
    } else if (p.rows == 1 && p.b_row == 1 && p.a_depth == 1 && p.c_column == 1 && p.b_column != 1) {
        word parts = p.columns * p.depth >= SHARED_ROW && p.columns <= WIDEST ? PARTS : 1;
        p.chunk = (p.columns + parts - 1) / parts;
        share(dots_task, &p, parts, parts > 1);
    } else if (p.rows == 1 && p.b_column == 1 && p.c_column == 1) {
        product part = p;
        for (word d = 0; d < p.depth; d += FACTORS) {
            part.depth = p.depth - d < FACTORS ? p.depth - d : FACTORS;
            part.a = p.a + d * p.a_depth, part.b = p.b + d * p.b_row, part.beta = d ? 1.0f : p.beta;
            row_by_matrix(part);
        }
    } else {
        return 0;
    }
    return 1;
}

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
