// What the generated kernels of a step call: see source.py. A block has THREADS threads.

constexpr int THREADS = 256;
constexpr unsigned ALL = 0xffffffffu;

// NaN wins, as in NumPy.
template <typename T>
__device__ __forceinline__ T maximum(T a, T b) {
    return a > b || a != a ? a : b;
}

__device__ __forceinline__ float log_add_exp(float a, float b) { return fmaxf(a, b) + log1pf(expf(-fabsf(a - b))); }
__device__ __forceinline__ double log_add_exp(double a, double b) { return fmax(a, b) + log1p(exp(-fabs(a - b))); }

__device__ __forceinline__ float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ double fused(double a, double b, double c) { return __fma_rn(a, b, c); }

// Whether (x, i) comes before (best, at) as the largest: NaN first, then the greater, then the first.
template <typename T>
__device__ __forceinline__ bool larger(T x, int i, T best, int at) {
    const bool nan = x != x, best_nan = best != best;
    if (nan || best_nan) return nan && (!best_nan || i < at);
    return x > best || (x == best && i < at);
}

template <typename T>
struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) Four {
    T at[4];
};

// A tile of TM x TN elements of a b, in a block. Each thread adds up 4 x 4 of them over its part of the depth; the parts
// (GROUPS of them) are added at the end, in a fixed order. While one stage of the depth is computed, the two after it are
// on their way from memory, in registers.
// A_ROWS: a is contiguous along its rows, else along the depth; B_COLUMNS: b along its columns. `step_a` and `step_b` are
// the strides along the other axis.
template <typename T, int TM, int TN, int DEPTH, bool A_ROWS, bool B_COLUMNS>
struct Product {
    static constexpr int GROUPS = THREADS / (TM / 4 * (TN / 4)), OWN = (TM * TN + THREADS - 1) / THREADS;
    static constexpr int FROM_A = TM * DEPTH / THREADS, FROM_B = TN * DEPTH / THREADS;
    static constexpr int STAGE = DEPTH * (TM + 4 + TN + 4), SUMS = GROUPS * TM * TN;
    static constexpr int BYTES = sizeof(T) * (2 * STAGE > SUMS ? 2 * STAGE : SUMS);

    // Element e of a tile that is WIDE across and DEPTH deep. Along the depth 8 neighbours of 4 rows are one warp's: in
    // shared memory, where the row of a depth is WIDE + 4 long, these lie in 32 different banks.
    template <int WIDE, bool ACROSS>
    static __device__ int across(int e) {
        return ACROSS ? e % WIDE : e / 8 % 4 + e / (4 * DEPTH) * 4;
    }
    template <int WIDE, bool ACROSS>
    static __device__ int deep(int e) {
        return ACROSS ? e / WIDE : e % 8 + e / 32 % (DEPTH / 8) * 8;
    }

    // sums[i] <- element threadIdx.x + i * THREADS of the tile (row by row) that begins at row m0 and column n0.
    static __device__ void compute(const T* __restrict__ a, int step_a, const T* __restrict__ b, int step_b, int rows,
                                   int columns, int depth, int m0, int n0, void* memory, T (&sums)[OWN]) {
        T* const shared = static_cast<T*>(memory);
        const int thread = threadIdx.x, group = thread / (TM / 4 * (TN / 4));
        const int row = thread / (TN / 4) % (TM / 4) * 4, column = thread % (TN / 4) * 4;
        T sum[4][4] = {}, a_even[FROM_A], a_odd[FROM_A], b_even[FROM_B], b_odd[FROM_B];
        // Where each element lies in the first stage, or -1 outside of the matrix: the rest of an address is one addition.
        int place_a[FROM_A], place_b[FROM_B];
#pragma unroll
        for (int i = 0; i < FROM_A; ++i) {
            const int e = thread + i * THREADS, m = m0 + across<TM, A_ROWS>(e), k = deep<TM, A_ROWS>(e);
            place_a[i] = m < rows ? (A_ROWS ? m + k * step_a : m * step_a + k) : -1;
        }
#pragma unroll
        for (int i = 0; i < FROM_B; ++i) {
            const int e = thread + i * THREADS, n = n0 + across<TN, B_COLUMNS>(e), k = deep<TN, B_COLUMNS>(e);
            place_b[i] = n < columns ? (B_COLUMNS ? k * step_b + n : k + n * step_b) : -1;
        }
        const int along_a = A_ROWS ? step_a : 1, along_b = B_COLUMNS ? step_b : 1;
        const auto read = [&](int from, T(&from_a)[FROM_A], T(&from_b)[FROM_B]) {
            const T *const stage_a = a + from * along_a, *const stage_b = b + from * along_b;
            const bool whole = from + DEPTH <= depth;
#pragma unroll
            for (int i = 0; i < FROM_A; ++i) {
                const bool in = place_a[i] >= 0 && (whole || from + deep<TM, A_ROWS>(thread + i * THREADS) < depth);
                from_a[i] = in ? stage_a[place_a[i]] : T(0);
            }
#pragma unroll
            for (int i = 0; i < FROM_B; ++i) {
                const bool in = place_b[i] >= 0 && (whole || from + deep<TN, B_COLUMNS>(thread + i * THREADS) < depth);
                from_b[i] = in ? stage_b[place_b[i]] : T(0);
            }
        };
        const auto stage = [&](int from, T* left, T(&from_a)[FROM_A], T(&from_b)[FROM_B]) {
            T* const right = left + DEPTH * (TM + 4);  // left: [DEPTH][TM + 4], right: [DEPTH][TN + 4]
#pragma unroll
            for (int i = 0; i < FROM_A; ++i) {
                const int e = thread + i * THREADS;
                left[deep<TM, A_ROWS>(e) * (TM + 4) + across<TM, A_ROWS>(e)] = from_a[i];
            }
#pragma unroll
            for (int i = 0; i < FROM_B; ++i) {
                const int e = thread + i * THREADS;
                right[deep<TN, B_COLUMNS>(e) * (TN + 4) + across<TN, B_COLUMNS>(e)] = from_b[i];
            }
            __syncthreads();
            if (from + 2 * DEPTH < depth) read(from + 2 * DEPTH, from_a, from_b);
#pragma unroll
            for (int turn = 0; turn < DEPTH / GROUPS; ++turn) {
                const int k = group + turn * GROUPS;
                const Four<T> x = *reinterpret_cast<const Four<T>*>(left + k * (TM + 4) + row);
                const Four<T> y = *reinterpret_cast<const Four<T>*>(right + k * (TN + 4) + column);
#pragma unroll
                for (int i = 0; i < 4; ++i)
#pragma unroll
                    for (int j = 0; j < 4; ++j) sum[i][j] = fused(x.at[i], y.at[j], sum[i][j]);
            }
        };
        read(0, a_even, b_even);
        if (DEPTH < depth) read(DEPTH, a_odd, b_odd);
        for (int from = 0; from < depth; from += 2 * DEPTH) {
            stage(from, shared, a_even, b_even);
            if (from + DEPTH < depth) stage(from + DEPTH, shared + STAGE, a_odd, b_odd);
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) shared[(group * TM + row + i) * TN + column + j] = sum[i][j];
        __syncthreads();
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            sums[i] = T(0);
            const int e = thread + i * THREADS;
            if (e < TM * TN)
#pragma unroll
                for (int g = 0; g < GROUPS; ++g) sums[i] += shared[g * TM * TN + e];
        }
    }
};
