/* A block of a product: its matrices packed for the tiles, its tasks shared by threads. */
#include "tiles.h"
#include <stdatomic.h>

/* Tiles of `vectors` vectors, one below the other. */
INLINE void tiles(const product *p, const element *a, word rows, const element *b, word b_row, element *c, word columns,
                  int vectors, int whole, const depths *list) {
    for (word row = 0, n; row < rows; row += n, c += n * p->c_row) {
        n = tile_rows(rows - row);
        const element *from = a + row * (p->a_packed ? p->depth : p->a_row);
        word a_row = p->a_packed ? 1 : p->a_row, a_depth = p->a_packed ? n : p->a_depth;
        if (list && !list->count && p->beta == 1 && !p->to_p) {
            list++;
            continue;
        }
#define ONE(n, list) tile(p, from, a_row, a_depth, b, b_row, c, columns, n, vectors, whole, list)
#define TILE(n) (list ? ONE(n, list) : ONE(n, NULL))
        if (n == ROWS) TILE(ROWS);
        else if (n == 6) TILE(6);
        else if (n == 4) TILE(4);
        else if (n == 2) ONE(2, list);
        else ONE(1, list);
        if (p->to_p) add_tile(p, c, n, columns);
        if (list) list++;
    }
}

/* out <- the transpose of a matrix of 4 x 4. */
INLINE void transpose_4(const element *from, word row, element *out, word out_row) {
    four r0 = FOUR(loadu)(from), r1 = FOUR(loadu)(from + row);
    four r2 = FOUR(loadu)(from + 2 * row), r3 = FOUR(loadu)(from + 3 * row);
#ifdef TWOSTROKE_DOUBLE
    four even01 = _mm256_unpacklo_pd(r0, r1), odd01 = _mm256_unpackhi_pd(r0, r1);
    four even23 = _mm256_unpacklo_pd(r2, r3), odd23 = _mm256_unpackhi_pd(r2, r3);
    r0 = _mm256_permute2f128_pd(even01, even23, 0x20), r1 = _mm256_permute2f128_pd(odd01, odd23, 0x20);
    r2 = _mm256_permute2f128_pd(even01, even23, 0x31), r3 = _mm256_permute2f128_pd(odd01, odd23, 0x31);
#else
    _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
#endif
    FOUR(storeu)(out, r0), FOUR(storeu)(out + out_row, r1);
    FOUR(storeu)(out + 2 * out_row, r2), FOUR(storeu)(out + 3 * out_row, r3);
}

/* Rows of A in the order in which tiles read them. Four rows to the end of a cache line, then the next four: rows at a
   stride that is a power of two would evict each other. */
static void pack_rows(const product *p, const element *a, word rows, element *to) {
    for (word row = 0, n; row < rows; row += n, a += n * p->a_row, to += n * p->depth) {
        n = tile_rows(rows - row);
        word d = 0;
        for (; p->a_depth == 1 && n % 4 == 0 && d + LINE <= p->depth; d += LINE)
            for (word r = 0; r < n; r += 4)
                for (word i = d; i < d + LINE; i += 4) transpose_4(a + r * p->a_row + i, p->a_row, to + i * n + r, n);
        for (; p->a_row == 1 && n % 4 == 0 && d < p->depth; d++)
            for (word r = 0; r < n; r += 4) FOUR(storeu)(to + d * n + r, FOUR(loadu)(a + r + d * p->a_depth));
        for (; d < p->depth; d++)
            for (word r = 0; r < n; r++) to[d * n + r] = a[r * p->a_row + d * p->a_depth];
    }
}

/* Panel `index` of B, rows `d` to `end`: row after row, zeros beyond the last column of B. */
static void pack_panel(const product *p, word index, word d, word end, element *to) {
    word column = index * PANEL, columns = p->columns - column < PANEL ? p->columns - column : PANEL;
    const element *b = p->b + column * p->b_column;
    to += column * p->depth + d * PANEL;
    if (columns < PANEL) memset(to, 0, (size_t)((end - d) * PANEL) * sizeof(element));
    if (p->b_row == 1) {
        word n = (end - d) & ~(word)3, j = 0;
        for (; j + 4 <= columns; j += 4)
            for (word i = 0; i < n; i += 4) transpose_4(b + d + i + j * p->b_column, p->b_column, to + i * PANEL + j, PANEL);
        for (; j < columns; j++)
            for (word i = 0; i < n; i++) to[i * PANEL + j] = b[d + i + j * p->b_column];
        d += n, to += n * PANEL;
    }
    for (; d < end; d++, to += PANEL)
        for (word j = 0; j < columns; j++) to[j] = b[d * p->b_row + j * p->b_column];
}

/* Full panels `first` to `stop` of a B whose rows are contiguous. */
static void pack_panels(const product *p, word first, word stop, word d, word end, element *to) {
    for (; d < end; d++)
        for (word panel = first; panel < stop; panel++) {
            const element *from = p->b + d * p->b_row + panel * PANEL;
            element *line = to + (panel * p->depth + d) * PANEL;
            store(line, load(from)), store(line + LANES, load(from + LANES));
        }
}

/* `count` panels from `first` on, rows `d` to `end`. */
static void pack_some_panels(const product *p, word first, word count, word d, word end, element *to) {
    word stop = first + count, whole = p->b_column == 1 ? p->columns / PANEL : 0;
    if (whole > stop) whole = stop;
    if (first < whole) pack_panels(p, first, whole, d, end, to);
    for (word panel = first < whole ? whole : first; panel < stop && panel * PANEL < p->columns; panel++)
        if (d < end) pack_panel(p, panel, d, end, to);
}

static void pack_task(const void *argument, word index) {
    const product *p = argument;
    if (index >= p->packs) {
        word row = (index - p->packs) * p->chunk, rows = p->rows - row < p->chunk ? p->rows - row : p->chunk;
        pack_rows(p, p->a + row * p->a_row, rows, p->space->rows_of_a + row * p->depth);
        return;
    }
    word quarter = (p->depth + 3) / 4, d = index % 4 * quarter, end = d + quarter < p->depth ? d + quarter : p->depth;
    pack_some_panels(p, index / 4 * p->width, p->width, d, end, p->space->panels);
}

/* Some rows of C in one panel's columns. */
static void panel_tiles(const product *p, const element *a, word row, word rows, word panel, const depths *lists) {
    word column = panel * PANEL, columns = p->columns - column < PANEL ? p->columns - column : PANEL;
    const element *b = p->packed ? p->panels + column * p->depth : p->b + column;
    element *c = p->c + row * p->c_row + column * p->c_column;
    word b_row = p->packed ? PANEL : p->b_row;
    if (columns <= LANES && p->packed) tiles(p, a, rows, b, b_row, c, columns, 1, 1, lists);
    else if (columns <= LANES) tiles(p, a, rows, b, b_row, c, columns, 1, 0, lists);
    else if (columns == PANEL || p->packed) tiles(p, a, rows, b, b_row, c, columns, 2, 1, lists);
    else tiles(p, a, rows, b, b_row, c, columns, 2, 0, lists);
}

/* Panels of a thread's own, in its cache. */
enum { OWN_COLUMNS = WIDTH * PANEL, OWN_SIZE = OWN_COLUMNS * BLOCK_DEPTH };
static _Thread_local element own[OWN_SIZE] __attribute__((aligned(64)));

/* All of B in `own`, unless it is there: `number` is different for each B. */
static void pack_own(const product *p, word number) {
    static _Thread_local word packed;
    if (packed != number) pack_some_panels(p, 0, (p->columns + PANEL - 1) / PANEL, 0, p->depth, own);
    packed = number;
}

/* The first of NUMBERS numbers for packed matrices. */
enum { NUMBERS = 1 << 20 };
static word new_number(void) {
    static atomic_long used;
    return (atomic_fetch_add(&used, 1) + 1) * NUMBERS;
}

/* Some rows of C in some panels' columns. */
static void tiles_task(const void *argument, word index) {
    const product *p = argument;
    word count = (p->columns + PANEL - 1) / PANEL, groups = (count + p->group - 1) / p->group;
    word row = p->chunk, first = p->group, half = p->halves_of_tasks;
    if (half && index >= half) index += p->first / p->chunk * groups - half;
    else if (half && index >= p->first / p->chunk * groups) return;
    if (p->by_rows) row *= index / groups, first *= index % groups;
    else row *= index % p->chunks, first *= index / p->chunks;
    word end = row + p->chunk < p->rows ? row + p->chunk : p->rows;
    word stop = first + p->group < count ? first + p->group : count;
    static _Thread_local depths lists[LISTS];
    product block = block_of_a(p, row >= p->first);
    block.a -= row >= p->first ? p->first * p->a_row : 0;
    if (p->first) {
        pack_own(p, p->number);
        block.panels = own, p = &block;
    }
    for (word n = p->along_rows ? ROWS : p->chunk; row < end; row += n) {
        word rows = end - row < n ? end - row : n;
        const element *a = p->a_packed ? p->space->rows_of_a + row * p->depth : p->a + row * p->a_row;
        for (word i = 0, used = 0, m; p->listed && i < rows; i += m) {
            m = tile_rows(rows - i);
            word far = p->a_packed ? p->depth : p->a_row;
            list_depths(a + i * far, p->a_packed ? 1 : far, p->a_packed ? m : p->a_depth, m, p->depth, &lists[used++]);
        }
        for (word panel = first; panel < stop; panel++) panel_tiles(p, a, row, rows, panel, p->listed ? lists : NULL);
    }
}

/* Few rows of A and a large B, which is read in place, in wide strips: memory is faster along rows. */
INLINE word strip_rows(word rows) { return rows >= STRIP_ROWS ? STRIP_ROWS : rows >= 4 ? 4 : rows >= 2 ? 2 : 1; }

static void strips_task(const void *argument, word index) {
    const product *p = argument;
    const element *b = p->b + index * STRIP, *a = p->a;
    element *c = p->c + index * STRIP * p->c_column;
    const depths *list = p->listed ? p->space->strip_lists : NULL;
    for (word left = p->rows, n; left; left -= n, a += n * p->a_row, c += n * p->c_row, list += list != NULL) {
        n = strip_rows(left);
#define STRIP_TILE(n, list) tile(p, a, p->a_row, p->a_depth, b, p->b_row, c, STRIP, n, 4, 1, list)
        if (n == STRIP_ROWS && list) STRIP_TILE(STRIP_ROWS, list);
        else if (n == STRIP_ROWS) STRIP_TILE(STRIP_ROWS, NULL);
        else if (n == 4) STRIP_TILE(4, list);
        else if (n == 2) STRIP_TILE(2, list);
        else STRIP_TILE(1, list);
        if (p->to_p) add_tile(p, c, n, STRIP);
    }
}

/* Compute all full strips; return the product of the columns that are left. */
static product strips(product p, int worth) {
    word count = p.columns / STRIP, used = 0, n;
    for (word row = 0; p.listed && row < p.rows; row += n) {
        n = strip_rows(p.rows - row);
        list_depths(p.a + row * p.a_row, p.a_row, p.a_depth, n, p.depth, &p.space->strip_lists[used++]);
    }
    parallel_for(strips_task, &p, count, worth);
    p.b += count * STRIP, p.c += count * STRIP * p.c_column, p.columns -= count * STRIP;
    return p;
}

/* A block of columns and depth, small enough for the workspace. */
void block_product(product p) {
    int worth = p.rows * p.columns * p.depth >= SHARED;
    p.listed = worth && lists_pay(&p);
    if (p.rows < PACKED_ROWS && p.b_column == 1 && (p.columns * p.depth >= LARGE || p.c_column != 1)) {
        p = strips(p, worth);
        if (!p.columns) return;
    }
    word count = (p.columns + PANEL - 1) / PANEL, rows = p.rows, all = A_SIZE / p.depth / CHUNK * CHUNK;
    p.packed = (rows >= PACKED_ROWS && p.columns > LANES) || p.b_column != 1;
    p.panels = p.space->panels;
    p.a_packed = rows >= PACKED_ROWS && p.columns >= 256;
    p.chunk = rows * count < CHUNK * TASKS ? ROWS : CHUNK;
    p.along_rows = p.columns * p.depth <= NEAR;
    p.width = count >= 2 * WIDTH ? WIDTH : count / 2 ? count / 2 : 1; /* a thread packs the columns that it multiplies */
    p.packs = p.packed && !p.first ? 4 * ((count + p.width - 1) / p.width) : 0;
    p.number = p.first ? new_number() : 0;
    for (word row = 0; row < rows; row += p.rows, p.a += p.rows * p.a_row, p.c += p.rows * p.c_row, p.packs = 0) {
        p.rows = p.a_packed && rows - row > all ? all : rows - row;
        p.chunks = (p.rows + p.chunk - 1) / p.chunk;
        word parts = (TASKS + p.chunks - 1) / p.chunks, packs = p.packs + (p.a_packed ? p.chunks : 0);
        p.group = (count + parts - 1) / parts;
        word groups = (count + p.group - 1) / p.group, tasks = p.chunks * groups, before = p.first / p.chunk * groups;
        /* A thread's tasks lie in rows of their own in the gradient of weights, as in the next forward pass (both_halves):
           in columns of its own each thread would fetch the others' cache lines ahead, and so take them away. Rows are
           also what elementwise work shares; but then each thread reads all of B. */
        p.by_rows = (p.a_row == 1 && p.a_depth != 1) || p.columns * p.depth < p.rows * (2 * p.columns + p.depth);
        p.halves_of_tasks = !p.first ? 0 : before > tasks - before ? before : tasks - before;
        if (packs) parallel_for(pack_task, &p, packs, worth && packs * p.depth * PANEL >= PACKED_SHARED);
        parallel_for(tiles_task, &p, p.first ? 2 * p.halves_of_tasks : tasks, worth);
    }
}

/* Large B, few rows: bound by reading B. So each task packs its own panels, in the cache of the thread that uses them, and
   multiplies all rows by them: one thread reads while another computes. A is packed first. */
enum { SLAB = 256, TURNED_ROWS = 48 };

/* Pack some rows of A in one piece of the depth. */
static void slab_task(const void *argument, word index) {
    const product *p = argument;
    word row = index % p->chunks * CHUNK, rows = p->rows - row < CHUNK ? p->rows - row : CHUNK;
    word d = piece_start(p, index / p->chunks);
    product piece = depth_piece(p, d);
    pack_rows(&piece, piece.a + row * p->a_row, rows, p->space->rows_of_a + d * p->rows + row * piece.depth);
}

/* All rows in the columns of OWN_COLUMNS. */
static void own_panels_task(const void *argument, word index) {
    const product *p = argument;
    word column = index * OWN_COLUMNS;
    static _Thread_local depths list;
    for (word i = 0, d; i < depth_pieces(p); i++) {
        product piece = depth_piece(p, d = piece_start(p, i));
        piece.b += column * p->b_column, piece.c += column * p->c_column, piece.panels = own;
        piece.columns = p->columns - column < OWN_COLUMNS ? p->columns - column : OWN_COLUMNS;
        pack_some_panels(&piece, 0, WIDTH, 0, piece.depth, own);
        for (word row = 0, n; row < p->rows; row += n) {
            n = tile_rows(p->rows - row);
            const element *a = p->space->rows_of_a + d * p->rows + row * piece.depth;
            if (p->listed) list_depths(a, 1, n, n, piece.depth, &list);
            for (word panel = 0; panel * PANEL < piece.columns; panel++)
                panel_tiles(&piece, a, row, n, panel, p->listed ? &list : NULL);
        }
    }
}

/* Whether it was such a product, computed here. Sums have block_product's order: the choice may depend on the threads. */
int large_b_product(product p) {
    word rows = p.rows, slabs = (rows + SLAB - 1) / SLAB, slab = (rows + slabs - 1) / slabs;
    word tasks = (p.columns + OWN_COLUMNS - 1) / OWN_COLUMNS, size = p.columns * p.depth;
    if (rows < (p.b_column == 1 ? PACKED_ROWS : TURNED_ROWS) || tasks < 2 * twostroke_threads()) return 0;
    if (p.columns < 2 * slab || size < LARGE || slab * p.depth > A_SIZE) return 0;
    if (slabs > 1 && (size < 8 * LARGE || (p.b_column == 1 && p.a_row != 1))) return 0; /* packing B once is faster */
    p.packed = p.a_packed = 1;
    for (word row = 0; row < rows; row += slab) {
        product part = p;
        part.a += row * p.a_row, part.c += row * p.c_row, part.rows = rows - row < slab ? rows - row : slab;
        part.listed = lists_pay(&part);
        part.chunks = (part.rows + CHUNK - 1) / CHUNK;
        parallel_for(slab_task, &part, part.chunks * depth_pieces(&p), 1);
        parallel_for(own_panels_task, &part, tasks, 1);
    }
    return 1;
}

/* A forward pass where W is not large: both halves of the depth at once. Each thread has its own rows of W, whose gradient it
   will compute: so they stay in its cache, with its columns of the batch. The first rows of C are to be the first thread's,
   the others the second's: only the sums that the other thread needs cross over, through `rows_of_a`, and are added at the
   end. That has the bits of one thread, which adds the second half's to the first's: x + y = y + x, unless C is read (beta). */
INLINE word first_rows(const product *p) { return p->beta == 0 ? p->rows / 2 / ROWS * ROWS : p->rows; }

/* `group` panels of one half, in `chunk` rows. */
static void half_task(const void *argument, word index) {
    const product *p = argument;
    word half = index / p->chunks, tasks = (p->rows + p->chunk - 1) / p->chunk, columns = p->group * PANEL;
    word row = index % p->chunks % tasks * p->chunk, column = index % p->chunks / tasks * columns, mine = first_rows(p);
    word end = row + p->chunk < p->rows ? row + p->chunk : p->rows;
    product piece = depth_piece(p, half * p->halved), block = block_of_a(p, (int)half);
    if (p->first) piece.a = block.a, piece.a_row = block.a_row;
    piece.b += column, piece.panels = own;
    piece.columns = p->columns - column < columns ? p->columns - column : columns;
    if (p->packed) pack_own(&piece, p->number + index - index % tasks);
    product kept = piece, given = piece;
    kept.c += column * p->c_column, kept.beta = p->beta;
    given.c = p->space->rows_of_a + column, given.c_row = p->columns, given.c_column = 1, given.beta = 0;
    static _Thread_local depths list;
    for (word n; row < end; row += n) {
        n = tile_rows(p->rows - row);
        const element *a = piece.a + row * piece.a_row;
        if (p->listed) list_depths(a, piece.a_row, 1, n, piece.depth, &list);
        for (word panel = 0; panel * PANEL < piece.columns; panel++)
            panel_tiles((row >= mine) == half ? &kept : &given, a, row, n, panel, p->listed ? &list : NULL);
    }
}

static void add_halves(const void *argument, word index) {
    const product *p = argument;
    word row = p->rows * index / PARTS, end = p->rows * (index + 1) / PARTS;
    for (; row < end; row++) {
        const element *from = p->space->rows_of_a + row * p->columns;
        element *to = p->c + row * p->c_row;
        word j = 0;
        for (; p->c_column == 1 && j + LANES <= p->columns; j += LANES) store(to + j, load(to + j) + load(from + j));
        for (; j < p->columns; j++) to[j * p->c_column] += from[j];
    }
}

/* The depth of the first half where the threads have a half each; else 0. */
word halves(word rows, word columns, word depth) {
    word width = (columns + PANEL - 1) / PANEL * PANEL;
    int fits = columns < 256 && rows <= BLOCK_DEPTH && width * rows <= OWN_SIZE; /* as the gradient's deltas, in one piece */
    return twostroke_threads() > 1 && fits && rows * columns * depth >= SHARED ? half_depth(depth) : 0;
}

/* Whether it was such a product, computed here. */
int both_halves(product p) {
    if (!p.halved || p.to_p || !halves(p.rows, p.columns, p.depth)) return 0;
    int many = p.rows >= MANY_ROWS;
    p.packed = p.rows >= PACKED_ROWS, p.a_packed = 0, p.listed = lists_pay(&p);
    p.chunk = many ? 2 * CHUNK : p.rows, p.group = many ? WIDTH : 2, p.number = new_number();
    p.chunks = (p.rows + p.chunk - 1) / p.chunk * ((p.columns + p.group * PANEL - 1) / (p.group * PANEL));
    parallel_for(half_task, &p, 2 * p.chunks, 1);
    parallel_for(add_halves, &p, PARTS, p.rows * p.columns >= SHARED_ROW);
    return 1;
}
