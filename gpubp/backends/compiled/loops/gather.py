"""Rows of the data into a batch, cast on the way. Before this text stand S and D, the types of both."""

ROWS, COLUMNS, ROW_BYTES, SOURCE, SOURCE_STRIDE, OUT, OUT_STRIDE, ORDER, ORDER_STRIDE = range(9)
LENGTH = 9


def gather(arguments, k, step):
    """out[i] = source[order[i]]: rows of n elements, which lie one after the other."""
    g = integers(arguments, LENGTH)
    rows, n, source = g[ROWS], g[COLUMNS], part(g, SOURCE, k)
    order = integers(part(g, ORDER, k), rows)
    out = carray(pointer(part(g, OUT, k)), (rows, n), D)
    for i in range(rows):
        row = carray(pointer(source + order[i] * g[ROW_BYTES]), n, S)
        for j in range(n):
            out[i, j] = D(row[j])
