// z += b by rows, then a = Act(z), with DROPOUT a = mask * Act(z) / (1 - rate), for each of K networks.
// z (K, rows, n), b (K, n), a (K, rows, n), which may be z; mask (K, rows, n), one byte each, is filled.
// Moves z twice (once where a is z), a once and the mask once.
//
// The mask's words are Philox's of (element / 4, layer, step); the element is word (element % 4) and stays where that is
// >= round(rate * 2^32).

template <int N>
__device__ __forceinline__ void activate(T* z, const T* __restrict__ b, T* a, int rows, int n, int rows_per_block
#ifdef DROPOUT
                                         , unsigned char* __restrict__ mask, double rate, unsigned long long seed,
                                         Index step, int layer
#endif
) {
    const Tile<N> at(blockIdx.x);
    if (at.column >= n) return;
    const Pack<T, N> bias = load<N>(b + at.column);
    const int first = blockIdx.y * rows_per_block, last = min(first + rows_per_block, rows);
#ifdef DROPOUT
    const unsigned long long threshold = rint(rate * 4294967296.0);
    const A scale = 1.0 / (1.0 - rate);
#endif
    for (int lowest = first + at.lane; lowest < last; lowest += at.lanes * AT_ONCE) {
        Pack<T, N> before[AT_ONCE];
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++) {
            const int row = lowest + r * at.lanes;
            if (row < last) before[r] = load<N>(z + Index(row) * n + at.column);
        }
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++) {
            const int row = lowest + r * at.lanes;
            if (row >= last) break;
            const Index place = Index(row) * n + at.column;
            Pack<T, N> after;
#ifdef DROPOUT
            Pack<unsigned char, N> kept;
            Philox random(place / 4, layer, step, seed);
#endif
            for (int i = 0; i < N; i++) {
                const A sum = convert<A>(before[r].x[i]) + convert<A>(bias.x[i]);
                A value = Act::f(sum);
#ifdef DROPOUT
                if (i > 0 && i % 4 == 0) random = Philox((place + i) / 4, layer, step, seed);  // N > 4 starts at a quad
                kept.x[i] = random.word[(place + i) % 4] >= threshold;
                value *= kept.x[i] ? scale : A(0);
#endif
                before[r].x[i] = convert<T>(sum);
                after.x[i] = convert<T>(value);
            }
            if (z != a) store(z + place, before[r]);
            store(a + place, after);
#ifdef DROPOUT
            store(mask + place, kept);
#endif
        }
    }
}

extern "C" __global__ void
bias_activation(T* z, const T* __restrict__ b, T* a, int rows, int n, int rows_per_block, Index z_stride, Index b_stride,
                Index a_stride
#ifdef DROPOUT
                , unsigned char* __restrict__ mask, Index mask_stride, const double* __restrict__ rates,
                const unsigned long long* __restrict__ seeds, const Index* __restrict__ cursor,
                const Index* __restrict__ first_step, int layer
#endif
) {
    const Index k = blockIdx.z;
    z += k * z_stride, b += k * b_stride, a += k * a_stride;
    bool packed = n % WIDTH == 0 && aligned(z) && aligned(b) && aligned(a);
#ifdef DROPOUT
    mask += k * mask_stride;
    packed = packed && aligned(mask, WIDTH);
#define DROPPING , mask, rates[k], seeds[k], first_step[k] + cursor[0], layer
#else
#define DROPPING
#endif
    if (packed)
        activate<WIDTH>(z, b, a, rows, n, rows_per_block DROPPING);
    else
        activate<1>(z, b, a, rows, n, rows_per_block DROPPING);
}
