// out[k, i] = source[k, order[k, step * batch_size + i]], cast from S to D: the rows of a step from the resident data.
// source (K or 1, m, columns), order (K or 1, m), out (K or 1, rows, columns). Moves every row twice, and its index.

extern "C" __global__ void
gather(const S* source, const Index* order, D* out, const Index* cursor, int rows, int columns, int batch_size,
       Index source_stride, Index order_stride, Index out_stride) {
    source += blockIdx.y * source_stride;
    order += blockIdx.y * order_stride + cursor[0] * batch_size;
    out += blockIdx.y * out_stride;
    // As many elements at a time as the wider of the two types fits into 16 bytes.
    constexpr int N = 16 / (sizeof(S) > sizeof(D) ? sizeof(S) : sizeof(D));
    const bool packed = columns % N == 0 && aligned(source) && aligned(out);
    const int width = packed ? N : 1, units = columns / width;
    for (Index unit = Index(blockIdx.x) * THREADS + threadIdx.x; unit < Index(rows) * units;
         unit += Index(gridDim.x) * THREADS) {
        const int row = unit / units, column = unit % units * width;
        const S* from = source + order[row] * columns + column;
        D* to = out + Index(row) * columns + column;
        if (packed) {
            const Pack<S, N> taken = load<N>(from);
            Pack<D, N> put;
            for (int i = 0; i < N; i++) put.x[i] = convert<D>(taken.x[i]);
            store(to, put);
        } else {
            *to = convert<D>(*from);
        }
    }
}
