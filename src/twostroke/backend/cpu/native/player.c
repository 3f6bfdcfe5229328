/* Plays a recorded step: a list of calls, with no Python in between. No formula is written here: elementwise work is
   done by the inner loops that NumPy's ufuncs themselves call, matrix products by products.c and by the BLAS that
   SciPy brought. An operation is WORDS 64-bit words, which program.py writes. */

enum { WORDS = 24, PIECE = 4096, UFUNC_TASKS = 8, SHARED_ELEMENTS = 1 << 15 };
enum { UFUNC, GEMM, GEMV, GER, TAKE, ARGMAX, COPY, FILL, PRODUCT };
enum { NONE, BYTE_TO_FLOAT, BYTE_TO_DOUBLE };

typedef void ufunc_loop(char **, const intptr_t *, const intptr_t *, void *);
typedef void gemm_t(char *, char *, int *, int *, int *, void *, void *, int *, void *, int *, void *, void *, int *);
typedef void gemv_t(char *, int *, int *, void *, void *, int *, void *, int *, void *, void *, int *);
typedef void ger_t(int *, int *, void *, void *, int *, void *, int *, void *, int *);

__attribute__((optimize("O3"))) static void widen(const char *bytes, word stride, char *out, word out_stride, word n, word kind) {
    const unsigned char *from = (const unsigned char *)bytes;
    if (kind == BYTE_TO_FLOAT && stride == 1 && out_stride == (word)sizeof(float)) {
        float *to = (float *)out;
        for (word i = 0; i < n; i++) to[i] = from[i];
    } else if (kind == BYTE_TO_FLOAT) {
        for (word i = 0; i < n; i++) *(float *)(out + i * out_stride) = from[i * stride];
    } else {
        for (word i = 0; i < n; i++) *(double *)(out + i * out_stride) = from[i * stride];
    }
}

/* fn, data, args, outer, inner, first's widening, result's widening, spare; then by argument: pointer, outer and
   inner stride. Bytes go through a chunk that stays in the cache. Here: some of the outer loop, some of the inner. */
static void ufunc_part(const word *op, word row, word end, word done, word stop) {
    static _Thread_local double from[PIECE];
    static _Thread_local unsigned char to[PIECE];
    ufunc_loop *loop = (ufunc_loop *)AT(op[0]);
    word args = op[2], last = args - 1, floats = op[5] == BYTE_TO_FLOAT, start = done;
    const word *arg = op + 8;
    for (; row < end; row++) {
        char *data[3];
        intptr_t strides[3];
        for (word i = 0; i < args; i++) {
            data[i] = AT(arg[3 * i]) + row * arg[3 * i + 1];
            strides[i] = arg[3 * i + 2];
        }
        for (done = start; done < stop; done += PIECE) {
            intptr_t n = op[5] || op[6] ? (stop - done < PIECE ? stop - done : PIECE) : stop - done;
            char *part[3] = {NULL};
            intptr_t step[3];
            for (word i = 0; i < args; i++) {
                part[i] = data[i] + done * strides[i];
                step[i] = strides[i];
            }
            char *result = part[last];
            if (op[5]) {
                step[0] = floats ? sizeof(float) : sizeof(double);
                widen(part[0], strides[0], (char *)from, step[0], n, op[5]);
                part[0] = (char *)from;
            }
            if (op[6]) {
                part[last] = (char *)to;
                step[last] = 1;
            }
            loop(part, &n, step, AT(op[1]));
            if (op[6]) widen((char *)to, 1, result, strides[last], n, op[6]);
            if (!op[5] && !op[6]) break;
        }
    }
}

static void outer_part(const void *argument, word index) {
    const word *op = argument;
    ufunc_part(op, op[3] * index / UFUNC_TASKS, op[3] * (index + 1) / UFUNC_TASKS, 0, op[4]);
}

static void inner_part(const void *argument, word index) {
    const word *op = argument;
    ufunc_part(op, 0, op[3], op[4] * index / UFUNC_TASKS, op[4] * (index + 1) / UFUNC_TASKS);
}

/* Large ones are shared, along a loop that gives every part elements of the result of its own. */
static void ufunc(const word *op) {
    const word *result = op + 8 + 3 * (op[2] - 1);
    int along_outer = op[3] >= UFUNC_TASKS && result[1];
    if (op[3] * op[4] < SHARED_ELEMENTS || !(along_outer || result[2])) {
        ufunc_part(op, 0, op[3], 0, op[4]);
        return;
    }
    pthread_mutex_lock(&in_use);
    share(along_outer ? outer_part : inner_part, op, UFUNC_TASKS, 1);
    pthread_mutex_unlock(&in_use);
}

/* trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc */
static void gemm(const word *op) {
    char ta = (char)op[1], tb = (char)op[2];
    int m = (int)op[3], n = (int)op[4], k = (int)op[5], lda = (int)op[8], ldb = (int)op[10], ldc = (int)op[13];
    ((gemm_t *)AT(op[0]))(&ta, &tb, &m, &n, &k, AT(op[6]), AT(op[7]), &lda, AT(op[9]), &ldb, AT(op[11]), AT(op[12]), &ldc);
}

/* trans, m, n, alpha, a, lda, x, beta, y */
static void gemv(const word *op) {
    char trans = (char)op[1];
    int m = (int)op[2], n = (int)op[3], lda = (int)op[6], one = 1;
    ((gemv_t *)AT(op[0]))(&trans, &m, &n, AT(op[4]), AT(op[5]), &lda, AT(op[7]), &one, AT(op[8]), AT(op[9]), &one);
}

/* m, n, alpha, x, y, a, lda */
static void ger(const word *op) {
    int m = (int)op[1], n = (int)op[2], lda = (int)op[7], one = 1;
    ((ger_t *)AT(op[0]))(&m, &n, AT(op[3]), AT(op[4]), &one, AT(op[5]), &one, AT(op[6]), &lda);
}

/* out, source, indices, count, bytes of a row, rows of the source */
static void take(const word *op) {
    const word *indices = (const word *)AT(op[3]);
    for (word i = 0; i < op[4]; i++) {
        word row = indices[i] < 0 ? 0 : indices[i] < op[6] ? indices[i] : op[6] - 1;
        memcpy(AT(op[1]) + i * op[5], AT(op[2]) + row * op[5], (size_t)op[5]);
    }
}

/* source, its row stride, column stride, rows, columns, out, whether double. The first of several; a NaN wins. */
#define FIRST_LARGEST(real)                                            \
    for (word i = 0; i < op[4]; i++) {                                 \
        const char *row = AT(op[1]) + i * op[2];                       \
        real best = *(const real *)row;                                \
        word at = 0;                                                   \
        for (word j = 1; j < op[5] && best == best; j++) {             \
            real value = *(const real *)(row + j * op[3]);             \
            if (!(value <= best)) best = value, at = j;                \
        }                                                              \
        out[i] = at;                                                   \
    }

static void argmax(const word *op) {
    word *out = (word *)AT(op[6]);
    if (op[7]) FIRST_LARGEST(double) else FIRST_LARGEST(float)
}

static void play(const word *op, word count) {
    for (const word *end = op + count * WORDS; op < end; op += WORDS) {
        switch (op[0]) {
            case UFUNC: ufunc(op + 1); break;
            case GEMM: gemm(op + 1); break;
            case GEMV: gemv(op + 1); break;
            case GER: ger(op + 1); break;
            case TAKE: take(op); break;
            case ARGMAX: argmax(op); break;
            case COPY: memcpy(AT(op[1]), AT(op[2]), (size_t)op[3]); break;
            case PRODUCT: twostroke_product(op + 1); break;
            case FILL: memset(AT(op[1]), 0, (size_t)op[2]); break;
        }
    }
}

/* Operations, their number, moves, how many of them before and after each step, the first step, the number of steps.
   A move copies: target, its stride by step, source, its stride by step, bytes. */
void twostroke_play(const word *program) {
    const word *ops = (const word *)AT(program[0]), *moves = (const word *)AT(program[2]);
    for (word step = program[5]; step < program[5] + program[6]; step++) {
        for (word i = 0; i < program[3] + program[4]; i++) {
            const word *move = moves + 5 * i;
            if (i == program[3]) play(ops, program[1]);
            memcpy(AT(move[0]) + step * move[1], AT(move[2]) + step * move[3], (size_t)move[4]);
        }
        if (!program[4]) play(ops, program[1]);
    }
}
