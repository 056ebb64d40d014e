// out = source rounded to T, `size` elements: the 16-bit copy of theta that products read. Moves both once.

extern "C" __global__ void
cast(const A* source, T* __restrict__ out, Index size) {
    wait_for_last_kernel();
    launch_next_kernel();
    for (Index i = Index(blockIdx.x) * THREADS + threadIdx.x; i < size; i += Index(gridDim.x) * THREADS)
        out[i] = convert<T>(source[i]);
}
