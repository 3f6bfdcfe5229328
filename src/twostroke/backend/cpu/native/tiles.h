/* Matrix products, compiled once for float32 and once for float64: C <- alpha A B + beta C, every matrix with strides of its own. Here: the vectors of this
   variant's instructions, and one tile.

   A tile of C stays in registers while the depth (the summed axis) is walked. B is first packed into panels as wide as a
   tile, unless C has so few rows that this would not pay. Every element is summed in one order, whatever the number of
   threads and whatever the rows beside it: its bits depend on neither.

   Depths at which all rows of A in a tile are zero are skipped: 0 * infinity and 0 * NaN then count as 0. */

#pragma once
#include "library.h"
#include <immintrin.h>

#ifdef TWOSTROKE_DOUBLE
typedef double element;
#define TYPED(name) name##_double /* a function that there is for each type of element */
#define OF_TYPE(name) name##pd    /* an intrinsic of this type: four elements, or a vector */
#define FOUR(name) OF_TYPE(_mm256_##name##_)
typedef __m256d four;
#define fused(x, y, z) __builtin_fma(x, y, z)
#else
typedef float element;
#define TYPED(name) name##_float
#define OF_TYPE(name) name##ps
#define FOUR(name) OF_TYPE(_mm_##name##_)
typedef __m128 four;
#define fused(x, y, z) __builtin_fmaf(x, y, z)
#endif

#ifdef TWOSTROKE_AVX512
enum { LANES = 64 / sizeof(element), ROWS = 12, STRIP_ROWS = 6 };
#define VECTOR(name) OF_TYPE(_mm512_##name##_)
#ifdef TWOSTROKE_DOUBLE
typedef __m512d vector; typedef __mmask8 mask;
#define not_zero(x) ((unsigned)_mm512_cmp_pd_mask(x, fill(0), _CMP_NEQ_UQ))
#else
typedef __m512 vector; typedef __mmask16 mask;
#define not_zero(x) ((unsigned)_mm512_cmp_ps_mask(x, fill(0), _CMP_NEQ_UQ))
#endif
#define first_lanes(n) ((mask)((1u << (n)) - 1))
#define load_part(m, p) VECTOR(maskz_loadu)(m, p)
#else
enum { LANES = 32 / sizeof(element), ROWS = 6, STRIP_ROWS = 2 };
#define VECTOR(name) OF_TYPE(_mm256_##name##_)
#ifdef TWOSTROKE_DOUBLE
typedef __m256d vector; typedef int64_t lane;
#else
typedef __m256 vector; typedef int32_t lane;
#endif
typedef __m256i mask;
static const lane LANE_MASKS[64 / sizeof(lane)] = {[0 ... LANES - 1] = -1};
#define first_lanes(n) _mm256_loadu_si256((const __m256i *)(LANE_MASKS + LANES - (n)))
#define load_part(m, p) VECTOR(maskload)(p, m)
#define not_zero(x) ((unsigned)VECTOR(movemask)(VECTOR(cmp)(x, fill(0), _CMP_NEQ_UQ)))
#endif
#define load(p) VECTOR(loadu)(p)
#define store(p, v) VECTOR(storeu)(p, v)
#define fill(x) VECTOR(set1)(x)
#define multiply(x, y) VECTOR(mul)(x, y)
#define multiply_add(x, y, z) VECTOR(fmadd)(x, y, z)

#define INLINE static inline __attribute__((always_inline))
#define EACH(i, n) _Pragma("GCC unroll 12") for (int i = 0; i < (n); i++) /* unrolled: what is indexed stays in registers */

enum {
    LINE = 64 / sizeof(element), /* elements of a cache line */
    PANEL = 2 * LANES,
    STRIP = 4 * LANES, WIDE_STRIP = 8 * LANES,
    BLOCK_COLUMNS = 2048 / sizeof(element),
    BLOCK_DEPTH = 1024,
    B_SIZE = BLOCK_COLUMNS * BLOCK_DEPTH, A_SIZE = B_SIZE, /* packed B and packed A: at most 2 MiB each */
    NEAR = (1 << 19) / sizeof(element), /* elements of packed B that stay in a core's cache beside everything else */
    CHUNK = 4 * ROWS,     /* rows of a task */
    TASKS = 32,           /* of one product, if it has enough rows and panels */
    WIDTH = 4,            /* panels packed together, at most: memory is faster along rows */
    MANY_ROWS = 384,      /* rows of C that the tasks of a half's product share, in place of columns */
    PACKED_ROWS = 24,     /* rows of C from which packing B pays */
    LARGE = (1 << 20) / sizeof(element), /* elements of a matrix that does not stay in a core's cache */
    SHARED = 1 << 17,     /* multiplications from which threads share a product */
    SHARED_ROW = 1 << 16, /* the same for one row of A: bound by reading B, which is cut into PARTS */
    PACKED_SHARED = 1 << 16, /* elements of packed matrices from which threads share the packing */
    PARTS = 8,
    HALVED = 256, MOST_HALVED = 1300, /* the depths that a forward pass sums in two halves */
    WIDEST = 1 << 13,     /* columns for which the parts have memory */
    FACTORS = 1 << 14,    /* elements of a row of A that are listed at once */
    LISTS = 8,            /* the most tiles of a task, for their lists */
};

typedef struct { word count; uint16_t at[BLOCK_DEPTH]; } depths; /* those at which not all rows of A are zero */

/* Memory for packed matrices and lists: one for each product that is being computed (products.c hands them out). */
typedef struct {
    element panels[B_SIZE], rows_of_a[A_SIZE], sums[PARTS * WIDEST], factors[FACTORS];
    word places[FACTORS];
    depths strip_lists[PACKED_ROWS];
} __attribute__((aligned(64))) workspace;

typedef struct {
    const element *a, *b;
    element *c;
    word a_row, a_depth, b_row, b_column, c_row, c_column, rows, columns, depth;
    element alpha, beta;
    word to_p;                 /* from C to the array to which C is added at the end, in elements; 0: there is none */
    workspace *space;
    word chunk, chunks, group; /* rows of a task, the number of such tasks, the panels of one */
    word packed, a_packed;     /* whether B is in panels, and A in rows of tiles */
    const element *panels;     /* those of B */
    word packs, width;         /* tasks that pack B, of so many panels; those after them pack A */
    word halved;               /* the depth of the first of two pieces; 0: pieces of BLOCK_DEPTH */
    word first;                /* of A in blocks of columns (gather.c): the columns of the first; 0: A has whole rows */
    word by_rows;              /* whether tasks are numbered along C's rows */
    word halves_of_tasks;      /* of A in blocks: tasks of one block, some of which have nothing to do; else 0 */
    word number;               /* of a product whose threads pack B for themselves */
    word along_rows, listed;   /* whether a task walks along rows of C first; whether zeros are skipped by lists */
    const element *in_place;   /* of one row or a depth of one: the factors, where they are not listed, */
    word stride, far;          /* how far apart they are, and how far apart their rows are */
} product;

#define write_tile TYPED(write_tile)
#define add_tile TYPED(add_tile)
#define list_depths TYPED(list_depths)
#define lists_pay TYPED(lists_pay)
#define large_b_product TYPED(large_b_product)
#define block_product TYPED(block_product)
#define row_of_a TYPED(row_of_a)
#define both_halves TYPED(both_halves)
#define halves TYPED(halves)
void write_tile(const product *p, const element *sums, element *c, word rows, word columns);
void add_tile(const product *p, element *c, word rows, word columns);
void list_depths(const element *a, word a_row, word a_depth, word rows, word depth, depths *list);
int lists_pay(const product *p);
int large_b_product(product p);
void block_product(product p);
int row_of_a(product p);
int both_halves(product p);

/* The piece of the depth that begins at `d`: pieces are summed one after the other. */
INLINE product depth_piece(const product *p, word d) {
    product piece = *p;
    word most = p->halved && !d ? p->halved : BLOCK_DEPTH;
    piece.depth = p->depth - d < most ? p->depth - d : most;
    piece.a = p->a + d * p->a_depth, piece.b = p->b + d * p->b_row, piece.beta = d ? 1 : p->beta;
    if (d + piece.depth < p->depth) piece.to_p = 0;
    return piece;
}
INLINE word depth_pieces(const product *p) { return p->halved ? 2 : (p->depth + BLOCK_DEPTH - 1) / BLOCK_DEPTH; }
INLINE word piece_start(const product *p, word index) { return p->halved ? index * p->halved : index * BLOCK_DEPTH; }

/* The depth of the first half of a forward pass that is summed in halves, a multiple of a task's rows in the gradient. */
INLINE word half_depth(word depth) { return depth < HALVED || depth > MOST_HALVED ? 0 : (depth / 2 + CHUNK / 2) / CHUNK * CHUNK; }

/* A block of A, whose columns are the depth, or in the gradient of weights the rows of C. */
INLINE product block_of_a(const product *p, int second) {
    product block = *p;
    word turned = p->a_row == 1, n = turned ? p->depth : p->rows, width = turned ? p->rows : p->depth;
    if (!p->first) return block;
    *(turned ? &block.a_depth : &block.a_row) = second ? width - p->first : p->first;
    block.a += second ? n * p->first : 0;
    return block;
}

/* One tile of C at `c`, `rows` x `vectors` (constants of the compiler), `columns` of it written: summed over the whole
   depth, or over the depths in `list`. */
INLINE void tile(const product *p, const element *a, word a_row, word a_depth, const element *b, word b_row, element *c,
                 word columns, int rows, int vectors, int whole, const depths *list) {
    vector sum[ROWS][4], line[4];
    word depth = list ? list->count : p->depth;
    const element *first_a = a, *first_b = b;
    element sums[ROWS * STRIP];
    mask last = first_lanes(columns - (vectors - 1) * LANES);
    EACH(r, rows) EACH(v, vectors) sum[r][v] = fill(0);
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
            element *to = c + r * p->c_row + v * LANES;
            vector value = multiply(alpha, sum[r][v]);
            store(to, p->beta == 0 ? value : multiply_add(beta, load(to), value));
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
