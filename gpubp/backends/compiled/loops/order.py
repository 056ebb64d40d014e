"""Which rows of the data come next, in an epoch's own order. Before this text stands ROUNDS.

The order is a keyed bijection: a Feistel network whose halves change each other, walked until it is below the count;
`gpubp.backends.shuffle` says more.
"""

ROWS, OUT, OUT_STRIDE, ORDER, ORDER_STRIDE, KEYS, KEYS_STRIDE = range(7)
COUNTS, COUNTS_STRIDE, CURSOR, BATCH_SIZE, PERIOD = range(7, 12)
LENGTH = 12
U = np.uint32


@inlined
def shuffled(position, keys, count, bits):
    lower_bits = U(bits - bits // 2)
    mask, upper_shift, lower_shift = U((1 << (bits - bits // 2)) - 1), U(32 - bits // 2), U(32 - (bits - bits // 2))
    place = U(position)
    while True:
        upper, lower = U(place >> lower_bits), U(place & mask)
        for i in range(0, ROUNDS, 2):
            upper = U(upper ^ (U(lower * keys[2 * i] + keys[2 * i + 1]) >> upper_shift))
            lower = U(lower ^ (U(upper * keys[2 * i + 2] + keys[2 * i + 3]) >> lower_shift))
        place = U(U(upper << lower_bits) | lower)
        if place < count:
            return np.int64(place)


def order(arguments, k, step):
    """out[i] = order[bijection(first + i)]; without an order the place itself, without keys the position's."""
    g = integers(arguments, LENGTH)
    rows, first = g[ROWS], (integers(g[CURSOR], 1)[0] + step) * g[BATCH_SIZE]
    if g[PERIOD] != 0:
        first %= g[PERIOD]
    out = integers(part(g, OUT, k), rows)
    for i in range(rows):
        out[i] = first + i
    if g[KEYS] != 0:
        keys, count = carray(pointer(part(g, KEYS, k)), 2 * ROUNDS, U), integers(part(g, COUNTS, k), 1)[0]
        bits = 2
        while (count - 1) >> bits:
            bits += 1
        for i in range(rows):
            out[i] = shuffled(out[i], keys, count, bits)
    if g[ORDER] != 0:
        table = part(g, ORDER, k)
        for i in range(rows):
            out[i] = integers(table + 8 * out[i], 1)[0]
