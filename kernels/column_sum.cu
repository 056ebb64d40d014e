// BP3, second stage: grad_b = the sums of the chunks, in their order, for each of K networks.
// partial (K, chunks, n), grad_b (K, n). Moves partial once.

extern "C" __global__ void
column_sum(const A* __restrict__ partial, A* __restrict__ grad_b, int chunks, int n, Index partial_stride,
           Index grad_b_stride) {
    const Index k = blockIdx.z;
    add_chunks(Tile<1>(blockIdx.x), partial + k * partial_stride, grad_b + k * grad_b_stride, chunks, n);
}
