// A small layer backward in one launch, for each of K networks:
// BP4, grad_W = a_prev^T delta; BP3, grad_b = delta summed over rows, unless grad_b is null; and with BELOW
// BP2, below = (delta W^T) * Act'(from), where from is the a or z of the layer below.
// a_prev, below, from (K or 1, rows, n_in), W, grad_W (K, n_in, n), delta (K, rows, n), grad_b (K, n). With DROPOUT,
// below is multiplied by mask / (1 - rate), mask (K, rows, n_in). The first blocks of the grid (tiles, K) compute BP2.
// Moves delta twice for each column of tiles, a_prev and W likewise, and everything else once.

extern "C" __global__ void
dense_backward(const T* a_prev, const T* delta, A* __restrict__ grad_W, A* __restrict__ grad_b,
               int rows, int n_in, int n, Index a_prev_stride, Index delta_stride, Index grad_W_stride, Index grad_b_stride
#ifdef BELOW
               , const T* W, T* __restrict__ below, const T* from, Index W_stride, Index below_stride,
               Index from_stride
#ifdef DROPOUT
               , const unsigned char* mask, Index mask_stride, const double* rates
#endif
#endif
) {
    wait_for_last_kernel();
    __shared__ __align__(16) A panels[PANELS];
    const Index k = blockIdx.y;
    a_prev += k * a_prev_stride, delta += k * delta_stride, grad_W += k * grad_W_stride;
    int tile = blockIdx.x;
#ifdef BELOW
    const int below_across = (n_in + TILE_N - 1) / TILE_N, below_tiles = (rows + TILE_M - 1) / TILE_M * below_across;
    if (tile < below_tiles) {
        W += k * W_stride, below += k * below_stride, from += k * from_stride;
        bool packed = n_in % QUAD == 0 && aligned(below, QUAD * sizeof(T)) && aligned(from, QUAD * sizeof(T));
#ifdef DROPOUT
        mask += k * mask_stride;
        packed = packed && aligned(mask, QUAD);
        const A scale = 1.0 / (1.0 - rates[k]);
#endif
        auto propagate = [&](int row, int column, Pack<A, QUAD> grad) {
            if (row >= rows || column >= n_in) return;
            const Index place = Index(row) * n_in + column;
            const int count = min(QUAD, n_in - column);
            const Pack<T, QUAD> x = load<QUAD>(from + place, count, packed);
#ifdef DROPOUT
            differentiate(grad, x, load<QUAD>(mask + place, count, packed), scale);
#else
            differentiate(grad, x);
#endif
            store(below + place, convert<T>(grad), count, packed);
        };
        return product(panels, Operand<true>(delta, n, rows), Operand<true>(W, n, n_in), n, tile / below_across * TILE_M,
                       tile % below_across * TILE_N, propagate, false, [](int, A) {});
    }
    tile -= below_tiles;
#endif
    const bool packed = n % QUAD == 0 && aligned(grad_W, QUAD * sizeof(A));
    auto put = [&](int row, int column, const Pack<A, QUAD>& sum) {
        if (row < n_in && column < n) store(grad_W + Index(row) * n + column, sum, min(QUAD, n - column), packed);
    };
    auto put_sum = [&](int column, A sum) {
        if (column < n) grad_b[k * grad_b_stride + column] = sum;
    };
    const int across = (n + TILE_N - 1) / TILE_N, first_row = tile / across * TILE_M;
    product(panels, Operand<false>(a_prev, n_in, n_in), Operand<false>(delta, n, n), rows, first_row, tile % across * TILE_N,
            put, grad_b && first_row == 0, put_sum);
}
