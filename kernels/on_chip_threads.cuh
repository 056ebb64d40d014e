// Products by threads for training on the chip: TILE x TILE sums per thread.

constexpr int MOST_PART_BITS = 3;  // a tile is shared by 8 threads at most

// How a product of (m, k) by (k, n) is divided among threads. If it has fewer tiles than threads, the threads of a warp
// whose numbers differ only in the upper part_bits share a tile, each with `depth` of the terms.
struct alignas(16) Tiling {
    short high, wide;  // tiles along both sides
    short wide_bits, tile_bits, part_bits, depth;

    static __device__ Tiling of(int m, int n, int k) {
        const int high = (m + TILE - 1) / TILE, wide = (n + TILE - 1) / TILE;
        const int wide_bits = bits_for(wide), tile_bits = wide_bits + bits_for(high);
        const int most = min(bits_for(THREADS) - tile_bits, bits_for(k) - bits_for(4 * TILE));
        const int part_bits = max(0, min(most, MOST_PART_BITS)), parts = 1 << part_bits;
        const int depth = (((k + parts - 1) >> part_bits) + TILE - 1) / TILE * TILE;
        return {short(high), short(wide), short(wide_bits), short(tile_bits), short(part_bits), short(depth)};
    }
};

// Two threads whose numbers differ by `offset` add up their sums, and each keeps half of the rows.
template <int HALF>
__device__ __forceinline__ void add_parts(A (&sum)[TILE][TILE], int offset) {
    const bool upper = threadIdx.x & offset;
#pragma unroll
    for (int i = 0; i < HALF; i++)
#pragma unroll
        for (int j = 0; j < TILE; j++) {
            const A mine = upper ? sum[i + HALF][j] : sum[i][j], others = upper ? sum[i][j] : sum[i + HALF][j];
            sum[i][j] = mine + __shfl_xor_sync(0xffffffffu, others, offset);
        }
}

template <int ROWS, class Finish>
__device__ __forceinline__ void finish_rows(const A (&sum)[TILE][TILE], int row, int i_apart, int column, int apart,
                                            Finish finish) {
    Quad sums[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < TILE; j++) sums[i].x[j] = sum[i][j];
    finish(row, i_apart, column, apart, sums);
}

// start(j) plus the sums over k of a(i, k) b(k, j). With A_ALONG_K, a(i, k) is a[i * a_row + k], else a[k * a_row + i];
// with B_ALONG_K, b(k, j) is b[j * b_row + k], else b[k * b_row + j]. Calls finish(i, i_apart, j, apart, sums) with an
// array of Quads: the sums of rows i, i + i_apart, ..., each those of columns j, j + apart, .... Columns run up to a
// multiple of 4: finish must leave those beyond n zero. It must not write anything that the product reads.
template <bool A_ALONG_K, bool B_ALONG_K, class Start, class Finish>
__device__ __forceinline__ void product(const Tiling& tiling, const A* a, int a_row, const A* b, int b_row, int k,
                                        Start start, Finish finish) {
    const Tiling by = tiling;
    const int high = by.high, wide = by.wide, wide_bits = by.wide_bits, part_bits = by.part_bits;
    const int lane_bits = 5 - part_bits, part = int(threadIdx.x % 32) >> lane_bits;
    const int first = part * by.depth, last = min(first + by.depth, k);
    const bool by_squares = wide_bits >= 2 && by.tile_bits >= wide_bits + 2;
    const int apart = B_ALONG_K ? wide : 1, i_apart = A_ALONG_K ? high : 1;
    const int mine = (threadIdx.x >> 5 << lane_bits) | (threadIdx.x & ((1 << lane_bits) - 1));
    for (int others = 0; others < 1 << by.tile_bits; others += THREADS >> part_bits) {
        const int t = others + mine;
        int tile_j = t & ((1 << wide_bits) - 1), tile_i = t >> wide_bits;
        // If possible, half a warp has 4 x 4 tiles, and threads 2k and 2k + 1 are in the same column of tiles: then an
        // access to 16 bytes each takes 2 turns of the memory instead of 4.
        if (by_squares) {
            tile_j = (t >> 1 & 1) | (t >> 2 & 2) | (t >> 4 << 2 & ((1 << wide_bits) - 1));
            tile_i = (t & 1) | (t >> 1 & 2) | t >> (wide_bits + 2) << 2;
        }
        const bool inside = tile_i < high && tile_j < wide;
        // Along k, a thread's rows are far apart, so that neighbouring threads have neighbouring rows.
        const int i_0 = A_ALONG_K ? tile_i : TILE * tile_i, j_0 = B_ALONG_K ? tile_j : TILE * tile_j;
        A sum[TILE][TILE] = {};
        if (inside) {
            const Quad from = start(j_0);
#pragma unroll
            for (int i = 0; i < TILE; i++)
#pragma unroll
                for (int j = 0; j < TILE; j++) sum[i][j] = part == 0 ? from.x[j] : A(0);
            if constexpr (A_ALONG_K) {
                const A *at_a = a + i_0 * a_row + first, *at_b = B_ALONG_K ? b + j_0 * b_row + first : b + first * b_row + j_0;
                const int next_a = i_apart * a_row, next_b = B_ALONG_K ? apart * b_row : b_row;
#pragma unroll 1
                for (int left = last - first; left > 0; left -= TILE) {
                    Quad x[TILE], y[TILE];
#pragma unroll
                    for (int i = 0; i < TILE; i++) x[i] = load<TILE>(at_a + i * next_a);
#pragma unroll
                    for (int j = 0; j < TILE; j++) y[j] = load<TILE>(at_b + j * next_b);
                    at_a += TILE, at_b += B_ALONG_K ? TILE : TILE * b_row;
#pragma unroll
                    for (int step = 0; step < TILE; step++)
#pragma unroll
                        for (int i = 0; i < TILE; i++)
#pragma unroll
                            for (int j = 0; j < TILE; j++)
                                sum[i][j] += x[i].x[step] * (B_ALONG_K ? y[j].x[step] : y[step].x[j]);
                }
            } else {
                const A *at_a = a + first * a_row + i_0, *at_b = b + first * b_row + j_0;
#pragma unroll 8
                for (int left = last - first; left > 0; left--) {
                    const Quad x = load<TILE>(at_a), y = load<TILE>(at_b);
                    at_a += a_row, at_b += b_row;
#pragma unroll
                    for (int i = 0; i < TILE; i++)
#pragma unroll
                        for (int j = 0; j < TILE; j++) sum[i][j] += x.x[i] * y.x[j];
                }
            }
        }
        if (part_bits > 0) add_parts<2>(sum, 16);
        if (part_bits > 1) add_parts<1>(sum, 8);
        if (part_bits > 2)
#pragma unroll
            for (int j = 0; j < TILE; j++) sum[0][j] += __shfl_xor_sync(0xffffffffu, sum[0][j], 4);
        if (!inside || (part_bits > 2 && part % 2)) continue;
        const int row = i_0 + (part << 2 >> part_bits) * i_apart;
#ifdef DROPOUT  // with random numbers, code for several rows would be too long
#pragma unroll 1
        for (int i = 0; i < TILE >> min(part_bits, 2); i++) {
            finish_rows<1>(sum, row + i * i_apart, i_apart, j_0, apart, finish);
#pragma unroll
            for (int later = 1; later < TILE; later++)  // since a loop cannot index registers
#pragma unroll
                for (int j = 0; j < TILE; j++) sum[later - 1][j] = sum[later][j];
        }
#else
        if (part_bits == 0)
            finish_rows<TILE>(sum, row, i_apart, j_0, apart, finish);
        else if (part_bits == 1)
            finish_rows<TILE / 2>(sum, row, i_apart, j_0, apart, finish);
        else
            finish_rows<1>(sum, row, i_apart, j_0, apart, finish);
#endif
    }
}
