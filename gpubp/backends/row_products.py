"""Products of the CPU whose rows have the same bits wherever they stand and whatever stands beside them.

BLAS cuts a product into tiles, and sums a tile at an edge in another order than one in the middle; where the edges are
depends on how many rows there are. How many rows it treats alike depends on the machine, the number of threads and the
shapes, so it is tried out.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from gpubp._typing import Array

MOST_ROWS = 48  # of a product; with more, products are hardly faster
CANDIDATES = (48, 16, 8, 4)  # divisors of MOST_ROWS
COMPARED = 256  # sums at least that have to come out alike at every place
MULTIPLICATIONS = 1 << 23  # of a batch: some milliseconds, beside which what a batch costs in Python is little
MOST_IN_BATCH = 64 * MOST_ROWS


def batch_rows(multiplications: int) -> int:
    """How many rows a batch of predictions has, a multiple of MOST_ROWS, where each takes so many multiplications."""
    return MOST_ROWS * max(1, min(MULTIPLICATIONS // multiplications, MOST_IN_BATCH) // MOST_ROWS)


def product(a: Array, W: Array, out: Array) -> None:
    """out (K, m, n_out) = a (K or 1, m, n_in) W (K, n_in, n_out); m is a multiple of MOST_ROWS."""
    _product(a, W, out, rows_treated_alike(*W.shape[1:], out.dtype.str))


@cache
def rows_treated_alike(n_in: int, n_out: int, dtype: str) -> int:
    """How many rows at a time a product may take, so that no row's bits depend on its place."""
    # A single row has one place only.
    return next((rows for rows in CANDIDATES if _are_alike(rows, n_in, n_out, dtype)), 1)


def _product(a: Array, W: Array, out: Array, rows: int) -> None:
    np.matmul(_in_parts(a, rows), W[:, None], out=_in_parts(out, rows))


def _are_alike(rows: int, n_in: int, n_out: int, dtype: str) -> bool:
    """Whether some rows get the same bits at every place of a product of so many rows."""
    rng = np.random.default_rng(0)
    W = rng.standard_normal((1, n_in, n_out)).astype(dtype)
    a, out = np.empty((1, MOST_ROWS, n_in), dtype), np.empty((1, MOST_ROWS, n_out), dtype)
    for _ in range(-(-COMPARED // n_out)):
        a[...] = rng.standard_normal(n_in)
        _product(a, W, out, rows)
        if (out != out[:, :1]).any():
            return False
    return True


def _in_parts(array: Array, rows: int) -> Array:
    return array.reshape(len(array), -1, rows, array.shape[-1])
