// BP2 and BP3: grad becomes delta = grad * Act'(kept), and partial the sums of delta over chunks of rows.
// grad, kept (K, rows, n); partial (K, chunks, n), which column_sum adds up to grad_b, or grad_b itself if all rows are
// one chunk. With DROPOUT delta = mask / (1 - rate) * grad * Act'(x), where x is kept * (1 - rate) if kept is a, the
// scaled activation. Moves grad twice, kept once and the mask once.

template <int N>
__device__ __forceinline__ void differentiate_rows(T* __restrict__ grad, const T* kept, A* __restrict__ partial,
                                              int rows, int n, int rows_per_chunk
#ifdef DROPOUT
                                              , const unsigned char* mask, double rate
#endif
) {
    const Tile<N> at(blockIdx.x);
    const int first = blockIdx.y * rows_per_chunk, last = min(first + rows_per_chunk, rows);
    A sum[N] = {};
#ifdef DROPOUT
    const A scale = 1.0 / (1.0 - rate);
#endif
    for (int lowest = first + at.lane; at.column < n && lowest < last; lowest += at.lanes * AT_ONCE) {
        Pack<T, N> delta[AT_ONCE], x[AT_ONCE];
#ifdef DROPOUT
        Pack<unsigned char, N> stays[AT_ONCE];
#endif
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++) {
            const int row = lowest + r * at.lanes;
            if (row >= last) break;
            const Index place = Index(row) * n + at.column;
            delta[r] = load<N>(grad + place);
            x[r] = load<N>(kept + place);
#ifdef DROPOUT
            stays[r] = load<N>(mask + place);
#endif
        }
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++) {
            const int row = lowest + r * at.lanes;
            if (row >= last) break;
            Pack<A, N> d = convert<A>(delta[r]);
#ifdef DROPOUT
            differentiate(d, x[r], stays[r], scale);
#else
            differentiate(d, x[r]);
#endif
            for (int i = 0; i < N; i++) sum[i] += d.x[i];
            store(grad + Index(row) * n + at.column, convert<T>(d));
        }
    }
    add_lanes(at, sum);
    if (at.lane == 0 && at.column < n)
        for (int i = 0; i < N; i++) partial[Index(blockIdx.y) * n + at.column + i] = sum[i];
}

extern "C" __global__ void
hadamard_derivative(T* __restrict__ grad, const T* kept, A* __restrict__ partial, int rows, int n,
                    int rows_per_chunk, Index grad_stride, Index kept_stride, Index partial_stride
#ifdef DROPOUT
                    , const unsigned char* mask, Index mask_stride, const double* rates
#endif
) {
    wait_for_last_kernel();
    launch_next_kernel();
    const Index k = blockIdx.z;
    grad += k * grad_stride, kept += k * kept_stride, partial += k * partial_stride;
    bool packed = n % WIDTH == 0 && aligned(grad) && aligned(kept);
#ifdef DROPOUT
    mask += k * mask_stride;
    packed = packed && aligned(mask, WIDTH);
#define DROPPING , mask, rates[k]
#else
#define DROPPING
#endif
    if (packed)
        differentiate_rows<WIDTH>(grad, kept, partial, rows, n, rows_per_chunk DROPPING);
    else
        differentiate_rows<1>(grad, kept, partial, rows, n, rows_per_chunk DROPPING);
}
