"""The masks of dropout: Philox 4x32-10 with the network's seed as key, a word per element.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011.
"""

U = np.uint64


@inlined
def survivor_scale(rates, k):
    return T(1.0 / (1.0 - doubles(rates, k + 1)[k]))


@inlined
def philox(quad, layer, step, key):
    """Four 32-bit words for the counter (quad, layer, step, 0)."""
    low = U(0xFFFFFFFF)
    c0, c1, c2, c3 = U(quad), U(layer), U(step), U(0)
    k0, k1 = key & low, key >> U(32)
    for _ in range(10):
        p0, p1 = c0 * U(0xD2511F53), c2 * U(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> U(32)) ^ c1 ^ k0, p1 & low, (p0 >> U(32)) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + U(0x9E3779B9)) & low, (k1 + U(0xBB67AE85)) & low
    return c0, c1, c2, c3


@inlined
def draw_mask(mask, rates, seeds, cursor, first_step, layer, k, step):
    """An element stays where its word is at least round(rate * 2^32)."""
    size = mask.size
    words = mask.reshape(size)
    threshold = U(np.rint(doubles(rates, k + 1)[k] * 2.0**32))
    key = U(integers(seeds, k + 1)[k])
    now = integers(first_step, k + 1)[k] + integers(cursor, 1)[0] + step
    for quad in range(size // 4):
        c0, c1, c2, c3 = philox(quad, layer, now, key)
        words[4 * quad] = c0 >= threshold
        words[4 * quad + 1] = c1 >= threshold
        words[4 * quad + 2] = c2 >= threshold
        words[4 * quad + 3] = c3 >= threshold
    last = philox(size // 4, layer, now, key)
    for i in range(size % 4):
        words[size // 4 * 4 + i] = last[i] >= threshold
