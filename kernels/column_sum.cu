// BP3, second stage: grad_b = the sums of the chunks, in their order, for each of K networks.
// partial (K, chunks, n), grad_b (K, n). Moves partial once.

extern "C" __global__ void
column_sum(const A* partial, A* grad_b, int chunks, int n, Index partial_stride, Index grad_b_stride) {
    const int column = blockIdx.x * THREADS + threadIdx.x;
    if (column >= n) return;
    partial += blockIdx.z * partial_stride + column;
    A sum = 0;
    for (int chunk = 0; chunk < chunks; chunk++) sum += partial[Index(chunk) * n];
    grad_b[blockIdx.z * grad_b_stride + column] = sum;
}
