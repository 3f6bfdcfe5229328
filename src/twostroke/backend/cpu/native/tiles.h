/* Matrix products in float32: C <- alpha A B + beta C, every matrix with strides of its own. Here: the vectors of this
   variant's instructions, and one tile.

   A tile of C stays in registers while the depth (the summed axis) is walked. B is first packed into panels as wide as a
   tile, unless C has so few rows that this would not pay. Every element is summed in one order, whatever the number of
   threads and whatever the rows beside it: its bits depend on neither.

   Depths at which all rows of A in a tile are zero are skipped: 0 * infinity and 0 * NaN then count as 0. */

#pragma once
#include "library.h"
#include <immintrin.h>

#ifdef TWOSTROKE_AVX512
enum { LANES = 16, ROWS = 12 };
typedef __m512 vector; typedef __mmask16 mask;
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
typedef __m256 vector; typedef __m256i mask;
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
#define EACH(i, n) _Pragma("GCC unroll 12") for (int i = 0; i < (n); i++) /* unrolled: what is indexed stays in registers */

enum {
    PANEL = 2 * LANES,
    STRIP = 4 * LANES,
    BLOCK_COLUMNS = 512,
    BLOCK_DEPTH = 1024,
    B_FLOATS = BLOCK_COLUMNS * BLOCK_DEPTH, A_FLOATS = B_FLOATS, /* packed B and packed A: at most 2 MiB each */
    NEAR = 1 << 17,       /* floats of packed B that stay in a core's cache beside everything else */
    CHUNK = 4 * ROWS,     /* rows of a task */
    TASKS = 32,           /* of one product, if it has enough rows and panels */
    WIDTH = 4,            /* panels packed together: memory is faster along rows */
    PACKED_ROWS = 24,     /* rows of C from which packing B pays */
    LARGE = 1 << 18,      /* floats of a matrix that does not stay in a core's cache */
    SHARED = 1 << 17,     /* multiplications from which threads share a product */
    SHARED_ROW = 1 << 16, /* the same for one row of A: bound by reading B, which is cut into PARTS */
    PARTS = 8,
    WIDEST = 1 << 13,     /* columns for which the parts have memory */
    FACTORS = 1 << 14,    /* elements of a row of A that are listed at once */
    LISTS = 8,            /* the most tiles of a task, for their lists */
};

typedef struct { word count; uint16_t at[BLOCK_DEPTH]; } depths; /* those at which not all rows of A are zero */

/* Memory for packed matrices and lists: one for each product that is being computed (products.c hands them out). */
typedef struct {
    float panels[B_FLOATS], rows_of_a[A_FLOATS], sums[PARTS * WIDEST], factors[FACTORS];
    word places[FACTORS];
    depths strip_lists[PACKED_ROWS];
} __attribute__((aligned(64))) workspace;

typedef struct {
    const float *a, *b;
    float *c;
    word a_row, a_depth, b_row, b_column, c_row, c_column, rows, columns, depth;
    float alpha, beta;
    workspace *space;
    word chunk, chunks, group; /* rows of a task, the number of such tasks, the panels of one */
    word packed, a_packed;     /* whether B is in panels, and A in rows of tiles */
    const float *panels;       /* those of B */
    word packs;                /* tasks that pack B; those after them pack A */
    word along_rows, listed;   /* whether a task walks along rows of C first; whether tiles skip depths by lists */
} product;

void write_tile(const product *p, const float *sums, float *c, word rows, word columns);
void list_depths(const float *a, word a_row, word a_depth, word rows, word depth, depths *list);
int lists_pay(const product *p);
int large_b_product(product p);
void block_product(product p);
int row_of_a(product p);

/* One tile of C at `c`, `rows` x `vectors` (constants of the compiler), `columns` of it written: summed over the whole
   depth, or over the depths in `list`. */
INLINE void tile(const product *p, const float *a, word a_row, word a_depth, const float *b, word b_row, float *c,
                 word columns, int rows, int vectors, int whole, const depths *list) {
    vector sum[ROWS][4], line[4];
    word depth = list ? list->count : p->depth;
    const float *first_a = a, *first_b = b;
    float sums[ROWS * STRIP];
    mask last = first_lanes(columns - (vectors - 1) * LANES);
    EACH(r, rows) EACH(v, vectors) sum[r][v] = fill(0.0f);
    for (word d = 0; d < depth; d++, a += a_depth, b += b_row) {
        if (list) a = first_a + list->at[d] * a_depth, b = first_b + list->at[d] * b_row;
        EACH(v, vectors) line[v] = whole || v < vectors - 1 ? load(b + v * LANES) : load_part(last, b + v * LANES);
        EACH(r, rows) {
            vector x = fill(a[r * a_row]);
            EACH(v, vectors) sum[r][v] = multiply_add(x, line[v], sum[r][v]);
        }
    }
    if (columns == vectors * LANES && p->c_column == 1) {
        vector alpha = fill(p->alpha), beta = fill(p->beta);
        EACH(r, rows) EACH(v, vectors) {
            float *to = c + r * p->c_row + v * LANES;
            vector value = multiply(alpha, sum[r][v]);
            store(to, p->beta == 0.0f ? value : multiply_add(beta, load(to), value));
        }
        return;
    }
    EACH(r, rows) EACH(v, vectors) store(sums + r * STRIP + v * LANES, sum[r][v]);
    write_tile(p, sums, c, rows, columns);
}

/* The rows of the next tile, of `rows` that are left. */
INLINE int tile_rows(word rows) {
    if (rows >= ROWS) return ROWS;
    return rows >= 6 && rows % 4 >= 2 ? 6 : rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
}
