// BP1: logits (K, rows, n) become delta. Also sums delta over rows (BP3), and weight * (value, metric) over rows into
// the totals of the step.
// y (rows) classes, (rows, n) distributions or values; weight (rows) or null; normalizer (K, steps), smoothing (K),
// loss_scale (K) or null. The formulas of a row are in row_loss.cuh, the sums in common.cuh. GROUP threads share a row:
// a few of a warp for few outputs, a whole block for many. Moves logits twice, y once; rereads hit the cache.

extern "C" __global__ void
loss_delta(T* __restrict__ logits, const Target* y, const double* weight, const double* normalizer,
           const double* smoothing, const double* loss_scale, const Index* cursor, Index steps, int rows, int n,
           int rows_per_block, Index logits_stride, Index y_stride, Index weight_stride LOSS_SUMS_PARAMETERS) {
    wait_for_last_kernel();
    launch_next_kernel();
    const int first = blockIdx.x * rows_per_block, last = min(first + rows_per_block, rows);
    const Index k = blockIdx.y, now = k * steps + cursor[0];
    logits += k * logits_stride, y += k * y_stride;
    const double scale = normalizer[now] * (loss_scale ? loss_scale[k] : 1.0);
    Totals mine = {0, 0};
    for (int begin = first; begin < last; begin += THREADS / GROUP) {
        const int row = begin + threadIdx.x / GROUP;
        const bool there = row < last;  // a warp's threads stay together, as shuffles want them, also where rows end
        const double w = there && weight ? weight[k * weight_stride + row] : 1.0;
        loss_of_row<GROUP>(logits + Index(row) * n, y + Index(row) * (ONE_TARGET ? 1 : n), n, there, smoothing[k], w, scale,
                           mine);
    }
    sum_loss(LOSS_SUMS, logits, mine, first, last, n, k, now);
}
