"""Philox 4x32-10, the counter-based generator behind dropout masks.

A word depends only on key and counter, so every backend, stack and batch split draws the same mask without any state.
Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

import numpy as np

from gpubp._typing import Array, Namespace

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def philox4x32(xp: Namespace, counter: tuple[Array, ...], key: tuple[Array, ...]) -> tuple[Array, ...]:
    """Ten rounds over four 32-bit counter words with two 32-bit key words, all held in uint64 arrays."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    shift, low = xp.uint64(32), xp.uint64(_LOW)
    for _ in range(10):
        product0, product1 = c0 * xp.uint64(_MULTIPLIERS[0]), c2 * xp.uint64(_MULTIPLIERS[1])
        c0, c1, c2, c3 = (
            (product1 >> shift) ^ c1 ^ k0,
            product1 & low,
            (product0 >> shift) ^ c3 ^ k1,
            product0 & low,
        )
        k0, k1 = (k0 + xp.uint64(_WEYL[0])) & low, (k1 + xp.uint64(_WEYL[1])) & low
    return c0, c1, c2, c3


def dropout_mask(
    xp: Namespace,
    seeds: Array,
    rate: Array,
    layer: int,
    step: int | Array,
    rows: int,
    columns: int,
    first_row: int = 0,
) -> Array:
    """Which elements of a hidden layer survive: word ≥ round(rate · 2³²), an integer comparison.

    Parameters
    ----------
    seeds : (K,) uint64
        One key per network.
    rate : (K,) float64
        Probability of being dropped.
    layer : int
        The hidden layer, counted from 0.
    step : int or (K,) array
        The training step.
    rows, columns : int
        Shape of the layer's batch; element = (row of the batch) · columns + column.
    first_row : int
        Position of the first row in the whole batch.

    Returns
    -------
    (K, rows, columns) bool
    """
    first, last = first_row * columns, (first_row + rows) * columns
    quads = xp.arange(first // 4, -(-last // 4), dtype=np.uint64)[None, :]
    seeds = seeds[:, None]
    zero = xp.zeros((1, 1), dtype=np.uint64)
    words = philox4x32(
        xp,
        (quads, zero + xp.uint64(layer), xp.asarray(step, dtype=np.uint64).reshape(-1, 1), zero),
        (seeds & xp.uint64(_LOW), seeds >> xp.uint64(32)),
    )
    stacked = xp.stack(words, axis=-1).reshape(seeds.shape[0], -1)
    threshold = xp.asarray(xp.rint(rate * 2.0**32), dtype=np.uint64)[:, None]
    keep = stacked >= threshold
    offset = first - 4 * (first // 4)
    return keep[:, offset : offset + rows * columns].reshape(-1, rows, columns)
