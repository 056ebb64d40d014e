// BP3: sums = those of values over rows, for each of K networks: of delta, or of what chunks of its rows add up to.
// values (K, rows, n) of type S, sums (K, n). Moves values once.

extern "C" __global__ void
column_sum(const S* values, A* __restrict__ sums, int rows, int n, Index values_stride, Index sums_stride) {
    wait_for_last_kernel();
    launch_next_kernel();
    const Index k = blockIdx.z;
    add_rows(Tile<1>(blockIdx.x), values + k * values_stride, sums + k * sums_stride, rows, n);
}
