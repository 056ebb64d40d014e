"""BP1 and BP3 for losses that are sums over the outputs: before this text stand output, value and delta, and
OF_LABELS, the metric.
"""


@inlined
def measure(z, y):
    """What the metric sums: whether the label is hit, or the squared error of the output."""
    if OF_LABELS:
        return T((z > T(0)) == (y > T(0.5)))
    error = output(z) - y
    return error * error


@inlined
def row_sums(z, y, s):
    """The sums of value and measure over a row."""
    total, metric = 0.0, 0.0
    for j in range(z.size):
        total = plus(total, value(z[j], y[j], s, j))
        metric = plus(metric, measure(z[j], y[j]))
    return total, metric


def loss_delta(arguments, k, step):
    """logits z become weight * normalizer * delta, with their sums over rows; the totals of the step."""
    g = integers(arguments, LENGTH)
    rows, n = g[ROWS], g[COLUMNS]
    s, at = T(doubles(g[SMOOTHING], k + 1)[k]), place(g, k, step)
    normalizer = doubles(g[NORMALIZER], at + 1)[at]
    grad_b = vector(part(g, GRAD_B, k), n)
    for j in range(n):
        grad_b[j] = T(0)
    total, metric = 0.0, 0.0
    for i in range(rows):
        z = vector(part(g, LOGITS, k) + i * n * ITEM, n)
        y = vector(part(g, Y, k) + i * n * ITEM, n)
        weight = row_weight(g, k, i)
        row_total, row_metric = row_sums(z, y, s)
        total += weight * row_total
        metric += weight * (row_metric / n)
        factor = T(weight * normalizer)
        for j in range(n):
            d = delta(z[j], y[j], s, j) * factor
            z[j] = d
            grad_b[j] += d
    note(g, at, total, metric)
