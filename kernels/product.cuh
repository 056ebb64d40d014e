// A tile of out = a b, TILE_M rows by TILE_N columns, by a block: for products that are too small for a library's.
//
// A thread computes QUAD x QUAD sums: it reads few words of shared memory for many products. Where a tile has fewer sums
// than that, threads form GROUPS that take every GROUPS-th k, and their sums are added in order: so a block has enough
// threads to fetch whole panels at once. Panels of both operands, DEPTH of k, lie in shared memory as A, k by k; the
// next AHEAD ones are on their way into registers while one is multiplied.

constexpr int QUAD = 4;                                 // rows and columns of a thread, and columns that an epilogue gets
constexpr int ACROSS = TILE_N / QUAD;                   // threads of a group side by side
constexpr int GROUPS = THREADS * QUAD * QUAD / (TILE_M * TILE_N);
constexpr int DEPTH = 16384 / sizeof(A) / (TILE_M > TILE_N ? TILE_M : TILE_N);
constexpr int PITCH_M = TILE_M + 4, PITCH_N = TILE_N + 4;  // of panels: with 4 more, what is stored together is in 32 banks
constexpr int OF_PANELS = DEPTH * (PITCH_M + PITCH_N), OF_SUMS = GROUPS * TILE_N * (TILE_M + 1);
constexpr int PANELS = OF_PANELS > OF_SUMS ? OF_PANELS : OF_SUMS;  // elements of shared memory: sums take panels' place

// A row of a, or a column of b, is x. Its elements along k lie at from[x * line + k], or at from[k * line + x]; lines
// follow each other without gaps.
template <bool ALONG_K>
struct Operand {
    const T* from;
    int line, extent;  // elements from one line to the next, and the number of x
    bool packed;       // whether lines are whole pieces of 16 bytes

    __device__ __forceinline__ Operand(const T* from, int line, int extent)
        : from(from), line(line), extent(extent), packed(line % WIDTH == 0 && aligned(from)) {}
    __device__ __forceinline__ const T* at(int x, int k) const {
        return from + (ALONG_K ? Index(x) * line + k : Index(k) * line + x);
    }
};

// A thread's part of a panel of TILE lines x, on its way from memory.
template <bool ALONG_K, int TILE>
struct Panel {
    static constexpr int UNITS = DEPTH * TILE / (WIDTH * THREADS);
    static_assert(UNITS * WIDTH * THREADS == DEPTH * TILE, "every thread has equally many units");
    Pack<T, WIDTH> unit[UNITS];

    // The first element of a unit. Along k two neighbours take one line's sector, so that 32 threads store to 32 banks.
    static __device__ __forceinline__ int k_of(int number) {
        return ALONG_K ? (number % 2 + number / (2 * TILE) * 2) * WIDTH : number / (TILE / WIDTH);
    }
    static __device__ __forceinline__ int x_of(int number) {
        return ALONG_K ? number / 2 % TILE : number % (TILE / WIDTH) * WIDTH;
    }

    __device__ __forceinline__ void fetch(const Operand<ALONG_K>& of, int first_x, int first_k, int depth) {
        // Packed, a unit is inside or not as a whole. All of them are on their way before the first is waited for.
        if (of.packed) {
#pragma unroll
            for (int i = 0; i < UNITS; i++) {
                const int x = first_x + x_of(threadIdx.x + i * THREADS), k = first_k + k_of(threadIdx.x + i * THREADS);
                unit[i] = {};
                if (x < of.extent && k < depth) unit[i] = load<WIDTH>(of.at(x, k));
            }
        } else {
#pragma unroll
            for (int i = 0; i < UNITS; i++) {
                const int x = first_x + x_of(threadIdx.x + i * THREADS), k = first_k + k_of(threadIdx.x + i * THREADS);
                const int left = x >= of.extent || k >= depth ? 0 : ALONG_K ? depth - k : of.extent - x;
                unit[i] = load<WIDTH>(of.at(x, k), left, false);
            }
        }
    }

    __device__ __forceinline__ void put(A* panel) const {
        constexpr int PITCH = TILE + 4;
#pragma unroll
        for (int i = 0; i < UNITS; i++) {
            A* to = panel + k_of(threadIdx.x + i * THREADS) * PITCH + x_of(threadIdx.x + i * THREADS);
            const Pack<A, WIDTH> values = convert<A>(unit[i]);
            if constexpr (ALONG_K)
                for (int j = 0; j < WIDTH; j++) to[j * PITCH] = values.x[j];
            else
                store(to, values);
        }
    }
};

// epilogue(row, column, sums) gets every QUAD of the tile from (first_row, first_column) on, those outside of the matrix
// too; and column_sum(column, sum), if wanted, the sums of b over k. `panels` has room for PANELS elements.
template <bool A_ALONG_K, bool B_ALONG_K, class Epilogue, class ColumnSum>
__device__ __forceinline__ void product(A* panels, const Operand<A_ALONG_K>& a, const Operand<B_ALONG_K>& b, int depth,
                                        int first_row, int first_column, Epilogue epilogue, bool sum_columns,
                                        ColumnSum column_sum) {
    A* const panel_a = panels;
    A* const panel_b = panels + DEPTH * PITCH_M;
    const int group = threadIdx.x / (THREADS / GROUPS), inside = threadIdx.x % (THREADS / GROUPS);
    const int top = inside / ACROSS * QUAD, left = inside % ACROSS * QUAD;
    Pack<A, QUAD> sum[QUAD] = {}, of_b = {};
    Panel<A_ALONG_K, TILE_M> next_a[AHEAD];
    Panel<B_ALONG_K, TILE_N> next_b[AHEAD];
    auto fetch = [&](int slot, int first_k) {
        if (first_k >= depth) return;
        next_a[slot].fetch(a, first_row, first_k, depth);
        next_b[slot].fetch(b, first_column, first_k, depth);
    };
#pragma unroll
    for (int slot = 0; slot < AHEAD; slot++) fetch(slot, slot * DEPTH);
    for (int first_k = 0; first_k < depth; first_k += AHEAD * DEPTH) {
#pragma unroll
        for (int slot = 0; slot < AHEAD; slot++) {
            const int here = first_k + slot * DEPTH, end = min(DEPTH, depth - here);
            if (end <= 0) break;
            __syncthreads();  // the last panels have been read
            next_a[slot].put(panel_a);
            next_b[slot].put(panel_b);
            __syncthreads();
            fetch(slot, here + AHEAD * DEPTH);
#pragma unroll 4
            for (int k = group; k < end; k += GROUPS) {
                const Pack<A, QUAD> x = load<QUAD>(panel_a + k * PITCH_M + top);
                const Pack<A, QUAD> y = load<QUAD>(panel_b + k * PITCH_N + left);
                for (int r = 0; r < QUAD; r++)
                    for (int c = 0; c < QUAD; c++) sum[r].x[c] += x.x[r] * y.x[c];
                if (sum_columns)
                    for (int c = 0; c < QUAD; c++) of_b.x[c] += y.x[c];
            }
        }
    }
    launch_next_kernel();
    A* const parts = panels;  // (GROUPS, TILE_M, TILE_N), then (GROUPS, TILE_N) of column sums
    A* const column_parts = panels + GROUPS * TILE_M * TILE_N;
    __syncthreads();
    for (int r = 0; r < QUAD; r++) store(parts + (group * TILE_M + top + r) * TILE_N + left, sum[r]);
    if (sum_columns && top == 0) store(column_parts + group * TILE_N + left, of_b);
    __syncthreads();
    for (int quad = threadIdx.x; quad < TILE_M * TILE_N / QUAD; quad += THREADS) {
        Pack<A, QUAD> total = load<QUAD>(parts + quad * QUAD);
        for (int g = 1; g < GROUPS; g++) {
            const Pack<A, QUAD> part = load<QUAD>(parts + g * TILE_M * TILE_N + quad * QUAD);
            for (int c = 0; c < QUAD; c++) total.x[c] += part.x[c];
        }
        epilogue(first_row + quad / (TILE_N / QUAD), first_column + quad % (TILE_N / QUAD) * QUAD, total);
    }
    if (sum_columns && threadIdx.x < TILE_N) {
        A total = column_parts[threadIdx.x];
        for (int g = 1; g < GROUPS; g++) total += column_parts[g * TILE_N + threadIdx.x];
        column_sum(first_column + threadIdx.x, total);
    }
}
