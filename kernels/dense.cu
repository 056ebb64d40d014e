// A small layer forward in one launch: z = a_prev W + b by rows, a = Act(z), for each of K networks.
// a_prev (K or 1, rows, n_in), W (K, n_in, n), b (K, n), z and a (K, rows, n), which may be one buffer; with DROPOUT
// fills the mask (K, rows, n), one byte each. A block computes a tile; the grid is (tiles, K).
// Moves a_prev once for each column of tiles, W once for each row of tiles, and z, a and the mask once.

extern "C" __global__ void
dense(const T* a_prev, const T* W, const T* b, T* z, T* a, int rows, int n_in, int n,
      Index a_prev_stride, Index W_stride, Index b_stride, Index z_stride, Index a_stride
#ifdef DROPOUT
      , unsigned char* __restrict__ mask, Index mask_stride, const double* rates,
      const unsigned long long* seeds, const Index* cursor, const Index* first_step,
      int layer
#endif
) {
    wait_for_last_kernel();
    __shared__ __align__(16) A panels[PANELS];
    const Index k = blockIdx.y;
    a_prev += k * a_prev_stride, W += k * W_stride, b += k * b_stride, z += k * z_stride, a += k * a_stride;
    bool packed = n % QUAD == 0 && aligned(b, QUAD * sizeof(T)) && aligned(z, QUAD * sizeof(T)) && aligned(a, QUAD * sizeof(T));
#ifdef DROPOUT
    mask += k * mask_stride;
    packed = packed && aligned(mask, QUAD);
    const Dropping dropping = {rates[k], seeds[k], first_step[k] + cursor[0], layer};
#endif
    auto activate = [&](int row, int column, Pack<A, QUAD> sum) {
        if (row >= rows || column >= n) return;
        const Index place = Index(row) * n + column;
        const int count = min(QUAD, n - column);
        const Pack<T, QUAD> bias = load<QUAD>(b + column, count, packed);
        for (int i = 0; i < QUAD; i++) sum.x[i] += convert<A>(bias.x[i]);
        if (z != a) store(z + place, convert<T>(sum), count, packed);
#ifdef DROPOUT
        Pack<unsigned char, QUAD> kept;
        store(a + place, convert<T>(activated(sum, kept, dropping, place)), count, packed);
        store(mask + place, kept, count, packed);
#else
        store(a + place, convert<T>(activated(sum)), count, packed);
#endif
    };
    const int across = (n + TILE_N - 1) / TILE_N;
    product(panels, Operand<true>(a_prev, n_in, rows), Operand<false>(W, n, n), n_in, blockIdx.x / across * TILE_M,
            blockIdx.x % across * TILE_N, activate, false, [](int, A) {});
}
