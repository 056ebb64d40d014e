"""The order of rows in an epoch: a keyed bijection of a network's rows, evaluated when a row is needed.

No table of orders is drawn, kept or sent: the code that gathers a batch asks which row comes at each of its positions.
The bijection is a Feistel network over the smallest domain of 2^bits >= count positions. Each round changes one half of
a position's bits using the other: the upper bits of (half * a + b) mod 2^32, with random 32-bit a and b. Over two
halves these are independent and uniform (Dietzfelbinger, "Universal hashing and k-wise independence via integer
arithmetic without primes", 1996), so only the number of rounds decides how uniform pairs of positions are. A result
outside [0, count) is sent through again until it is inside ("cycle walking": Black and Rogaway, "Ciphers with arbitrary
finite domains", 2002). Keys of zero leave every row in its place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpubp.backends.philox import philox4x32

ROUNDS = 24  # with halves of one or two bits, this many until every two rows are neighbours equally often
MOST_ROWS = 1 << 32
_STREAM = 1  # the last word of the counter, which is 0 for dropout's masks
_LOW = 0xFFFFFFFF
_BLOCK = 1 << 15  # positions at a time, so that temporaries stay in a core's cache


def order_keys(seeds: NDArray[np.uint64], epoch: int) -> NDArray[np.uint32]:
    """The keys of an epoch's bijections, (K, ROUNDS, 2): Philox of each network's seed (K,) and the epoch."""
    low = np.uint64(_LOW)
    quads = np.arange(ROUNDS // 2, dtype=np.uint64)[None, :]
    words = philox4x32(
        np,
        (quads, np.full_like(quads, epoch & _LOW), np.full_like(quads, epoch >> 32), np.full_like(quads, _STREAM)),
        (seeds[:, None] & low, seeds[:, None] >> np.uint64(32)),
    )
    return np.stack(words, axis=-1).astype(np.uint32).reshape(len(seeds), ROUNDS, 2)


def rows_at(
    positions: NDArray[np.int64],
    order: NDArray[np.int64] | None,
    keys: NDArray[np.uint32] | None,
    counts: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The rows of the data at some positions of an epoch, (K or 1, n); 0 beyond a network's last row.

    Parameters
    ----------
    positions : (n,) int
        Ascending.
    order : (K or 1, m) int or None
    keys : (K or 1, ROUNDS, 2) uint32 or None
    counts : (K or 1,) int
        All three as in `Epoch`.
    """
    networks = max(len(array) for array in (order, keys, counts) if array is not None)
    rows = np.zeros((networks, len(positions)), np.int64)
    for k, row in enumerate(rows):
        count = int(counts[k % len(counts)])
        places = positions[: np.searchsorted(positions, count)]
        if keys is not None:
            places = shuffled(places, keys[k % len(keys)], count)
        row[: len(places)] = places if order is None else order[k % len(order)][places]
    return rows


def shuffled(positions: NDArray[np.int64], keys: NDArray[np.uint32], count: int) -> NDArray[np.int64]:
    """Where the bijection of [0, count) with these keys (ROUNDS, 2) sends positions (n,), all of them below count."""
    places = np.empty(len(positions), np.int64)
    for start in range(0, len(positions), _BLOCK):
        block = slice(start, start + _BLOCK)
        places[block] = _walk(positions[block].astype(np.uint32), keys, count)
    return places


def _walk(positions: NDArray[np.uint32], keys: NDArray[np.uint32], count: int) -> NDArray[np.uint32]:
    """One block of `shuffled`."""
    bits = max(2, (count - 1).bit_length())
    places = _feistel(positions, keys, bits)
    outside = np.flatnonzero(places >= count)
    while len(outside):
        again = _feistel(places[outside], keys, bits)
        places[outside] = again
        outside = outside[again >= count]
    return places


def _feistel(positions: NDArray[np.uint32], keys: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    """A bijection of [0, 2^bits)."""
    lower_bits = np.uint32(bits - bits // 2)
    lower, upper = positions & np.uint32((1 << int(lower_bits)) - 1), positions >> lower_bits
    halves = [(upper, lower, np.uint32(32 - bits // 2)), (lower, upper, np.uint32(32) - lower_bits)]
    change = np.empty_like(positions)
    for i, (a, b) in enumerate(keys):
        half, other, shift = halves[i % 2]
        np.multiply(other, a, out=change)
        change += b
        change >>= shift
        half ^= change
    upper <<= lower_bits
    upper |= lower
    return upper
