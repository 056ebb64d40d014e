// What all kernels share. Python puts this in front of each of them, after the types and formulas:
//   T  type of batches, activations and deltas        A  type of parameters, and of all arithmetic
// An activation, loss or update rule is a struct Act, Out, Loss or Rule made from the registries' expressions.

using Index = long long;

// Threads of every block. No kernel has __launch_bounds__: with them, ptxas saves registers until one more block fits,
// and spills to get there. Without them it uses at most 255 registers, for which a block of this size always has room.
constexpr int THREADS = 256;
constexpr int COLUMNS = 128 / sizeof(T);    // of a block's tile: one memory line per row
constexpr int WIDTH = 16 / sizeof(T);       // elements of a 16-byte access
constexpr int AT_ONCE = 4;                  // loads of a thread before it stores the first of them

// -- launches ------------------------------------------------------------------------------------------

// A kernel of a captured step is launched while the previous one still runs (programmatic dependent launch), once that
// one has waited for its own predecessor. So every kernel waits before it reads what the previous one wrote, or writes
// what the previous one reads. Older kernels have ended, and `fresh` reads what they wrote even before the wait.
//
// A pointer that is only read through is never __restrict__: the compiler would use loads (ld.global.nc) that it moves
// ahead of the wait. With __restrict__ on the pointers that are written through, loads may still move ahead of stores.
__device__ __forceinline__ void wait_for_last_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Once every block has called this or ended, the next kernel is launched, and waits in its turn. Waiting blocks occupy
// multiprocessors: the later this is called, the better a large grid is spread.
__device__ __forceinline__ void launch_next_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// The value in memory now, not one that a multiprocessor has cached since an older kernel.
template <class V>
__device__ __forceinline__ V fresh(const V* place) {
#ifdef __CUDA_ARCH__
    return __ldcg(place);
#else
    return *place;
#endif
}

// -- types ---------------------------------------------------------------------------------------------

// Conversions between 16-bit and any other types go through float.
template <class V>
__device__ __forceinline__ V widened(V x) { return x; }
template <class To>
struct Rounded {
    template <class From>
    static __device__ __forceinline__ To of(From x) { return static_cast<To>(x); }
};
#ifdef FLOAT16
__device__ __forceinline__ float widened(__half x) { return __half2float(x); }
template <>
struct Rounded<__half> {
    static __device__ __forceinline__ __half of(float x) { return __float2half_rn(x); }
};
#endif
#ifdef BFLOAT16
__device__ __forceinline__ float widened(__nv_bfloat16 x) { return __bfloat162float(x); }
template <>
struct Rounded<__nv_bfloat16> {
    static __device__ __forceinline__ __nv_bfloat16 of(float x) { return __float2bfloat16_rn(x); }
};
#endif

template <class To, class From>
__device__ __forceinline__ To convert(From x) {
    return Rounded<To>::of(widened(x));
}

__device__ __forceinline__ A select(bool condition, A x, A y) { return condition ? x : y; }

// -- 16-byte accesses ----------------------------------------------------------------------------------

// N neighbours in memory, moved with as few instructions as their alignment allows.
template <class V, int N>
struct alignas(sizeof(V) * N < 16 ? sizeof(V) * N : 16) Pack {
    V x[N];
};

template <int N, class V>
__device__ __forceinline__ Pack<V, N> load(const V* from) {
    return *reinterpret_cast<const Pack<V, N>*>(from);
}

template <int N, class V>
__device__ __forceinline__ void store(V* to, const Pack<V, N>& pack) {
    *reinterpret_cast<Pack<V, N>*>(to) = pack;
}

// The first `count` of N neighbours, and zeros for the others; in one access if all exist and `packed` allows it.
template <int N, class V>
__device__ __forceinline__ Pack<V, N> load(const V* from, int count, bool packed) {
    if (packed && count >= N) return load<N>(from);
    Pack<V, N> pack;
    for (int i = 0; i < N; i++) pack.x[i] = i < count ? from[i] : convert<V>(A(0));
    return pack;
}

template <int N, class V>
__device__ __forceinline__ void store(V* to, const Pack<V, N>& pack, int count, bool packed) {
    if (packed && count >= N) return store(to, pack);
    for (int i = 0; i < N; i++)
        if (i < count) to[i] = pack.x[i];
}

template <class To, class From, int N>
__device__ __forceinline__ Pack<To, N> convert(const Pack<From, N>& pack) {
    Pack<To, N> to;
    for (int i = 0; i < N; i++) to.x[i] = convert<To>(pack.x[i]);
    return to;
}

__device__ __forceinline__ bool aligned(const void* pointer, int bytes = 16) {
    return reinterpret_cast<unsigned long long>(pointer) % bytes == 0;
}

// -- dropout -------------------------------------------------------------------------------------------

#ifdef DROPOUT
// Philox 4x32-10 with key = the network's seed and counter = (quad of elements, layer, step).
// Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011.
struct Philox {
    unsigned word[4];

    __device__ __forceinline__ Philox(Index quad, unsigned layer, Index step, unsigned long long seed) {
        unsigned c0 = quad, c1 = layer, c2 = step, c3 = 0, k0 = seed, k1 = seed >> 32;
        for (int round = 0; round < 10; round++) {
            unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
            unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
            c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
            k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
        }
        word[0] = c0, word[1] = c1, word[2] = c2, word[3] = c3;
    }
};
#endif

// -- the order of rows ---------------------------------------------------------------------------------

#ifdef ROUNDS
// The bijection of [0, count) is a Feistel network over the smallest domain of 2^bits, applied until the result is
// below count: each round changes one half by the upper bits of (other half * a + b) mod 2^32
// (gpubp/backends/shuffle.py).
__device__ __forceinline__ Index shuffled(unsigned place, const unsigned* keys, Index count) {
    int bits = 2;
    while ((count - 1) >> bits) bits++;
    const int upper_bits = bits / 2, lower_bits = bits - upper_bits;
    do {
        unsigned upper = place >> lower_bits, lower = place & ((1u << lower_bits) - 1);
        for (int i = 0; i < ROUNDS; i += 2) {
            upper ^= (lower * keys[2 * i] + keys[2 * i + 1]) >> (32 - upper_bits);
            lower ^= (upper * keys[2 * i + 2] + keys[2 * i + 3]) >> (32 - lower_bits);
        }
        place = upper << lower_bits | lower;
    } while (place >= count);
    return place;
}
#endif

// -- matrices by tiles of columns ----------------------------------------------------------------------

// A thread's part of the COLUMNS columns of a matrix that a block works on: N neighbouring columns, of the rows
// lane, lane + lanes, ... of the block's rows. With N = 1 a thread has a single column.
template <int N>
struct Tile {
    static constexpr int width = COLUMNS / N, lanes = THREADS / width;
    int inside = threadIdx.x % width * N, lane = threadIdx.x / width;
    int column;

    __device__ __forceinline__ explicit Tile(int tile) : column(tile * COLUMNS + inside) {}
};

// Adds up, in a fixed order, what the lanes of a block hold for the same columns; lane 0 gets the totals.
template <int N>
__device__ __forceinline__ void add_lanes(const Tile<N>& at, A (&sum)[N]) {
    __shared__ A upper[THREADS / 2 * N];
    for (int half = Tile<N>::lanes / 2; half > 0; half /= 2) {
        if (half <= at.lane && at.lane < 2 * half)
            for (int i = 0; i < N; i++) upper[(at.lane - half) * COLUMNS + at.inside + i] = sum[i];
        __syncthreads();
        if (at.lane < half)
            for (int i = 0; i < N; i++) sum[i] += upper[at.lane * COLUMNS + at.inside + i];
        __syncthreads();
    }
}

// -- sums and maxima over threads ----------------------------------------------------------------------

struct Add {
    template <class V>
    __device__ V operator()(V x, V y) const { return x + y; }
};
// Where a maximum starts: minus infinity.
__device__ __forceinline__ A least() { return -__int_as_float(0x7f800000); }

struct Max {
    __device__ A operator()(A x, A y) const { return x > y ? x : y; }
};
struct Min {
    __device__ int operator()(int x, int y) const { return x < y ? x : y; }
};

// The values of SPAN neighbouring threads combined; each of them gets the same bits.
template <int SPAN, class V, class Combine>
__device__ __forceinline__ V over_group(V x, Combine combine) {
    for (int offset = (SPAN < 32 ? SPAN : 32) / 2; offset > 0; offset /= 2) x = combine(x, __shfl_xor_sync(0xffffffffu, x, offset));
    if constexpr (SPAN > 32) {
        __shared__ V warps[SPAN / 32];
        __syncthreads();  // the last call's readers are done
        if (threadIdx.x % 32 == 0) warps[threadIdx.x % SPAN / 32] = x;
        __syncthreads();
        x = warps[0];
        for (int warp = 1; warp < SPAN / 32; warp++) x = combine(x, warps[warp]);
    }
    return x;
}

// -- sums over rows, in two stages ---------------------------------------------------------------------

// sums = values (rows, n) summed over rows, for the columns of a tile; with sums of chunks as rows, the second stage.
template <class V>
__device__ __forceinline__ void add_rows(const Tile<1>& at, const V* values, A* sums, int rows, int n) {
    A sum[1] = {};
    if (at.column < n) {
#pragma unroll 8
        for (int row = at.lane; row < rows; row += at.lanes) sum[0] += convert<A>(values[Index(row) * n + at.column]);
    }
    add_lanes(at, sum);
    if (at.lane == 0 && at.column < n) sums[at.column] = sum[0];
}

// Whether this is the last of `blocks` to arrive; it can then read what the others wrote. `arrived` is zero between
// launches.
__device__ __forceinline__ bool is_last(unsigned* arrived, unsigned blocks) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();  // every thread's writes are out
    if (threadIdx.x == 0) {
        last = atomicAdd(arrived, 1u) == blocks - 1;
        if (last) *arrived = 0;
    }
    __syncthreads();
    __threadfence();
    return last;
}

// A loss's sums over rows: value and metric, each times the row's weight.
struct Totals {
    double value, metric;
};

// Where a loss kernel puts its sums, for each network.
struct LossSums {
    A* chunk_sums;         // (K, chunks, n) of delta over the rows of each block; grad_b itself where there is one
    A* grad_b;             // (K, n), for the last block to fill; null where column_sum does, or chunk_sums is it
    Totals* chunk_totals;  // (K, chunks)
    Totals* totals;        // (K, steps), of which the step's is filled
    unsigned* arrived;     // (K)
    Index chunk_sums_stride, grad_b_stride;
};
#define LOSS_SUMS_PARAMETERS                                                                                    \
    , A* chunk_sums, A* grad_b, Totals* chunk_totals, Totals* totals, unsigned* arrived, Index chunk_sums_stride, \
        Index grad_b_stride
#define LOSS_SUMS {chunk_sums, grad_b, chunk_totals, totals, arrived, chunk_sums_stride, grad_b_stride}

// Adds up a network's totals over the blocks that share its rows. True in the block that arrives last, which can read
// what the others wrote; false if there is only one block.
__device__ __forceinline__ bool sum_totals(Totals mine, Totals* chunk_totals, Totals* totals, unsigned* arrived, Index k,
                                           Index now) {
    const int chunks = gridDim.x;
    mine.value = over_group<THREADS>(mine.value, Add());
    mine.metric = over_group<THREADS>(mine.metric, Add());
    if (chunks == 1) {
        if (threadIdx.x == 0) totals[now] = mine;
        return false;
    }
    chunk_totals += k * chunks;
    if (threadIdx.x == 0) chunk_totals[blockIdx.x] = mine;
    if (!is_last(arrived + k, chunks)) return false;
    Totals all = {0, 0};
    for (int chunk = threadIdx.x; chunk < chunks; chunk += THREADS)
        all.value += chunk_totals[chunk].value, all.metric += chunk_totals[chunk].metric;
    all.value = over_group<THREADS>(all.value, Add());
    all.metric = over_group<THREADS>(all.metric, Add());
    if (threadIdx.x == 0) totals[now] = all;
    return true;
}

// The end of a loss kernel: block x has written delta (rows, n) in its rows first to last, and has its share of the
// totals.
__device__ __forceinline__ void sum_loss(const LossSums& to, const T* delta, Totals mine, int first, int last, int n,
                                         Index k, Index now) {
    const int chunks = gridDim.x;
    A* chunk_sums = to.chunk_sums + k * to.chunk_sums_stride;
    A* my_sums = chunk_sums + Index(blockIdx.x) * n;
    __syncthreads();  // what the block's other threads wrote can be read
    if (n <= COLUMNS) {
        add_rows(Tile<1>(0), delta + Index(first) * n, my_sums, last - first, n);
    } else {
        for (int column = threadIdx.x; column < n; column += THREADS) {
            A sum = 0;
#pragma unroll 8
            for (int row = first; row < last; row++) sum += convert<A>(delta[Index(row) * n + column]);
            my_sums[column] = sum;
        }
    }
    if (!sum_totals(mine, to.chunk_totals, to.totals, to.arrived, k, now) || !to.grad_b) return;
    for (int tile = 0; tile * COLUMNS < n; tile++)
        add_rows(Tile<1>(tile), chunk_sums, to.grad_b + k * to.grad_b_stride, chunks, n);
}

// -- an update -----------------------------------------------------------------------------------------

// x to the power of n; for whole n by squaring, since pow takes a single thread microseconds.
__device__ __forceinline__ double power(double x, double n) {
    if (!(n >= 0 && n < 2147483648.0 && n == rint(n))) return pow(x, n);
    double result = 1;
    for (unsigned left = n; left > 0; left /= 2) {
        if (left % 2) result *= x;
        x *= x;
    }
    return result;
}

// What step_begin decides for a network and optimizer_step carries out.
template <class Rule>
struct Step {
    Rule rule;    // with the scalars of this update
    A factor;     // of the gradient: clipping, and one over the loss scale
    A penalty;    // l2, in the gradient's scale
    A decay;      // learning rate times weight decay
    bool counts;  // whether anything is written
};
