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
    const float *panels;       /* those of B */
    word packs;                /* tasks that lay out B; those after them lay out A */
    word along_rows;           /* whether a task walks along rows of C before it goes down */
    word listed;               /* whether tiles pass over the depths at which all their rows of A are zero */
} product;

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#define HAVE_PRODUCTS 1

#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 12 };
typedef __m512 vector;
typedef __mmask16 mask;
#define first_lanes(n) ((mask)((1u << (n)) - 1))
#define load_part(m, p) _mm512_maskz_loadu_ps(m, p)
#define load(p) _mm512_loadu_ps(p)
#define store(p, v) _mm512_storeu_ps(p, v)
#define fill(x) _mm512_set1_ps(x)
#define multiply(x, y) _mm512_mul_ps(x, y)
#define multiply_add(x, y, z) _mm512_fmadd_ps(x, y, z)
#define not_zero(x) ((unsigned)_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NEQ_UQ))
#else
enum { LANES = 8, ROWS = 6 };
typedef __m256 vector;
typedef __m256i mask;
static const int32_t LANE_MASKS[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
#define first_lanes(n) _mm256_loadu_si256((const __m256i *)(LANE_MASKS + 8 - (n)))
#define load_part(m, p) _mm256_maskload_ps(p, m)
#define load(p) _mm256_loadu_ps(p)
#define store(p, v) _mm256_storeu_ps(p, v)
#define fill(x) _mm256_set1_ps(x)
#define multiply(x, y) _mm256_mul_ps(x, y)
#define multiply_add(x, y, z) _mm256_fmadd_ps(x, y, z)
#define not_zero(x) ((unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_NEQ_UQ)))
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
    LISTS = 8,             /* tiles of a task that have lists: of several rows */
};

/* The sums of a tile into C. Not inlined: each tile would bring a copy of it. */
__attribute__((noinline)) static void write_tile(const product *p, const float *sums, float *c, word rows, word columns) {
    vector alpha = fill(p->alpha), beta = fill(p->beta);
    word even = p->c_row == 1 ? rows & ~(word)3 : 0; /* rows that lie side by side: four by four */
    for (word r = 0; r < even; r += 4, sums += 4 * STRIP, c += 4)
        for (word j = 0; j < columns; j++) {
            __m128 value = _mm_mul_ps(_mm_set1_ps(p->alpha), _mm_setr_ps(sums[j], sums[STRIP + j], sums[2 * STRIP + j], sums[3 * STRIP + j]));
            float *to = c + j * p->c_column;
            _mm_storeu_ps(to, p->beta == 0.0f ? value : _mm_fmadd_ps(_mm_set1_ps(p->beta), _mm_loadu_ps(to), value));
        }
    for (word r = even; r < rows; r++, sums += STRIP, c += p->c_row) {
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

typedef struct {
    word count;
    uint16_t at[BLOCK_DEPTH];
} depths;

/* One tile of ``rows`` x ``vectors`` (constants of the compiler) of C at ``c``, ``columns`` of them to be written; over
   the whole depth, or over what is in ``list``. */
INLINE void tile(const product *p, const float *a, word a_row, word a_depth, const float *b, word b_row, float *c,
                 word columns, int rows, int vectors, int whole, const depths *list) {
    vector sum[ROWS][4], line[4];
    word depth = list ? list->count : p->depth;
    const float *first_a = a, *first_b = b;
    float sums[ROWS * STRIP];
    mask last = first_lanes(columns - (vectors - 1) * LANES);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[r][v] = fill(0.0f);
    for (word d = 0; d < depth; d++, a += a_depth, b += b_row) {
        if (list) a = first_a + list->at[d] * a_depth, b = first_b + list->at[d] * b_row;
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
INLINE int tile_rows(word rows) {
    if (rows >= ROWS) return ROWS;
    return rows >= 6 && rows % 4 >= 2 ? 6 : rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
}

/* The depths at which one of ``rows`` rows of A, no more than lanes, is not zero: black pixels are most of a picture.
   Their number; and if ``at`` is there, they. */
INLINE word nonzero_depths(const float *a, word a_row, word a_depth, word rows, word depth, uint16_t *at) {
    word n = 0, d = 0;
    if (a_row == 1) {
        for (mask m = first_lanes(rows); d < depth; d++) {
            if (at) at[n] = (uint16_t)d;
            n += not_zero(load_part(m, a + d * a_depth)) != 0;
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

static void list_depths(const float *a, word a_row, word a_depth, word rows, word depth, depths *list) {
    list->count = nonzero_depths(a, a_row, a_depth, rows, depth, list->at);
}

/* Whether lists pay, from the rows of two tiles. */
static int lists_pay(const product *p) {
    word found = 0, rows = p->rows < ROWS ? p->rows : ROWS, tiles = p->rows < 2 * ROWS ? 1 : 2;
    if (p->a_row != 1 && p->a_depth != 1) return 0;
    for (word i = 1; i <= tiles; i++) {
        word row = p->rows * i / 4 < p->rows - rows ? p->rows * i / 4 : p->rows - rows;
        found += nonzero_depths(p->a + row * p->a_row, p->a_row, p->a_depth, rows, p->depth, NULL);
    }
    return found * 8 < p->depth * tiles * 7;
}

#else
#define HAVE_PRODUCTS 0
#endif
