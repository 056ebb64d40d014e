"""Rows of the data into a batch, cast on the way. Before this text stand S and D, the types of both."""

ROWS, COLUMNS, SOURCE, SOURCE_STRIDE, OUT, OUT_STRIDE, ORDER, ORDER_STRIDE, CURSOR, BATCH_SIZE, LENGTH = range(11)


def gather(arguments, k, step):
    """out[i] = source[order[first + i]]: rows of n elements, `stride` bytes apart in the source."""
    g = integers(arguments, LENGTH)
    rows, n, source, stride = g[ROWS], g[COLUMNS], g[SOURCE], g[SOURCE_STRIDE]
    first = (integers(g[CURSOR], 1)[0] + step) * g[BATCH_SIZE]
    order = integers(part(g, ORDER, k), first + rows)
    out = carray(pointer(part(g, OUT, k)), (rows, n), D)
    for i in range(rows):
        row = carray(pointer(source + order[first + i] * stride), n, S)
        for j in range(n):
            out[i, j] = D(row[j])
