// BP3: sums = values summed over rows, for each of K networks. Values are delta, or the sums of chunks of its rows.
// values (K, rows, n) of type S, sums (K, n). Moves values once.

extern "C" __global__ void
column_sum(const S* values, A* __restrict__ sums, int rows, int n, Index values_stride, Index sums_stride) {
    wait_for_last_kernel();
    launch_next_kernel();
    const Index k = blockIdx.z;
    add_rows(Tile<1>(blockIdx.x), values + k * values_stride, sums + k * sums_stride, rows, n);
}
