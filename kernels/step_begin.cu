// What an update must know before it writes anything: the squared norm of each network's gradient, whether the
// step counts, and the scalars of the rule. grad, theta (K, P); partial (K, blocks); arrived (K), zero between
// launches; all others (K), except cursor and the tables, (K, steps); null if an option is not used. Fills steps.
// The last block of a network to arrive decides for it. Moves grad once and, with L2, theta's weights once.
// With PENALTY, also computes the squared norm of the weights, and records l2 / 2 times it in penalty[k, cursor].
//
// A network whose loss or norm is not finite becomes inactive. But if the loss is finite and the gradient scaled
// (float16), the scale is to blame: the step is skipped and the scale halved; after clean_limit clean steps it doubles.

struct Squares {
    double grad, weights;
};

template <int N>
__device__ __forceinline__ Squares squares(const A* grad, const A* theta, A l2, Index n_weights, Index P) {
    Squares sum = {0, 0};
    const Index stride = Index(gridDim.x) * THREADS * N;
#pragma unroll 4
    for (Index p = (Index(blockIdx.x) * THREADS + threadIdx.x) * N; p < P; p += stride) {
        const Pack<A, N> g = load<N>(grad + p);
#ifdef L2
        const Pack<A, N> w = load<N>(theta + p);
        for (int i = 0; i < N; i++) {
            const double x = p < n_weights ? g.x[i] + l2 * w.x[i] : g.x[i];
            sum.grad += x * x;
#ifdef PENALTY
            if (p < n_weights) sum.weights += double(w.x[i]) * double(w.x[i]);
#endif
        }
#else
        for (int i = 0; i < N; i++) sum.grad += double(g.x[i]) * double(g.x[i]);
#endif
    }
    return sum;
}

// The sum over a block's threads.
__device__ __forceinline__ Squares over_block(Squares sum) {
    sum.grad = over_group<THREADS>(sum.grad, Add());
#ifdef PENALTY
    sum.weights = over_group<THREADS>(sum.weights, Add());
#endif
    return sum;
}

extern "C" __global__ void
step_begin(const A* grad, const A* theta, Squares* partial, unsigned* arrived, Index* cursor,
           const Index* first_step, const double* totals, const double* learning_rates, bool* active, Index* fault_step,
           Index* updates, Step<Rule>* steps, const double* l2, const double* normalizers, double* penalty,
           const double* weight_decay, const double* max_grad_norm, double* loss_scale, Index* clean_steps,
           Index* overflows, Index clean_limit, Index steps_per_epoch, Index n_weights, Index P OPTION_PARAMETERS) {
    // While the previous kernel ends: all of this is from the last step. Any block may be the one that decides.
    const bool first = threadIdx.x == 0;
    const Index k = blockIdx.y, here = fresh(cursor), now = k * steps_per_epoch + here;
    const double rate = learning_rates[now];
    const Index update = fresh(updates + k) + 1;
    Rule rule;
    if (first) rule = Rule::of(rate, update OPTION_VALUES);
    wait_for_last_kernel();
    launch_next_kernel();

    const double scale = loss_scale ? loss_scale[k] : 1.0;
    const double shrink = l2 ? l2[k] * (normalizers ? normalizers[now] : 1.0) * scale : 0.0;
    grad += k * P, theta += k * P, partial += k * gridDim.x;
    const bool was_active = first && active[k];  // loaded while gradients are
    const double value = first ? totals[now * 2] : 0.0;
    Squares sum = over_block(squares<16 / sizeof(A)>(grad, theta, shrink, n_weights, P));
    if (gridDim.x > 1) {
        if (first) partial[blockIdx.x] = sum;
        if (!is_last(arrived + k, gridDim.x)) return;
        sum = {0, 0};
        for (unsigned block = threadIdx.x; block < gridDim.x; block += THREADS) {
            sum.grad += partial[block].grad, sum.weights += partial[block].weights;
        }
        sum = over_block(sum);
    }
    if (!first) return;

    const double square = sum.grad / (scale * scale);
    const bool sound = isfinite(square) && isfinite(value);
    Step<Rule>& step = steps[k];
    step.counts = was_active && sound;
    if (was_active && !sound) {
        if (isfinite(value) && scale > 1.0)
            loss_scale[k] = scale * 0.5, clean_steps[k] = 0, overflows[k] += 1;
        else
            active[k] = false, fault_step[k] = first_step[k] + here;
    }
    if (step.counts) {
        updates[k] = update;
        step.rule = rule;
        step.factor = (max_grad_norm && square > 0 ? fmin(1.0, max_grad_norm[k] / sqrt(square)) : 1.0) / scale;
        step.penalty = shrink;
        if (penalty) penalty[now] = 0.5 * l2[k] * sum.weights;
        step.decay = weight_decay ? rate * weight_decay[k] : 0.0;
        if (loss_scale && ++clean_steps[k] == clean_limit) loss_scale[k] = scale * 2.0, clean_steps[k] = 0;
    }
    // The last network to decide advances the cursor, which every block has read by then.
    unsigned* const decided = arrived + gridDim.y;
    if (gridDim.y > 1) {
        __threadfence();
        if (atomicAdd(decided, 1u) != gridDim.y - 1) return;
        *decided = 0;
    }
    cursor[0] = here + 1;
}
