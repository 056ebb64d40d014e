// BP1 for softmax with cross-entropy: logits become delta = weight * normalizer * (softmax(z) - target), with
// target = (1 - smoothing) * y + smoothing / n; the sums of delta over the rows (BP3), and the totals of the step:
// those of weight * (loss, whether the class was hit).
// logits (K, rows, n) and y, the class of each row (CLASSES) or a distribution (rows, n); weight (rows) or null;
// normalizer (K, steps), smoothing (K), loss_scale (K) or null. What is summed is in common.cuh.
// GROUP threads share a row: a few of a warp for few classes, a block for many. Moves logits twice; rereads hit the cache.

#ifdef CLASSES
using Target = Index;
#else
using Target = A;
#endif

extern "C" __global__ void
softmax_cross_entropy(T* __restrict__ logits, const Target* __restrict__ y, const double* __restrict__ weight,
                      const double* normalizer, const double* smoothing,
                      const double* loss_scale, const Index* cursor, Index steps, int rows, int n,
                      int rows_per_block, Index logits_stride, Index y_stride, Index weight_stride LOSS_SUMS_PARAMETERS) {
    wait_for_last_kernel();
    launch_next_kernel();
    const int first = blockIdx.x * rows_per_block, last = min(first + rows_per_block, rows), lane = threadIdx.x % GROUP;
    const Index k = blockIdx.y, now = k * steps + cursor[0];
    logits += k * logits_stride, y += k * y_stride;
    const A s = smoothing[k];
    const double scale = normalizer[now] * (loss_scale ? loss_scale[k] : 1.0);
    Totals mine = {0, 0};
    for (int begin = first; begin < last; begin += THREADS / GROUP) {
        const int row = begin + threadIdx.x / GROUP;
        const bool there = row < last;  // a warp's threads stay together, as shuffles want them, also where rows end
        const int columns = there ? n : 0;
        T* z = logits + Index(row) * n;
        A largest = least(), truest = least();
        int predicted = n, truth = n;
        for (int j = lane; j < columns; j += GROUP) {
            const A zj = convert<A>(z[j]);
            if (zj > largest) largest = zj, predicted = j;
#ifndef CLASSES
            const A yj = y[Index(row) * n + j];
            if (yj > truest) truest = yj, truth = j;
#endif
        }
        const A top = over_group<GROUP>(largest, Max());
        predicted = over_group<GROUP>(largest == top ? predicted : n, Min());
#ifdef CLASSES
        truth = there ? y[row] : 0;
#else
        const A best = over_group<GROUP>(truest, Max());
        truth = over_group<GROUP>(truest == best ? truth : n, Min());
#endif
        auto target = [&](int j) {
#ifdef CLASSES
            const A yj = j == truth ? A(1) : A(0);
#else
            const A yj = y[Index(row) * n + j];
#endif
            return (A(1) - s) * yj + s / A(n);
        };

        A others = 0, aim = 0;  // but for the largest, whose exponential is 1
        for (int j = lane; j < columns; j += GROUP) {
            const A shifted = convert<A>(z[j]) - top, t = target(j);
            others += j == predicted ? A(0) : exp(shifted);
            aim += t == A(0) ? A(0) : t * shifted;
        }
        others = over_group<GROUP>(others, Add());
        aim = over_group<GROUP>(aim, Add());
        const A total = others + A(1);

        const double w = there && weight ? weight[k * weight_stride + row] : 1.0;
        const A factor = w * scale;
        for (int j = lane; j < columns; j += GROUP)
            z[j] = convert<T>((exp(convert<A>(z[j]) - top) / total - target(j)) * factor);
        if (there && lane == 0) {
            mine.value += w * (log1p(others) - aim);
            mine.metric += predicted == truth ? w : 0.0;
        }
    }
    sum_loss(LOSS_SUMS, logits, mine, first, last, n, k, now);
}
