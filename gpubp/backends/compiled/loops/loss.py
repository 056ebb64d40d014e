"""What the loops over losses share: where the figures of a step stand."""

ROWS, COLUMNS, LOGITS, LOGITS_STRIDE, Y, Y_STRIDE, WEIGHT, WEIGHT_STRIDE, SMOOTHING, CURSOR = range(10)
STEPS, NORMALIZER, TOTALS, GRAD_B, GRAD_B_STRIDE, LENGTH = range(10, 16)


@inlined
def place(g, k, step):
    """The index of the step's entry in network k's row of a table (K, steps)."""
    return k * g[STEPS] + integers(g[CURSOR], 1)[0] + step


@inlined
def row_weight(g, k, i):
    """The weight of row i, 1 where there are none."""
    return doubles(part(g, WEIGHT, k), i + 1)[i] if g[WEIGHT] else 1.0


@inlined
def note(g, place, value, metric):
    """Write the totals of the step."""
    totals = doubles(g[TOTALS] + 16 * place, 2)
    totals[0], totals[1] = value, metric
