"""Which layers are small enough for our own kernels, and the tiles in which those compute their products.

Everything here depends only on shapes and types; so do the bits of the results.
"""

from __future__ import annotations

from collections.abc import Sequence

# Rows and columns of a block's tile, and about how many clocks of a multiprocessor each k of it takes, and the overhead
# of a block: with these, the chosen tiles are the fastest or nearly so in all layers of the stage small-layers.
TILES = {(16, 16): 2.4, (16, 32): 5.1, (32, 32): 8.2, (64, 64): 36.0}
A_BLOCK = 500.0
FAR_AHEAD = 128  # k of a product above which two panels are prefetched, if a multiprocessor has at most one block
MULTIPROCESSORS = 132  # of the device for which tiles are chosen, not necessarily the one in use

# Multiply-adds of a layer's product up to which our kernels, forward and back together, take about as long as
# cuBLASLt's products and the kernels that go with them, or less: measured on an H200 (benchmarks/results/gpu.json,
# stage small-layers). For a single network and for a stack in total, without and with matrix units. The last, and the
# clocks of tiles in 16 bits, date from before our kernels used tensor cores, and must be measured again.
MOST_ALONE, MOST_IN_STACKS, MOST_WITH_UNITS = 1 << 26, 1 << 24, 1 << 23


def is_small(networks: int, multiplies: int, matrix_units: bool) -> bool:
    """Whether a layer uses the kernels `dense` and `dense_backward` instead of a library's products.

    Parameters
    ----------
    networks : int
    multiplies : int
        Rows · n_in · n_out, for each network.
    matrix_units : bool
        Whether the library uses such units for the type and the compute type of products.
    """
    if matrix_units:
        return networks * multiplies <= MOST_WITH_UNITS
    return multiplies <= MOST_ALONE if networks == 1 else networks * multiplies <= MOST_IN_STACKS


def tile_of(networks: int, products: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
    """The tile (rows, columns) in which the products (m, n, k) of each network, in one launch, take the least time."""

    def clocks(tile: tuple[int, int]) -> float:
        blocks = [(tiles(m, n, tile), TILES[tile] * k + A_BLOCK) for m, n, k in products]
        together = networks * sum(count * each for count, each in blocks) / MULTIPROCESSORS
        return max(together, max(each for _, each in blocks))

    return min(TILES, key=clocks)


def ahead(networks: int, products: Sequence[tuple[int, int, int]], tile: tuple[int, int]) -> int:
    """How many panels of a tile's operands are prefetched: two take the registers of a second block."""
    blocks = networks * sum(tiles(m, n, tile) for m, n, _ in products)
    return 2 if blocks <= MULTIPROCESSORS and max(k for _, _, k in products) > FAR_AHEAD else 1


def tiles(m: int, n: int, tile: tuple[int, int]) -> int:
    """Blocks of a matrix (m, n)."""
    return -(-m // tile[0]) * -(-n // tile[1])
