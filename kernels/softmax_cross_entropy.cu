// BP1 for softmax with cross-entropy: logits become delta = weight * normalizer * (softmax(z) - target), with
// target = (1 - smoothing) * y + smoothing / n; row_values become weight * (loss, whether the class was hit).
// logits (K, rows, n) and y, the class of each row (CLASSES) or a distribution (rows, n); weight (rows) or null;
// normalizer (K, steps), smoothing (K), loss_scale (K) or null, row_values (K, rows, 2).
// GROUP threads share a row: a warp for few classes, a block for many. Moves logits twice; rereads hit the cache.

#ifdef CLASSES
using Target = Index;
#else
using Target = A;
#endif

extern "C" __global__ void
softmax_cross_entropy(T* logits, const Target* y, const double* weight, const double* normalizer,
                      const double* smoothing, const double* loss_scale, double* row_values, const Index* cursor,
                      Index steps, int rows, int n, Index logits_stride, Index y_stride, Index weight_stride) {
    const int row = blockIdx.x * (THREADS / GROUP) + threadIdx.x / GROUP, lane = threadIdx.x % GROUP;
    const Index k = blockIdx.y;
    if (row >= rows) return;  // a whole warp; where a block shares a row there is none to spare
    T* z = logits + k * logits_stride + Index(row) * n;
    y += k * y_stride;
    const A s = smoothing[k];

    A largest = least(), truest = least();
    int predicted = n, truth = n;
    for (int j = lane; j < n; j += GROUP) {
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
    truth = y[row];
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

    A total = 0, aim = 0;
    for (int j = lane; j < n; j += GROUP) {
        const A shifted = convert<A>(z[j]) - top, t = target(j);
        total += exp(shifted);
        aim += t == A(0) ? A(0) : t * shifted;
    }
    total = over_group<GROUP>(total, Add());
    aim = over_group<GROUP>(aim, Add());

    const double w = weight ? weight[k * weight_stride + row] : 1.0;
    const A factor = w * normalizer[k * steps + cursor[0]] * (loss_scale ? loss_scale[k] : 1.0);
    for (int j = lane; j < n; j += GROUP)
        z[j] = convert<T>((exp(convert<A>(z[j]) - top) / total - target(j)) * factor);
    if (lane == 0) {
        double* values = row_values + (k * rows + row) * 2;
        values[0] = w * (log(total) - aim);
        values[1] = predicted == truth ? w : 0.0;
    }
}
