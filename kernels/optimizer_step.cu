// One update: theta -= Rule(factor * grad, slots), for weights also decay * theta, with the scalars of step_begin.
// With L2, the gradient of weights gains penalty * theta; with OPERANDS, the 16-bit copy of theta is written too;
// with TRACKED, largest[k] becomes the largest |update| so far. Nothing is written if the step does not count.
// theta, grad, slots, operands (K, P); P is a multiple of 128 elements and every buffer 16-byte aligned.
// Moves grad once, theta and each slot twice: 28 bytes per parameter for Adam in float32.

extern "C" __global__ void
optimizer_step(A* __restrict__ theta, const A* grad, T* __restrict__ operands,
               const Step<Rule>* steps, double* largest, Index n_weights, Index P SLOT_PARAMETERS) {
    wait_for_last_kernel();
    launch_next_kernel();
    constexpr int N = 16 / sizeof(A);
    const Index k = blockIdx.y, stride = Index(gridDim.x) * THREADS * N;
    const Step<Rule> step = steps[k];
    if (!step.counts) return;
    A* const slots[] = {SLOT_POINTERS nullptr};
    A most = 0;
    for (Index p = (Index(blockIdx.x) * THREADS + threadIdx.x) * N; p < P; p += stride) {
        const Index place = k * P + p;
        const bool weights = p < n_weights;
        Pack<A, N> w = load<N>(theta + place), state[Rule::slots + 1];
        const Pack<A, N> g = load<N>(grad + place);
        for (int j = 0; j < Rule::slots; j++) state[j] = load<N>(slots[j] + place);
        for (int i = 0; i < N; i++) {
            A gradient = g.x[i];
#ifdef L2
            if (weights) gradient += step.penalty * w.x[i];
#endif
            A slot[Rule::slots + 1];
            for (int j = 0; j < Rule::slots; j++) slot[j] = state[j].x[i];
            A update = step.rule.update(gradient * step.factor, slot);
            for (int j = 0; j < Rule::slots; j++) state[j].x[i] = slot[j];
            if (weights) update += step.decay * w.x[i];
            w.x[i] -= update;
            most = Max()(most, fabs(update));
        }
        store(theta + place, w);
        for (int j = 0; j < Rule::slots; j++) store(slots[j] + place, state[j]);
#ifdef OPERANDS
        store(operands + place, convert<T>(w));
#endif
    }
#ifdef TRACKED
    most = over_group<THREADS>(most, Max());
    // Doubles that are not negative are ordered like their bits.
    if (threadIdx.x == 0) atomicMax(reinterpret_cast<unsigned long long*>(largest + k), __double_as_longlong(most));
#endif
}
