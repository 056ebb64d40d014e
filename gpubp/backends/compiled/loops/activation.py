"""Loops over an activation: before this text stand f, derivative and FROM_A (whether the latter takes a)."""

# Arguments, forward and backward.
ROWS, COLUMNS, Z, Z_STRIDE, B, B_STRIDE, A, A_STRIDE, MASK, MASK_STRIDE, RATES, SEEDS, CURSOR = range(13)
FIRST_STEP, LAYER, LENGTH = range(13, 16)
GRAD, GRAD_STRIDE, KEPT, KEPT_STRIDE, GRAD_B, GRAD_B_STRIDE = range(2, 8)


def output(arguments, k, step):
    """z = f(z)."""
    g = integers(arguments, LENGTH)
    z = vector(part(g, Z, k), g[ROWS] * g[COLUMNS])
    for i in range(z.size):
        z[i] = f(z[i])


def bias_activation(arguments, k, step):
    """z = f(z + b), where a is z."""
    g = integers(arguments, LENGTH)
    rows, n = g[ROWS], g[COLUMNS]
    z, b = matrix(part(g, Z, k), rows, n), vector(part(g, B, k), n)
    for i in range(rows):
        for j in range(n):
            z[i, j] = f(z[i, j] + b[j])


def bias_activation_apart(arguments, k, step):
    """z += b and a = f(z)."""
    g = integers(arguments, LENGTH)
    rows, n = g[ROWS], g[COLUMNS]
    z, b = matrix(part(g, Z, k), rows, n), vector(part(g, B, k), n)
    a = matrix(part(g, A, k), rows, n)
    for i in range(rows):
        for j in range(n):
            before = z[i, j] + b[j]
            z[i, j] = before
            a[i, j] = f(before)


def bias_dropout(arguments, k, step):
    """z = mask * f(z + b) / (1 - rate), where a is z."""
    g = integers(arguments, LENGTH)
    rows, n = g[ROWS], g[COLUMNS]
    z, b = matrix(part(g, Z, k), rows, n), vector(part(g, B, k), n)
    mask, scale = flags(part(g, MASK, k), rows, n), survivor_scale(g[RATES], k)
    draw_mask(mask, g[RATES], g[SEEDS], g[CURSOR], g[FIRST_STEP], g[LAYER], k, step)
    for i in range(rows):
        for j in range(n):
            z[i, j] = f(z[i, j] + b[j]) * (T(mask[i, j]) * scale)


def bias_dropout_apart(arguments, k, step):
    """z += b and a = mask * f(z) / (1 - rate)."""
    g = integers(arguments, LENGTH)
    rows, n = g[ROWS], g[COLUMNS]
    z, b = matrix(part(g, Z, k), rows, n), vector(part(g, B, k), n)
    a = matrix(part(g, A, k), rows, n)
    mask, scale = flags(part(g, MASK, k), rows, n), survivor_scale(g[RATES], k)
    draw_mask(mask, g[RATES], g[SEEDS], g[CURSOR], g[FIRST_STEP], g[LAYER], k, step)
    for i in range(rows):
        for j in range(n):
            before = z[i, j] + b[j]
            z[i, j] = before
            a[i, j] = f(before) * (T(mask[i, j]) * scale)


def hadamard_derivative(arguments, k, step):
    """BP2 and BP3: grad *= derivative(z_or_a), and its sums over rows."""
    g = integers(arguments, LENGTH)
    rows, n = g[ROWS], g[COLUMNS]
    grad, z_or_a = matrix(part(g, GRAD, k), rows, n), matrix(part(g, KEPT, k), rows, n)
    grad_b = vector(part(g, GRAD_B, k), n)
    for j in range(n):
        grad_b[j] = T(0)
    for i in range(rows):
        for j in range(n):
            delta = grad[i, j] * derivative(z_or_a[i, j])
            grad[i, j] = delta
            grad_b[j] += delta


def hadamard_dropout(arguments, k, step):
    """`hadamard_derivative` through the mask; where z_or_a is a, it is mask * f(z) / (1 - rate)."""
    g = integers(arguments, LENGTH)
    rows, n = g[ROWS], g[COLUMNS]
    grad, z_or_a = matrix(part(g, GRAD, k), rows, n), matrix(part(g, KEPT, k), rows, n)
    grad_b = vector(part(g, GRAD_B, k), n)
    mask, scale = flags(part(g, MASK, k), rows, n), survivor_scale(g[RATES], k)
    for j in range(n):
        grad_b[j] = T(0)
    for i in range(rows):
        for j in range(n):
            x = z_or_a[i, j] / scale if FROM_A else z_or_a[i, j]
            delta = grad[i, j] * (T(mask[i, j]) * scale) * derivative(x)
            grad[i, j] = delta
            grad_b[j] += delta
