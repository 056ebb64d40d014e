"""Which products are small: loops of gpubp's own take these, in tiles of registers; NumPy's BLAS takes all others.

BLAS first checks, copies and packs its operands, and a small product is over before that has paid. The bounds are where
nearly all products were clearly faster than by NumPy's OpenBLAS, on a processor with AVX2. They depend on one network's
shapes alone, so a network gets the same products in any stack and on any number of threads, and they lie below the size
from which OpenBLAS uses several threads.
"""

from __future__ import annotations

import numpy as np

LONGEST = 128  # the inner dimension at most: columns that are transposed lie on the stack
FEWEST_ROWS = 4  # of a tile
FEWEST_MULTIPLICATIONS = 1 << 9  # below, the call is longer than the product
MOST_MULTIPLIED_BYTES = 1 << 20  # multiplications times bytes of a number: 2¹⁸ in float32, 2¹⁷ in float64
MOST_BYTES = 1 << 14  # of B, half of a core's first cache: it is gone through for each tile of rows
MEASURED = {32}  # bytes of registers: AVX2; with AVX-512, OpenBLAS has ways of its own for small products


def is_small(m: int, inner: int, n: int, dtype: np.dtype, register_bytes: int) -> bool:
    """Whether gpubp's loops take C (m, n) = A (m, inner) B (inner, n), on registers of so many bytes; 0 for none."""
    multiplications = m * n * inner
    fills_tiles = m >= FEWEST_ROWS and n * dtype.itemsize >= register_bytes > 0
    fits = inner <= LONGEST and n * inner * dtype.itemsize <= MOST_BYTES
    fits = fits and multiplications * dtype.itemsize <= MOST_MULTIPLIED_BYTES
    return fills_tiles and fits and multiplications >= FEWEST_MULTIPLICATIONS


def register_bytes() -> int:
    """The width of registers that small products are computed on; 0 where that was not measured to be faster."""
    widest = widest_register()
    return widest if widest in MEASURED else 0


def widest_register() -> int:
    """Bytes of this processor's vector registers that multiply and add at once; 0 where the loops know none."""
    from llvmlite import binding

    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not tell, of this kind of processor
        return 0
    if not (features.get("avx2") and features.get("fma")):
        return 0
    return 64 if features.get("avx512f") else 32
