// BP1 for losses that are sums over the outputs: logits become delta = weight * normalizer * dC/dz; the sums of delta
// over the rows (BP3), and the totals of the step: those of weight * (C, metric), with the metric averaged over the
// outputs: LABELS hit, or the squared error of the outputs.
// logits (K, rows, n), y (rows, n), weight (rows) or null, normalizer (K, steps), smoothing (K), loss_scale (K) or
// null. What is summed is in common.cuh. A loss on the outputs a^L is linked to the logits by Out' (LINK 1), or by the
// Jacobian of softmax (LINK 2): delta = a * (grad_a - sum(a * grad_a)). GROUP threads share a row. Moves logits twice, y once.

extern "C" __global__ void
elementwise_loss(T* __restrict__ logits, const A* __restrict__ y, const double* __restrict__ weight,
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
        const A* target = y + Index(row) * n;
        const double w = there && weight ? weight[k * weight_stride + row] : 1.0;
        const A factor = w * scale;

#if LINK == 2
        A top = least(), total = 0, mean = 0;
        for (int j = lane; j < columns; j += GROUP) top = Max()(top, convert<A>(z[j]));
        top = over_group<GROUP>(top, Max());
        for (int j = lane; j < columns; j += GROUP) total += exp(convert<A>(z[j]) - top);
        total = over_group<GROUP>(total, Add());
        auto output = [&](A zj) { return exp(zj - top) / total; };
        for (int j = lane; j < columns; j += GROUP) {
            const A a = output(convert<A>(z[j]));
            mean += a * Loss::delta(a, target[j], s, j);
        }
        mean = over_group<GROUP>(mean, Add());
#else
        [[maybe_unused]] auto output = [](A zj) { return Out::f(zj); };
#endif

        double value = 0, metric = 0;
        for (int j = lane; j < columns; j += GROUP) {
            const A zj = convert<A>(z[j]), yj = target[j];
#if LINK == 0
            value += Loss::value(zj, yj, s, j);
            const A delta = Loss::delta(zj, yj, s, j);
#else
            const A a = output(zj), grad_a = Loss::delta(a, yj, s, j);
            value += Loss::value(a, yj, s, j);
#if LINK == 1
            const A delta = grad_a * Out::derivative(Out::from_a ? a : zj);
#else
            const A delta = a * (grad_a - mean);
#endif
#endif
#ifdef LABELS
            metric += (zj > A(0)) == (yj > A(0.5));
#else
            const A error = output(zj) - yj;
            metric += error * error;
#endif
            z[j] = convert<T>(delta * factor);
        }
        value = over_group<GROUP>(value, Add());
        metric = over_group<GROUP>(metric, Add());
        if (there && lane == 0) mine.value += w * value, mine.metric += w * (metric / n);
    }
    sum_loss(LOSS_SUMS, logits, mine, first, last, n, k, now);
}
