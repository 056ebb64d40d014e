"""Which products are small: gpubp's own loops compute these in register tiles; NumPy's BLAS computes all others.

BLAS first checks, copies and packs its operands, which does not pay off for a small product. Within the bounds, nearly
all products were clearly faster than with NumPy's OpenBLAS, on a processor with AVX2. They depend only on one network's
shapes, so a network gets the same products in any stack and on any number of threads, and they are below the size from
which OpenBLAS uses several threads.
"""

from __future__ import annotations

import numpy as np

LONGEST = 128  # maximum inner dimension: transposed columns are on the call stack
FEWEST_ROWS = 4  # of a tile
FEWEST_MULTIPLICATIONS = 1 << 9  # below, the call takes longer than the product
MOST_MULTIPLIED_BYTES = 1 << 20  # multiplications times bytes of a number: 2¹⁸ in float32, 2¹⁷ in float64
MOST_BYTES = 1 << 14  # of B, half of a core's L1 cache: it is read again for each tile of rows
MEASURED = {32}  # bytes of registers: AVX2; with AVX-512, OpenBLAS has its own code for small products


def is_small(m: int, inner: int, n: int, dtype: np.dtype, register_bytes: int) -> bool:
    """Whether gpubp's loops compute C (m, n) = A (m, inner) B (inner, n), given `register_bytes`, 0 for none."""
    multiplications = m * n * inner
    fills_tiles = m >= FEWEST_ROWS and n * dtype.itemsize >= register_bytes > 0
    fits = inner <= LONGEST and n * inner * dtype.itemsize <= MOST_BYTES
    fits = fits and multiplications * dtype.itemsize <= MOST_MULTIPLIED_BYTES
    return fills_tiles and fits and multiplications >= FEWEST_MULTIPLICATIONS


def register_bytes() -> int:
    """The width in bytes of the registers used for small products; 0 where that was not measured to be faster."""
    widest = widest_register()
    return widest if widest in MEASURED else 0


def widest_register() -> int:
    """Bytes of this processor's vector registers with fused multiply-add; 0 if the loops do not support any."""
    from llvmlite import binding

    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM cannot tell for this kind of processor
        return 0
    if not (features.get("avx2") and features.get("fma")):
        return 0
    return 64 if features.get("avx512f") else 32
