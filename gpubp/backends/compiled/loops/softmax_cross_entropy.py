"""BP1 and BP3 for cross-entropy with softmax: the row-wise loss, which has loops of its own."""

GROUP = 4096  # elements of as many rows as are worked on at a time, so that short rows fill vectors too


@inlined
def argmax(row):
    """As in NumPy, the first NaN is the largest."""
    best = 0
    for j in range(1, row.size):
        if row[j] > row[best] or (row[j] != row[j] and row[best] == row[best]):
            best = j
    return best


@inlined
def shift(row):
    """Subtract the largest element, and say where it is."""
    best = argmax(row)
    top = row[best]
    for j in range(row.size):
        row[j] -= top
    return best


@inlined
def exponentials(z):
    for i in range(z.size):
        z[i] = exp(z[i])


@inlined
def row_sum(row):
    total = T(0)
    for j in range(row.size):
        total = plus(total, row[j])
    return total


def softmax(arguments, k, step):
    """z = exp(z) / sum(exp(z)) by rows."""
    g = integers(arguments, LENGTH)
    n = g[COLUMNS]
    for i in range(g[ROWS]):
        row = vector(part(g, LOGITS, k) + i * n * ITEM, n)
        shift(row)
        exponentials(row)
        total = row_sum(row)
        for j in range(n):
            row[j] /= total


def classes(arguments, k, step):
    """logits z become weight * normalizer * (softmax(z) - target), the target an index y with smoothing s."""
    g = integers(arguments, LENGTH)
    rows, n, z = g[ROWS], g[COLUMNS], part(g, LOGITS, k)
    y = integers(part(g, Y, k), rows)
    s, at = T(doubles(g[SMOOTHING], k + 1)[k]), place(g, k, step)
    normalizer = doubles(g[NORMALIZER], at + 1)[at]
    grad_b = vector(part(g, GRAD_B, k), n)
    for j in range(n):
        grad_b[j] = T(0)
    value, hits = 0.0, 0.0
    height = max(1, GROUP // n)
    for start in range(0, rows, height):
        stop = min(rows, start + height)
        for i in range(start, stop):
            row, weight = vector(z + i * n * ITEM, n), row_weight(g, k, i)
            hits += weight * (shift(row) == y[i])
            aim = row[y[i]]
            if s != T(0):
                aim = (T(1) - s) * aim + s * (row_sum(row) / T(n))
            value -= weight * aim
        exponentials(vector(z + start * n * ITEM, (stop - start) * n))
        for i in range(start, stop):
            row, weight = vector(z + i * n * ITEM, n), row_weight(g, k, i)
            one = row[y[i]]
            row[y[i]] = T(0)
            others = row_sum(row)
            row[y[i]] = one
            total = others + one
            value += weight * log1p(others + (one - T(1)))
            factor = T(weight * normalizer)
            for j in range(n):
                row[j] = row[j] / total - s / T(n)
            row[y[i]] -= T(1) - s
            for j in range(n):
                d = row[j] * factor
                row[j] = d
                grad_b[j] += d
    note(g, at, value, hits)


def distributions(arguments, k, step):
    """Value and delta of each row where the target is a row of y."""
    g = integers(arguments, LENGTH)
    rows, n = g[ROWS], g[COLUMNS]
    s, at = T(doubles(g[SMOOTHING], k + 1)[k]), place(g, k, step)
    normalizer = doubles(g[NORMALIZER], at + 1)[at]
    grad_b = vector(part(g, GRAD_B, k), n)
    for j in range(n):
        grad_b[j] = T(0)
    value, hits = 0.0, 0.0
    for i in range(rows):
        row, weight = vector(part(g, LOGITS, k) + i * n * ITEM, n), row_weight(g, k, i)
        y = vector(part(g, Y, k) + i * n * ITEM, n)
        factor = T(weight * normalizer)
        best = shift(row)
        hits += weight * (best == argmax(y))
        aim = T(0)
        for j in range(n):
            aim += ((T(1) - s) * y[j] + s / T(n)) * row[j]
        exponentials(row)
        row[best] -= T(1)
        others = row_sum(row)
        row[best] += T(1)
        total = others + T(1)
        value += weight * (log1p(others) - aim)
        for j in range(n):
            d = (row[j] / total - ((T(1) - s) * y[j] + s / T(n))) * factor
            row[j] = d
            grad_b[j] += d
    note(g, at, value, hits)
