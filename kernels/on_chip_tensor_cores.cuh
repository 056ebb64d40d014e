// Products on tensor cores for training on the chip: 16 x 16 sums per warp, of operands rounded to TF32.
//
// How a fragment's rows, columns and k map to those of the matrices is free, as long as all fragments agree. So a lane
// has the lines 2 i and 2 i + 1 of either operand at the k 2 j and 2 j + 1: two words side by side, twice, whichever
// way the operand is stored. Of the sums it has two neighbouring Quads. Since a line is an odd number of 16-byte words
// long, the words that half a warp reads at once are in 32 different banks.

constexpr int SIDE = 16, WARPS = THREADS / 32;
static_assert(SIDE == UNIT_M && SIDE == 2 * UNIT_N && UNIT_K == 8, "two units side by side");

// How a product of (m, k) by (k, n) is divided among warps: rows and columns are m and n, rounded up to multiples of
// TILE.
struct alignas(16) Tiling {
    int rows, columns;
    int wide, squares;  // squares of sums, side by side and in all

    static __device__ Tiling of(int m, int n, int) {
        const int wide = (n + SIDE - 1) / SIDE;
        return {(m + TILE - 1) / TILE * TILE, (n + TILE - 1) / TILE * TILE, wide, wide * ((m + SIDE - 1) / SIDE)};
    }
};

// An operand's words of two lines at two k; zeros beyond its lines and its k.
struct Words {
    unsigned at[2][2] = {};

    // Along k, an operand has zeros beyond k up to a multiple of TILE.
    template <bool ALONG_K>
    static __device__ __forceinline__ Words of(const A* from, int length, int line, int lines, int k, int depth) {
        Words words;
        if (line >= lines) return words;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (k + (ALONG_K ? 0 : i) >= depth) continue;
            const Pack<A, 2> pair = load<2>(from + (ALONG_K ? (line + i) * length + k : (k + i) * length + line));
#pragma unroll
            for (int j = 0; j < 2; j++) words.at[ALONG_K ? i : j][ALONG_K ? j : i] = to_tf32(pair.x[j]);
        }
        return words;
    }
};

// start(j) plus the sums over k of a(i, k) b(k, j). With A_ALONG_K, a(i, k) is a[i * a_row + k], else a[k * a_row + i];
// with B_ALONG_K, b(k, j) is b[j * b_row + k], else b[k * b_row + j]. Calls finish(i, 1, j, 1, sums) with an array of
// Quads: the sums of row i and, without DROPOUT, of row i + 1, each those of column j and the next ones. Columns run up
// to a multiple of 4: finish must leave those beyond n zero. It must not write anything that the product reads.
template <bool A_ALONG_K, bool B_ALONG_K, class Start, class Finish>
__device__ __forceinline__ void product(const Tiling& tiling, const A* a, int a_row, const A* b, int b_row, int k,
                                        Start start, Finish finish) {
    const Tiling by = tiling;
    const int i = threadIdx.x % 32 / 4, j = threadIdx.x % 4;
    for (int square = threadIdx.x / 32; square < by.squares; square += WARPS) {
        const int row = square / by.wide * SIDE + 2 * i, left = square % by.wide * SIDE, column = left + TILE * j;
        const bool inside = row < by.rows && column < by.columns;
        Quad from = {};
        if (inside) from = start(column);
        A sum[2][4];  // of both units; column c is column 2 c of the square in one, 2 c + 1 in the other
#pragma unroll
        for (int of = 0; of < 4; of++) sum[0][of] = from.x[of % 2 * 2], sum[1][of] = from.x[of % 2 * 2 + 1];
#pragma unroll 4
        for (int first = 0; first < k; first += UNIT_K) {
            const Words x = Words::of<A_ALONG_K>(a, a_row, row, by.rows, first + 2 * j, k);
            const Words y = Words::of<B_ALONG_K>(b, b_row, left + 2 * i, by.columns, first + 2 * j, k);
            const FragmentA fragment = {x.at[0][0], x.at[1][0], x.at[0][1], x.at[1][1]};
#pragma unroll
            for (int unit = 0; unit < 2; unit++) multiply_add(sum[unit], fragment, {y.at[unit][0], y.at[unit][1]});
        }
        if (!inside) continue;
        Quad sums[2];
#pragma unroll
        for (int of = 0; of < 4; of++)
#pragma unroll
            for (int unit = 0; unit < 2; unit++) sums[of / 2].x[of % 2 * 2 + unit] = sum[unit][of];
#ifdef DROPOUT  // with random numbers, code for several rows would be too long
#pragma unroll 1
        for (int later = 0; later < 2; later++) {
            Quad one[1] = {sums[0]};
            finish(row + later, 1, column, 1, one);
            sums[0] = sums[1];
        }
#else
        finish(row, 1, column, 1, sums);
#endif
    }
}
