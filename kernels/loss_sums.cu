// BP3 of the output layer and the loss of a step: partial = sums of delta over chunks of rows, as
// hadamard_derivative leaves them, and totals[k, step] = the sum of row_values over the rows.
// delta (K, rows, n), partial (K, chunks, n) or grad_b itself, row_values (K, rows, 2), totals (K, steps, 2).
// The blocks behind the last tile of columns sum the rows' values. Moves delta and row_values once.

template <int N>
__device__ __forceinline__ void sum_columns(const T* delta, A* partial, int rows, int n, int rows_per_chunk) {
    const Tile<N> at;
    const int first = blockIdx.y * rows_per_chunk, last = min(first + rows_per_chunk, rows);
    A sum[N] = {};
    for (int row = first + at.lane; at.column < n && row < last; row += at.lanes) {
        const Pack<T, N> d = load<N>(delta + Index(row) * n + at.column);
        for (int i = 0; i < N; i++) sum[i] += convert<A>(d.x[i]);
    }
    add_lanes(at, sum);
    if (at.lane == 0 && at.column < n)
        for (int i = 0; i < N; i++) partial[Index(blockIdx.y) * n + at.column + i] = sum[i];
}

__device__ __forceinline__ void sum_rows(const double* row_values, double* total, int rows) {
    double value = 0, metric = 0;
    for (int row = threadIdx.x; row < rows; row += THREADS)
        value += row_values[row * 2], metric += row_values[row * 2 + 1];
    value = over_group<THREADS>(value, Add());
    metric = over_group<THREADS>(metric, Add());
    if (threadIdx.x == 0) total[0] = value, total[1] = metric;
}

extern "C" __global__ void
loss_sums(const T* delta, A* partial, const double* row_values, double* totals, const Index* cursor, Index steps, int rows, int n,
          int rows_per_chunk, Index delta_stride, Index partial_stride) {
    const Index k = blockIdx.z;
    if (blockIdx.x * COLUMNS >= n) {
        if (blockIdx.y == 0)
            sum_rows(row_values + k * rows * 2, totals + (k * steps + cursor[0]) * 2, rows);
        return;
    }
    delta += k * delta_stride, partial += k * partial_stride;
    if (n % WIDTH == 0 && aligned(delta))
        sum_columns<WIDTH>(delta, partial, rows, n, rows_per_chunk);
    else
        sum_columns<1>(delta, partial, rows, n, rows_per_chunk);
}
