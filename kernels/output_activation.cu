// a = Out(z) in place, for inference. z (K, rows, n); each network's matrix is `size` contiguous elements.
// Moves z twice.

extern "C" __global__ void
output_activation(T* z, Index size, Index z_stride) {
    wait_for_last_kernel();
    launch_next_kernel();
    z += blockIdx.y * z_stride;
    for (Index i = Index(blockIdx.x) * THREADS + threadIdx.x; i < size; i += Index(gridDim.x) * THREADS)
        z[i] = convert<T>(Out::f(convert<A>(z[i])));
}
