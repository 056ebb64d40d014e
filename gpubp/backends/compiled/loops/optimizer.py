"""An update. Before this text stand, made from the rule: scalars_of (the scalars of a step) and apply (the rule
over a range of parameters; returns the largest |update| as bits, which are ordered as the numbers are).
"""

# Arguments; after them stand the options and the slots. An address is 0 where there is nothing.
SIZE, WEIGHTS, STRIDE, THETA, GRAD, CURSOR, FIRST_STEP, RATES, TOTALS, STEPS, UPDATES, FAULT_STEP, ACTIVE = range(13)
LARGEST, L2, DECAY, MAX_NORM, NORMALIZER, PENALTY = range(13, 19)
PART = 4096  # elements whose squares are summed in T before they go to the sum in float64


@inlined
def sum_of_squares(x):
    total = T(0)
    for i in range(x.size):
        total = plus(total, x[i] * x[i])
    return total


@inlined
def squared_norm(address, size):
    """In float64 from the beginning where T overflows."""
    total = 0.0
    for start in range(0, size, PART):
        total += sum_of_squares(vector(address + start * ITEM, min(PART, size - start)))
    if not np.isfinite(total):
        total = 0.0
        x = vector(address, size)
        for i in range(size):
            total += np.float64(x[i]) * np.float64(x[i])
    return total


@inlined
def add_penalty(grad, theta, l2):
    for i in range(theta.size):
        grad[i] += l2 * theta[i]


def optimizer_step(arguments, k, step):
    g = integers(arguments, LENGTH)
    size, n_weights = g[SIZE], g[WEIGHTS]
    theta, grad = g[THETA] + k * g[STRIDE], g[GRAD] + k * g[STRIDE]
    now = integers(g[CURSOR], 1)[0] + step
    at = k * g[STEPS] + now
    rate, loss = doubles(g[RATES], at + 1)[at], doubles(g[TOTALS], 2 * at + 1)[2 * at]
    updates, fault_step = integers(g[UPDATES], k + 1), integers(g[FAULT_STEP], k + 1)
    active = carray(pointer(g[ACTIVE]), k + 1, np.bool_)
    l2 = doubles(g[L2], k + 1)[k] if g[L2] else 0.0
    if g[L2]:
        portion = doubles(g[NORMALIZER], at + 1)[at] if g[NORMALIZER] else 1.0
        add_penalty(vector(grad, n_weights), vector(theta, n_weights), T(l2 * portion))
    square = squared_norm(grad, size)
    if not active[k]:
        return
    if not (np.isfinite(square) and np.isfinite(loss)):
        active[k], fault_step[k] = False, integers(g[FIRST_STEP], k + 1)[k] + now
        return
    updates[k] += 1
    if g[L2] and g[PENALTY]:
        doubles(g[PENALTY], at + 1)[at] = 0.5 * l2 * squared_norm(theta, n_weights)
    factor, decay = T(1), T(0)
    if g[DECAY]:
        decay = T(rate * doubles(g[DECAY], k + 1)[k])
    if g[MAX_NORM]:
        factor = T(min(1.0, doubles(g[MAX_NORM], k + 1)[k] / max(math.sqrt(square), 2.2250738585072014e-308)))
    scalars = scalars_of(g, k, rate, np.float64(updates[k]))
    largest = Bits(0)
    for start, stop, share in ((0, n_weights, decay), (n_weights, size, T(0))):
        largest = max(largest, apply(g, k * g[STRIDE] + start * ITEM, stop - start, factor, share, scalars))
    if g[LARGEST]:
        tracked, update = doubles(g[LARGEST], k + 1), np.float64(from_bits(largest))
        if update > tracked[k] or update != update:
            tracked[k] = update
