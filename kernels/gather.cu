// The rows of a step from the resident data: X_out[k, i] = X[k, row], cast from S to D, and likewise y and the weights,
// where row = order[k, bijection(step * batch_size + i)]. If order is null, row is what the bijection gives; if keys
// are null, the bijection is the identity.
// X, y, weight (K or 1, m, columns); X_out, y_out, weight_out (K or 1, rows, columns), null if there are none;
// order (K or 1, m), keys (K or 1, ROUNDS, 2), counts (K or 1). If only part of the rows is resident at a time,
// positions start from 0 again after `period`, which is 0 otherwise. Moves every row twice.

constexpr int MOST_ROWS = 64;  // of a block

// out = the `height` rows of source that `taken` lists, N elements at a time.
template <int N, class From, class To>
__device__ __forceinline__ void copy(const From* source, To* __restrict__ out, const Index* taken, int height,
                                     int columns) {
    const int units = columns / N, all = height * units;
    for (int first = threadIdx.x; first < all; first += THREADS * AT_ONCE) {
        Pack<From, N> pack[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int unit = first + i * THREADS, row = unit / units;
            if (unit < all) pack[i] = load<N>(source + taken[row] * columns + (unit - row * units) * N);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int unit = first + i * THREADS;
            if (unit >= all) break;
            Pack<To, N> put;
            for (int j = 0; j < N; j++) put.x[j] = convert<To>(pack[i].x[j]);
            store(out + Index(unit) * N, put);
        }
    }
}

template <class From, class To>
__device__ __forceinline__ void take(const From* source, To* out, const Index* taken, int height, int columns) {
    // As many elements at a time as fit into 16 bytes in the wider of the two types.
    constexpr int N = 16 / (sizeof(From) > sizeof(To) ? sizeof(From) : sizeof(To));
    if (columns % N == 0 && aligned(source) && aligned(out))
        copy<N>(source, out, taken, height, columns);
    else
        copy<1>(source, out, taken, height, columns);
}

extern "C" __global__ void
gather(const S* X, D* __restrict__ X_out, const Y* y, Y* __restrict__ y_out,
       const double* weight, double* __restrict__ weight_out, const Index* order,
       const unsigned* keys, const Index* counts, const Index* cursor,
       Index X_stride, Index X_out_stride, Index y_stride, Index y_out_stride, Index weight_stride,
       Index weight_out_stride, Index order_stride, Index keys_stride, Index counts_stride, Index period, int rows,
       int columns, int y_columns, int batch_size, int rows_per_block, int beside_update) {
    if (!beside_update) wait_for_last_kernel();
    __shared__ Index taken[MOST_ROWS];
    const int first = blockIdx.x * rows_per_block, height = min(rows_per_block, rows - first);
    const Index k = blockIdx.y;
    if (threadIdx.x < height) {
        Index row = fresh(cursor) * batch_size;
        if (period) row %= period;
        row += first + threadIdx.x;
        if (keys) row = shuffled(row, keys + k * keys_stride, counts[k * counts_stride]);
        taken[threadIdx.x] = order ? order[k * order_stride + row] : row;
    }
    __syncthreads();
    take(X + k * X_stride, X_out + k * X_out_stride + Index(first) * columns, taken, height, columns);
    if (y_out)
        take(y + k * y_stride, y_out + k * y_out_stride + Index(first) * y_columns, taken, height, y_columns);
    if (weight_out)
        take(weight + k * weight_stride, weight_out + k * weight_out_stride + first, taken, height, 1);
    if (beside_update) wait_for_last_kernel();
    launch_next_kernel();
}
