// A training step of INPUTS-HIDDEN-CLASSES as three kernels: softmax and cross-entropy, momentum or plain descent.
//
//   layer1   gathers the batch and multiplies it by the first layer, in parts of the depth
//   output   a sample in a block: sums the parts, hidden units, logits, softmax, loss; back to both deltas
//   update   the gradients of both layers as products over the batch, and the new parameters
//
// Each needs all of what the one before has made, and a kernel's end is the only barrier of a whole grid: so three.
// There are no atomics: every sum has one order, so the bits are the same from run to run.
//
// - The bias is a weight of one more input that is always 1 (a white pixel), as the parameters lie in memory: W and
//   then b, (inputs + 1, units). So no kernel has code for biases but `output`.
// - Activation is `output`'s work, not `layer1`'s: at batch 128 the first product has 16 tiles of 32 x 32, and 132
//   multiprocessors want work. So its depth is split (gridDim.z), each part is written by itself, and `output` adds
//   them up in order. More blocks than multiprocessors hide the way of the pixels from memory.
// - A tile is 4 x 4 sums a thread: two 16-byte reads of shared memory for 16 multiplications keep the arithmetic the
//   slower side. A tile of ROWS x 32 needs 2 ROWS threads; the 256 of a block share its depth as groups, added up at
//   the end.
// - `update` has as many blocks as tiles of the weights, and none may be split: 105 at ROWS 32 for 784-128-10, so there
//   is ROWS 16 or 8 for fewer units. The parameters are read before the sums, whose time hides theirs.
// - The next stage's numbers are fetched into registers before this stage is computed, and used (scaled, stored) after
//   it. Reads that depend on nothing come first: one that waits for another costs what a thousand multiplications do.
// - `position` holds {the step that comes next, the step that runs}: two, so that no kernel reads what it writes. A
//   graph of any number of steps finds its samples, rates and places of notes by it. The last batch may be smaller.
//
// A persistent kernel would keep its share of the hidden units in shared memory from step to step (6.3 KB a unit of 784
// inputs, with its momentum), and would need: a barrier of the grid in place of the kernels' ends (all blocks resident,
// a counter in memory), one exchange of partial logits a step (batch x CLASSES of every block), and every block's
// reading of all pixels of the batch, the next one under way while this one is computed. It is not built.
//
// Defined by whoever compiles this: INPUTS, HIDDEN, CLASSES, ROWS (32, 16 or 8), SIGMOID and MOMENTUM (0 or 1).

constexpr int WARP = 32, THREADS = 256, DEPTH = 32, COLUMNS = 32;
constexpr int UNITS = (HIDDEN + WARP - 1) / WARP * WARP;  // threads of `output`
constexpr int AT_ONCE = 16;                               // parts of a sum under way
constexpr unsigned ALL = 0xffffffffu;

static_assert(ROWS == 32 || ROWS == 16 || ROWS == 8, "a tile's rows");
static_assert(HIDDEN <= 1024 && CLASSES <= WARP, "a hidden unit is a thread, a class is a lane");

struct Batch {
    int start, count;
};

__device__ Batch batch_of(int step, int batch, int samples) {
    const int start = step * batch, left = samples - start;
    return {start, left < batch ? left : batch};
}

// --- tiles --------------------------------------------------------------------------------------------------------

// Where a depth of a stage lies in a tile. Neighbouring depths lie 8 apart: threads that have four of them in one word,
// and store these down a column, then meet all 32 banks. Any order will do, if it is the same on both sides.
__device__ int slot(int depth) { return depth % 4 * 8 + depth / 4; }

// Two stages, so that one barrier parts the storing of a stage from the computing of the one before.
template <int R>
struct Tile {
    alignas(16) float left[2][DEPTH][R + 4];  // 4 more: see `slot`
    alignas(16) float right[2][DEPTH][COLUMNS];
    alignas(16) float sums[THREADS / (2 * R)][R][COLUMNS];
};

// sums <- a tile of left^T right: thread t has those of elements t, t + THREADS, ... in row order.
template <int R, class Left, class Right>
__device__ void product(Left left, Right right, int stages, Tile<R>& tile, float (&sums)[R * COLUMNS / THREADS]) {
    constexpr int GROUPS = THREADS / (2 * R);
    const int thread = threadIdx.x, column = thread % 8 * 4, row = thread / 8 % (R / 4) * 4, group = thread / (2 * R);
    float sum[4][4] = {};
    left.fetch(0);
    right.fetch(0);
    for (int stage = 0; stage < stages; ++stage) {
        auto& x = tile.left[stage % 2];
        auto& y = tile.right[stage % 2];
        left.store(x);
        right.store(y);
        __syncthreads();
        if (stage + 1 < stages) {
            left.fetch(stage + 1);
            right.fetch(stage + 1);
        }
#pragma unroll
        for (int turn = 0; turn < DEPTH / GROUPS; ++turn) {
            const int k = group + turn * GROUPS;
            const float4 a = *reinterpret_cast<const float4*>(&x[k][row]);
            const float4 b = *reinterpret_cast<const float4*>(&y[k][column]);
            const float as[4] = {a.x, a.y, a.z, a.w}, bs[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) sum[i][j] += as[i] * bs[j];
        }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float4& out = *reinterpret_cast<float4*>(&tile.sums[group][row + i][column]);
        out = {sum[i][0], sum[i][1], sum[i][2], sum[i][3]};
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < R * COLUMNS / THREADS; ++i) {
        const int element = thread + i * THREADS;
        sums[i] = 0.0f;
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) sums[i] += tile.sums[g][element / COLUMNS][element % COLUMNS];
    }
}

// --- what tiles are filled with -----------------------------------------------------------------------------------

// Four pixels of a sample in a word, from `pixel` on; after the last one a white one, whose weights are the biases.
__device__ unsigned four_pixels(const unsigned char* images, int sample, int pixel) {
    const unsigned char* at = images + static_cast<long long>(sample) * INPUTS + pixel;
    if (INPUTS % 4 == 0) {
        if (pixel < INPUTS) return *reinterpret_cast<const unsigned*>(at);
        return pixel == INPUTS ? 255u : 0u;
    }
    unsigned word = 0;
    for (int i = 0; i < 4; ++i)
        if (pixel + i <= INPUTS) word |= (pixel + i < INPUTS ? at[i] : 255u) << (8 * i);
    return word;
}

// pixel / 255, correctly rounded for each of the 256 (a test divides them all), in three operations.
__device__ float scaled(unsigned word, int i) {
    const float pixel = static_cast<float>(word >> (8 * i) & 255u), reciprocal = 1.0f / 255.0f;
    const float quotient = pixel * reciprocal;
    return fmaf(fmaf(-255.0f, quotient, pixel), reciprocal, quotient);
}

// Rows are 32 samples of a batch, the depth is their pixels.
struct SamplesByPixel {
    const unsigned char* images;
    int sample, first;  // this thread's sample, or -1; the first pixel of this part of the depth
    unsigned word;

    __device__ void fetch(int stage) {
        const int pixel = first + stage * DEPTH + threadIdx.x % 8 * 4;
        word = sample < 0 ? 0u : four_pixels(images, sample, pixel);
    }
    __device__ void store(float (&x)[DEPTH][32 + 4]) const {
        for (int i = 0; i < 4; ++i) x[slot(threadIdx.x % 8 * 4 + i)][threadIdx.x / 8] = scaled(word, i);
    }
};

// Rows are R features, the depth is the samples of a batch; a thread has four features of a sample of each stage.
template <int R>
struct Features {
    static constexpr int FOURS = R / 4;

    __device__ static int depth() { return threadIdx.x / FOURS; }  // from DEPTH on nothing is left to do
    __device__ static int offset() { return threadIdx.x % FOURS * 4; }
    __device__ static void put(float (&x)[DEPTH][R + 4], float a, float b, float c, float d) {
        *reinterpret_cast<float4*>(&x[slot(depth())][offset()]) = {a, b, c, d};
    }
};

template <int R>
struct PixelsBySample : Features<R> {
    using Features<R>::depth, Features<R>::offset;
    const unsigned char* images;
    const int* drawn;
    int batch, first, sample;  // a sample's number is fetched a stage before its pixels
    unsigned word;

    __device__ PixelsBySample(const unsigned char* images, const int* drawn, int batch, int first)
        : images(images), drawn(drawn), batch(batch), first(first), word(0) {
        look_up(0);
    }
    __device__ void look_up(int stage) {
        const int row = stage * DEPTH + depth();
        sample = depth() < DEPTH && row < batch ? drawn[row] : -1;
    }
    __device__ void fetch(int stage) {
        word = sample < 0 ? 0u : four_pixels(images, sample, first + offset());
        look_up(stage + 1);
    }
    __device__ void store(float (&x)[DEPTH][R + 4]) const {
        if (depth() < DEPTH) this->put(x, scaled(word, 0), scaled(word, 1), scaled(word, 2), scaled(word, 3));
    }
};

template <int R>
struct HiddenBySample : Features<R> {
    using Features<R>::depth, Features<R>::offset;
    const float* hidden;
    int count, first;
    float values[4];

    __device__ HiddenBySample(const float* hidden, int count, int first) : hidden(hidden), count(count), first(first) {}
    __device__ void fetch(int stage) {
        const int row = stage * DEPTH + depth();
        const bool here = depth() < DEPTH && row < count;
        for (int i = 0; i < 4; ++i) {
            const int unit = first + offset() + i;
            values[i] = here && unit < HIDDEN ? hidden[row * HIDDEN + unit] : here && unit == HIDDEN ? 1.0f : 0.0f;
        }
    }
    __device__ void store(float (&x)[DEPTH][R + 4]) const {
        if (depth() < DEPTH) this->put(x, values[0], values[1], values[2], values[3]);
    }
};

// 32 columns of a matrix, whose rows are the depth.
struct Matrix {
    const float* data;
    int rows, width, first, column;  // its size, and where the tile begins
    float values[4];

    __device__ Matrix(const float* data, int rows, int width, int first, int column)
        : data(data), rows(rows), width(width), first(first), column(column + int(threadIdx.x) % COLUMNS) {}
    __device__ static int depth(int i) { return threadIdx.x / COLUMNS + 8 * i; }
    __device__ void fetch(int stage) {
        for (int i = 0; i < 4; ++i) {
            const int row = first + stage * DEPTH + depth(i);
            values[i] = row < rows && column < width ? data[row * width + column] : 0.0f;
        }
    }
    __device__ void store(float (&y)[DEPTH][COLUMNS]) const {
        for (int i = 0; i < 4; ++i) y[slot(depth(i))][threadIdx.x % COLUMNS] = values[i];
    }
};

// --- the kernels --------------------------------------------------------------------------------------------------

// parts (gridDim.z, batch, HIDDEN) <- the products of `stages` stages of the depth each; drawn (batch,) <- the numbers
// of the samples, -1 beyond the last; rate (1,) <- the step's. The kernels after it find these without asking for the
// step first.
// Grid: columns of 32 units, rows of 32 samples, parts. Block: THREADS.
extern "C" __global__ void __launch_bounds__(THREADS)
    layer1(const unsigned char* __restrict__ images, const long long* __restrict__ order,
           const float* __restrict__ rates, const float* __restrict__ parameters, int* position,
           int* __restrict__ drawn, float* __restrict__ rate, float* __restrict__ parts, int batch, int samples,
           int stages) {
    __shared__ Tile<32> tile;
    const int thread = threadIdx.x, step = position[0], unit = blockIdx.x * COLUMNS + thread % COLUMNS;
    const int row0 = blockIdx.y * 32, mine = row0 + thread / 8, part = blockIdx.z, first = part * stages * DEPTH;
    const Batch now = batch_of(step, batch, samples);
    const int sample = mine < now.count ? static_cast<int>(order[now.start + mine]) : -1;
    if (blockIdx.x + blockIdx.z == 0 && thread % 8 == 0 && mine < batch) drawn[mine] = sample;
    float sums[32 * COLUMNS / THREADS];
    product<32>(SamplesByPixel{images, sample, first, 0u},
                Matrix(parameters, INPUTS + 1, HIDDEN, first, blockIdx.x * COLUMNS), stages, tile, sums);
    for (int i = 0; i < 32 * COLUMNS / THREADS; ++i) {
        const int row = row0 + (thread + i * THREADS) / COLUMNS;
        if (row < now.count && unit < HIDDEN) parts[(part * batch + row) * HIDDEN + unit] = sums[i];
    }
    if (blockIdx.x + blockIdx.y + blockIdx.z == 0 && thread == 0) {
        position[1] = step;
        rate[0] = rates[step];
    }
}

__device__ float warp_sum(float x) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL, x, distance);
    return x;
}

__device__ float activated(float z) {
    if (SIGMOID) return tanhf(z * 0.5f) * 0.5f + 0.5f;
    return z < 0.0f ? 0.0f : z;  // NaN stays
}

__device__ float slope(float a) {
    if (SIGMOID) return a * (1.0f - a);
    return a > 0.0f ? 1.0f : 0.0f;
}

// hidden (batch, HIDDEN), delta1 (batch, HIDDEN), delta2 (batch, CLASSES); a loss and a prediction for each sample.
// Grid: batch. Block: UNITS.
extern "C" __global__ void __launch_bounds__(UNITS, 1024 / UNITS)
    output(const float* __restrict__ parts, int n_parts, const float* __restrict__ parameters,
           const unsigned char* __restrict__ labels, const int* __restrict__ drawn, const int* position, int batch,
           int samples, float* __restrict__ hidden, float* __restrict__ delta1, float* __restrict__ delta2,
           float* __restrict__ losses, long long* __restrict__ predictions) {
    __shared__ float logits[UNITS / WARP][CLASSES];
    const int unit = threadIdx.x, lane = unit % WARP, warp = unit / WARP, row = blockIdx.x;
    const bool counts = lane < CLASSES, real = unit < HIDDEN;
    const int k = counts ? lane : 0;  // other lanes repeat the first class, which changes no maximum
    const float *W = parameters + (INPUTS + 1) * HIDDEN, *mine = parts + row * HIDDEN + unit;
    // What needs no other read is read first.
    const int sample = drawn[row], step = position[1];
    float weights[CLASSES], logit = W[HIDDEN * CLASSES + k], z = 0.0f;
    for (int c = 0; c < CLASSES; ++c) weights[c] = real ? W[unit * CLASSES + c] : 0.0f;
    for (int part = 0; part < n_parts; part += AT_ONCE) {
        float some[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i)
            some[i] = real && part + i < n_parts ? mine[(part + i) * batch * HIDDEN] : 0.0f;
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) z += some[i];
    }
    if (sample < 0) return;
    const int label = labels[sample];
    const Batch now = batch_of(step, batch, samples);
    const float a = real ? activated(z) : 0.0f;
    for (int c = 0; c < CLASSES; ++c) {
        const float sum = warp_sum(a * weights[c]);
        if (lane == 0) logits[warp][c] = sum;
    }
    __syncthreads();

    // From here on every warp does the same, a class in a lane, so that none has to wait for another.
    for (int w = 0; w < UNITS / WARP; ++w) logit += logits[w][k];
    float top = logit;
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(ALL, top, distance);
        top = other > top ? other : top;
    }
    const float power = counts ? expf(logit - top) : 0.0f, total = warp_sum(power), probability = power / total;
    const float of_label = __shfl_sync(ALL, logit - top, label);
    const float residual = (probability - (lane == label ? 1.0f : 0.0f)) * (1.0f / static_cast<float>(now.count));
    float change = 0.0f;
    for (int c = 0; c < CLASSES; ++c) change += __shfl_sync(ALL, residual, c) * weights[c];
    if (real) {
        hidden[row * HIDDEN + unit] = a;
        delta1[row * HIDDEN + unit] = change * slope(a);
    }
    if (warp == 0) {
        float best = counts ? probability : -1.0f;
        int choice = lane;
        for (int distance = WARP / 2; distance > 0; distance /= 2) {
            const float other = __shfl_xor_sync(ALL, best, distance);
            const int its = __shfl_xor_sync(ALL, choice, distance);
            if (other > best || (other == best && its < choice)) best = other, choice = its;
        }
        if (counts) delta2[row * CLASSES + lane] = residual;
        if (lane == 0) {
            losses[now.start + row] = logf(total) - of_label;
            predictions[now.start + row] = choice;
        }
    }
}

__host__ __device__ constexpr int tiles(int size, int of) { return (size + of - 1) / of; }
constexpr int WIDE = tiles(HIDDEN, COLUMNS), FIRST_LAYER = tiles(INPUTS + 1, ROWS) * WIDE;

// velocity <- momentum velocity - rate gradient, parameters <- parameters + velocity; without MOMENTUM straight into
// the parameters. Grid: FIRST_LAYER tiles and then tiles(HIDDEN + 1, ROWS) of the second. Block: THREADS.
extern "C" __global__ void __launch_bounds__(THREADS, ROWS == 8 ? 3 : 2)
    update(const unsigned char* __restrict__ images, const int* __restrict__ drawn, const float* __restrict__ hidden,
           const float* __restrict__ delta1, const float* __restrict__ delta2, const float* __restrict__ rate,
           float momentum, int* position, float* __restrict__ parameters, float* __restrict__ velocity, int batch,
           int samples) {
    __shared__ Tile<ROWS> tile;
    constexpr int OWN = ROWS * COLUMNS / THREADS;
    const int thread = threadIdx.x, block = blockIdx.x, step = position[1];
    const Batch now = batch_of(step, batch, samples);
    const bool second = block >= FIRST_LAYER;
    const int inputs = second ? HIDDEN : INPUTS, width = second ? CLASSES : HIDDEN;
    const int row0 = (second ? block - FIRST_LAYER : block / WIDE) * ROWS;
    const int column0 = second ? 0 : block % WIDE * COLUMNS;
    const int stages = tiles(now.count, DEPTH), column = column0 + thread % COLUMNS;

    int places[OWN];  // of this thread's parameters, -1 outside of the matrix
    float before[OWN], moving[OWN], gradient[OWN];  // read here, used at the end
    for (int i = 0; i < OWN; ++i) {
        const int row = row0 + (thread + i * THREADS) / COLUMNS;
        const bool inside = row <= inputs && column < width;
        places[i] = inside ? (second ? (INPUTS + 1) * HIDDEN : 0) + row * width + column : -1;
        before[i] = inside ? parameters[places[i]] : 0.0f;
        moving[i] = MOMENTUM && inside ? velocity[places[i]] : 0.0f;
    }
    const float by = rate[0];
    const Matrix delta(second ? delta2 : delta1, now.count, width, 0, column0);
    if (second)
        product<ROWS>(HiddenBySample<ROWS>(hidden, now.count, row0), delta, stages, tile, gradient);
    else
        product<ROWS>(PixelsBySample<ROWS>(images, drawn, batch, row0), delta, stages, tile, gradient);
    for (int i = 0; i < OWN; ++i) {
        if (places[i] < 0) continue;
        const float change = momentum * moving[i] - by * gradient[i];
        if (MOMENTUM) velocity[places[i]] = change;
        parameters[places[i]] = before[i] + change;
    }
    if (block == 0 && thread == 0) position[0] = step + 1;
}
