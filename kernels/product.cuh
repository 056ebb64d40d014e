// A block computes a tile of out = a b, TILE_M rows by TILE_N columns: for products that are too small for a library.
//
// Panels of both operands are in shared memory; the next AHEAD ones are being loaded into registers while one is
// multiplied. GROUPS of threads share the k of a panel, and their sums are added in order.

constexpr int OF_SUMS = GROUPS * TILE_N * (TILE_M + 1);
constexpr int PANELS = OF_PANELS > OF_SUMS ? OF_PANELS : OF_SUMS;  // elements of A; sums replace panels

// Calls epilogue(row, column, sums) for every QUAD of the tile from (first_row, first_column) on, including those
// outside the matrix, and with sum_columns column_sum(column, sum) for the sums of b over k. `panels` has room for
// PANELS elements.
template <bool A_ALONG_K, bool B_ALONG_K, class Epilogue, class ColumnSum>
__device__ __forceinline__ void product(A* panels, const Operand<A_ALONG_K>& a, const Operand<B_ALONG_K>& b, int depth,
                                        int first_row, int first_column, Epilogue epilogue, bool sum_columns,
                                        ColumnSum column_sum) {
    using PlacesA = PanelPlaces<A_ALONG_K, TILE_M>;
    using PlacesB = PanelPlaces<B_ALONG_K, TILE_N>;
    auto* const panel_a = reinterpret_cast<typename PlacesA::Element*>(panels);
    auto* const panel_b = panel_a + PlacesA::SIZE;
    Sums<PlacesA, PlacesB> sums;
    Panel<PlacesA> next_a[AHEAD];
    Panel<PlacesB> next_b[AHEAD];
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
            const int here = first_k + slot * DEPTH;
            if (here >= depth) break;
            __syncthreads();  // the last panels have been read
            next_a[slot].put(panel_a);
            next_b[slot].put(panel_b);
            __syncthreads();
            fetch(slot, here + AHEAD * DEPTH);
            sums.add(panel_a, panel_b, min(DEPTH, depth - here), sum_columns);
        }
    }
    launch_next_kernel();
    A* const parts = panels;  // (GROUPS, TILE_M, TILE_N), then (GROUPS, TILE_N) of column sums
    A* const column_parts = panels + GROUPS * TILE_M * TILE_N;
    __syncthreads();
    sums.put(parts, column_parts, sum_columns);
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
