// z += b by rows, then a = Act(z) or, with DROPOUT, a = mask * Act(z) / (1 - rate), for each of K networks.
// z (K, rows, n), b (K, n), a (K, rows, n), which may be z; fills mask (K, rows, n), one byte each.
// Moves z twice (once if a is z), a once and the mask once.

template <int N>
__device__ __forceinline__ void activate(T* z, const T* b, T* a, int rows, int n, int rows_per_block
#ifdef DROPOUT
                                         , unsigned char* __restrict__ mask, const Dropping& dropping
#endif
) {
    const Tile<N> at(blockIdx.x);
    if (at.column >= n) return;
    const Pack<T, N> bias = load<N>(b + at.column);
    const int first = blockIdx.y * rows_per_block, last = min(first + rows_per_block, rows);
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
            Pack<A, N> sum;
            for (int i = 0; i < N; i++) sum.x[i] = convert<A>(before[r].x[i]) + convert<A>(bias.x[i]);
            if (z != a) store(z + place, convert<T>(sum));
#ifdef DROPOUT
            Pack<unsigned char, N> kept;
            store(a + place, convert<T>(activated(sum, kept, dropping, place)));
            store(mask + place, kept);
#else
            store(a + place, convert<T>(activated(sum)));
#endif
        }
    }
}

extern "C" __global__ void
bias_activation(T* z, const T* b, T* a, int rows, int n, int rows_per_block, Index z_stride, Index b_stride,
                Index a_stride
#ifdef DROPOUT
                , unsigned char* __restrict__ mask, Index mask_stride, const double* rates,
                const unsigned long long* seeds, const Index* cursor,
                const Index* first_step, int layer
#endif
) {
    wait_for_last_kernel();
    launch_next_kernel();
    const Index k = blockIdx.z;
    z += k * z_stride, b += k * b_stride, a += k * a_stride;
    bool packed = n % WIDTH == 0 && aligned(z) && aligned(b) && aligned(a);
#ifdef DROPOUT
    mask += k * mask_stride;
    packed = packed && aligned(mask, WIDTH);
    const Dropping dropping = {rates[k], seeds[k], first_step[k] + cursor[0], layer};
#define DROPPING , mask, dropping
#else
#define DROPPING
#endif
    if (packed)
        activate<WIDTH>(z, b, a, rows, n, rows_per_block DROPPING);
    else
        activate<1>(z, b, a, rows, n, rows_per_block DROPPING);
}
