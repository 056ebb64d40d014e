// a = softmax(z) by rows, in place, for inference. z (K, rows, n). A warp shares a row. Moves z twice.

extern "C" __global__ void
softmax(T* logits, int rows, int n, Index logits_stride) {
    wait_for_last_kernel();
    launch_next_kernel();
    const int row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    T* z = logits + blockIdx.y * logits_stride + Index(row) * n;
    A top = least(), total = 0;
    for (int j = lane; j < n; j += 32) top = Max()(top, convert<A>(z[j]));
    top = over_group<32>(top, Max());
    for (int j = lane; j < n; j += 32) total += exp(convert<A>(z[j]) - top);
    total = over_group<32>(total, Add());
    for (int j = lane; j < n; j += 32) z[j] = convert<T>(exp(convert<A>(z[j]) - top) / total);
}
