// BP1 of a row: its logits z (n) become delta = w * scale * dC/dz, and its share of the step's totals is added. LANES
// neighbouring threads share a row; threads without a row (not `there`) still take part in the shuffles. s is the label
// smoothing, w the row's weight, y the row's class (CLASSES), its distribution over classes, or its n values.
//
// With SOFTMAX_CROSS_ENTROPY, delta is that of softmax and cross-entropy, softmax(z) - target, where
// target = (1 - s) * y + s / n. Otherwise it is that of Loss, a sum over the outputs: a function of the logits (LINK 0),
// or of the outputs a^L, linked to the logits by Out' (LINK 1) or by the Jacobian of softmax (LINK 2),
// delta = a * (grad_a - sum(a * grad_a)).
// The metric is whether the class was predicted, or the mean over the outputs of correct LABELS or of squared errors.

#if defined(SOFTMAX_CROSS_ENTROPY) && defined(CLASSES)
using Target = Index;
constexpr bool ONE_TARGET = true;  // for a row
#else
using Target = A;
constexpr bool ONE_TARGET = false;
#endif

// visit(j) for each of the thread's columns, unrolled if they are few.
template <int LANES, class Visit>
__device__ __forceinline__ void each_column(int n, bool there, Visit visit) {
    const int first = there ? threadIdx.x % LANES : n;
    if (n <= 2 * LANES) {
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (first + i * LANES < n) visit(first + i * LANES);
    } else {
#pragma unroll 1
        for (int j = first; j < n; j += LANES) visit(j);
    }
}

#ifdef SOFTMAX_CROSS_ENTROPY

template <int LANES, class Logit, class Given>
__device__ __forceinline__ void loss_of_row(Logit* z, const Given* y, int n, bool there, A s, double w, double scale,
                                            Totals& totals) {
    auto each = [&](auto visit) { each_column<LANES>(n, there, visit); };
    A largest = least();
    int predicted = n;
    each([&](int j) {
        const A zj = convert<A>(z[j]);
        const bool larger = zj > largest;
        predicted = larger ? j : predicted, largest = larger ? zj : largest;
    });
    const A top = over_group<LANES>(largest, Max());
    predicted = over_group<LANES>(largest == top ? predicted : n, Min());
#ifdef CLASSES
    const int truth = there ? y[0] : 0;
#else
    A truest = least();
    int truth = n;
    each([&](int j) {
        if (y[j] > truest) truest = y[j], truth = j;
    });
    const A best = over_group<LANES>(truest, Max());
    truth = over_group<LANES>(truest == best ? truth : n, Min());
#endif
    auto target = [&](int j) {
#ifdef CLASSES
        const A yj = j == truth ? A(1) : A(0);
#else
        const A yj = y[j];
#endif
        return (A(1) - s) * yj + s / A(n);
    };

    A others = 0, aim = 0;  // except the largest, whose exponential is 1
    each([&](int j) {
        const A shifted = convert<A>(z[j]) - top, t = target(j);
        others += j == predicted ? A(0) : exp(shifted);
        aim += t == A(0) ? A(0) : t * shifted;
    });
    others = over_group<LANES>(others, Add());
    aim = over_group<LANES>(aim, Add());
    const A total = others + A(1), factor = w * scale;
    each([&](int j) { z[j] = convert<Logit>((exp(convert<A>(z[j]) - top) / total - target(j)) * factor); });
    if (there && threadIdx.x % LANES == 0) {
        totals.value += w * (log1p(others) - aim);
        totals.metric += predicted == truth ? w : 0.0;
    }
}

#else

template <int LANES, class Logit, class Given>
__device__ __forceinline__ void loss_of_row(Logit* z, const Given* y, int n, bool there, A s, double w, double scale,
                                            Totals& totals) {
    auto each = [&](auto visit) { each_column<LANES>(n, there, visit); };
    const A factor = w * scale;
#if LINK == 2
    A top = least(), total = 0, mean = 0;
    each([&](int j) { top = Max()(top, convert<A>(z[j])); });
    top = over_group<LANES>(top, Max());
    each([&](int j) { total += exp(convert<A>(z[j]) - top); });
    total = over_group<LANES>(total, Add());
    auto output = [&](A zj) { return exp(zj - top) / total; };
    each([&](int j) {
        const A a = output(convert<A>(z[j]));
        mean += a * Loss::delta(a, y[j], s, j);
    });
    mean = over_group<LANES>(mean, Add());
#else
    [[maybe_unused]] auto output = [](A zj) { return Out::f(zj); };
#endif
    double value = 0, metric = 0;
    each([&](int j) {
        const A zj = convert<A>(z[j]), yj = y[j];
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
        z[j] = convert<Logit>(delta * factor);
    });
    value = over_group<LANES>(value, Add());
    metric = over_group<LANES>(metric, Add());
    if (there && threadIdx.x % LANES == 0) totals.value += w * value, totals.metric += w * (metric / n);
}

#endif
