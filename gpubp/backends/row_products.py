"""Products on the CPU whose rows have the same bits wherever they are and whatever the other rows are.

BLAS cuts a product into tiles, and sums a tile at an edge in a different order than one in the middle; the number of
rows determines where the edges are. How many rows it treats alike depends on the machine, the number of threads and the
shapes, so it is tried out.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from gpubp._typing import Array

MOST_ROWS = 48  # of a product; more make products hardly faster
CANDIDATES = (48, 16, 8, 4)  # divisors of MOST_ROWS
COMPARED = 256  # the least number of sums that must be equal at every place
MULTIPLICATIONS = 1 << 23  # of a batch: some milliseconds, compared to which Python's overhead is small
MOST_IN_BATCH = 64 * MOST_ROWS


def batch_rows(multiplications: int) -> int:
    """The rows of a batch of predictions, a multiple of MOST_ROWS, if each row takes `multiplications`."""
    return MOST_ROWS * max(1, min(MULTIPLICATIONS // multiplications, MOST_IN_BATCH) // MOST_ROWS)


def product(a: Array, W: Array, out: Array) -> None:
    """out (K, m, n_out) = a (K or 1, m, n_in) W (K, n_in, n_out); m is a multiple of MOST_ROWS."""
    _product(a, W, out, rows_treated_alike(*W.shape[1:], out.dtype.str))


@cache
def rows_treated_alike(n_in: int, n_out: int, dtype: str) -> int:
    """The number of rows that a product may take at a time so that no row's bits depend on its place."""
    # A single row has only one place.
    return next((rows for rows in CANDIDATES if _are_alike(rows, n_in, n_out, dtype)), 1)


def _product(a: Array, W: Array, out: Array, rows: int) -> None:
    np.matmul(_in_parts(a, rows), W[:, None], out=_in_parts(out, rows))


def _are_alike(rows: int, n_in: int, n_out: int, dtype: str) -> bool:
    """Whether rows get the same bits at every place of a product of `rows` rows."""
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
