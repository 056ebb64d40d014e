// A small last layer forward and BP1 in one launch, for each of K networks: logits z = a_prev W + b by rows, which stay
// in shared memory, their delta, and the totals of the step.
// a_prev (K or 1, rows, n_in), W (K, n_in, n), b (K, n), delta (K, rows, n); arguments of the loss as in loss_delta.cu.
// A block computes a tile, which has all columns: n is TILE_N at most. The grid is (tiles, K). Moves a_prev once, W
// once for each tile, and y, weight and delta once.

extern "C" __global__ void
dense_loss(const T* a_prev, const T* W, const T* b, T* __restrict__ delta, int rows,
           int n_in, int n, Index a_prev_stride, Index W_stride, Index b_stride, Index delta_stride,
           const Target* y, const double* weight, const double* normalizer, const double* smoothing,
           const double* loss_scale, const Index* cursor, Index steps, Index y_stride, Index weight_stride,
           Totals* chunk_totals, Totals* totals, unsigned* arrived) {
    __shared__ __align__(16) A panels[PANELS];
    __shared__ A logits[TILE_M][TILE_N];
    wait_for_last_kernel();
    const Index k = blockIdx.y, now = k * steps + cursor[0];
    const int first = blockIdx.x * TILE_M;
    a_prev += k * a_prev_stride, W += k * W_stride, b += k * b_stride, delta += k * delta_stride, y += k * y_stride;
    const double scale = normalizer[now] * (loss_scale ? loss_scale[k] : 1.0);
    auto put = [&](int row, int column, const Pack<A, QUAD>& sum) {
        for (int i = 0; i < QUAD; i++)
            if (column + i < n) logits[row - first][column + i] = sum.x[i] + convert<A>(b[column + i]);
    };
    product(panels, Operand<true>(a_prev, n_in, rows), Operand<false>(W, n, n), n_in, first, 0, put, false, [](int, A) {});
    __syncthreads();
    Totals mine = {0, 0};
    static_assert(TILE_M * TILE_N <= THREADS, "each thread has one logit at most");
    const int inside = threadIdx.x / TILE_N, column = threadIdx.x % TILE_N, row = first + inside;
    const bool there = inside < TILE_M && row < rows;
    const double w = there && weight ? weight[k * weight_stride + row] : 1.0;
    loss_of_row<TILE_N>(logits[there ? inside : 0], y + Index(there ? row : 0) * (ONE_TARGET ? 1 : n), n, there, smoothing[k], w,
                        scale, mine);
    if (there && column < n) delta[Index(row) * n + column] = convert<T>(logits[inside][column]);
    sum_totals(mine, chunk_totals, totals, arrived, k, now);
}
