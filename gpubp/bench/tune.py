"""``gpubp bench --tune``: for each matrix product of a network's step, the fastest of cuBLASLt's algorithms here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpubp._typing import Array
from gpubp.backends import get_backend
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.cupy_driver import CupyDriver
from gpubp.backends.cuda.driver import Gemm, GemmSpec, dtype_of
from gpubp.backends.cuda.gemm import CublasLt, LtGemm
from gpubp.backends.cuda.gemm_table import Algorithm, GemmTable
from gpubp.bench.steps import Repeated, Steps, Workload, rounds
from gpubp.bench.timing import Spread, ratio, spread
from gpubp.serialization import atomic_write

LAUNCHES = 20  # of a product in one graph, so that the product itself is timed
NOISE = 0.02  # cuBLASLt's first proposal stays unless another takes less of its time than 1 minus this

# Relative difference of two correct algorithms, which add in different orders; with TF32, one may not round inputs.
TOLERANCE = {"float64": 1e-12, "float32": 1e-4, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 1e-2}


@dataclass(frozen=True)
class Tuned:
    """A product, and the algorithm chosen for it.

    Attributes
    ----------
    spec : GemmSpec
    proposals, refused : int
        Algorithms that cuBLASLt proposed, and how many of them were wrong or not reproducible.
    chosen : Algorithm
    first, best : Spread
        Seconds of a product with cuBLASLt's first proposal, and with the chosen one.
    """

    spec: GemmSpec
    proposals: int
    refused: int
    chosen: Algorithm
    first: Spread
    best: Spread


def tune(workload: Workload, precisions: Sequence[str] = ("float32",)) -> tuple[GemmTable, list[Tuned]]:
    """Choose an algorithm for every product of a step, and write the choices into the user's table.

    Entries for other products are kept. Processes started from now on use the table.

    Raises
    ------
    DeviceError
        If no GPU works here, or not in these precisions; the message says why, and the remedy.
    UsageError
        If the table cannot be written.
    """
    for precision in precisions:
        get_backend("cuda", precision)  # raises if there is none
    driver = CupyDriver()  # a new driver has prepared no products yet
    cublas = driver.cublas
    for precision in precisions:
        backend = CudaBackend(driver, precision)
        backend.on_chip = False  # which uses no products of cuBLASLt
        steps = Steps(workload, backend)
        steps.seconds(1)
    products = []
    for spec in driver.prepared():
        with cublas.at_work(f"tuning of the {spec}"):
            products.append(tuned(driver, cublas, spec))
    chosen = {product.spec: product.chosen for product in products}
    table = replace(cublas.table, algorithms={**cublas.table.algorithms, **chosen})
    atomic_write(table.path, table.text.encode())
    return table, products


def tuned(driver: CupyDriver, cublas: CublasLt, spec: GemmSpec) -> Tuned:
    """The fastest of the algorithms that compute what cuBLASLt's first proposal does."""
    operands = _operands(driver, spec)
    products = {each: LtGemm(cublas, spec, each) for each in LtGemm(cublas, spec).proposals(*operands)}
    first, *others = products

    def computed(algorithm: Algorithm) -> Any:
        operands[2].view(np.uint8).fill(0xFF)  # NaN in every type, so that unwritten elements show
        products[algorithm](*operands)
        return np.asarray(driver.to_host(operands[2]), np.float64)

    expected = computed(first)
    tolerance = TOLERANCE[spec.compute if spec.compute == "tf32" else spec.out_type] * np.linalg.norm(expected)

    def right(algorithm: Algorithm) -> bool:
        once, again = computed(algorithm), computed(algorithm)
        return bool(np.linalg.norm(once - expected) <= tolerance and np.array_equal(once, again))

    entrants = [first, *filter(right, others)]
    taken = {str(each): Captured(driver, products[each], operands) for each in entrants}
    turns = list(rounds(taken))
    seconds = {each: [turn[str(each)] / LAUNCHES for turn in turns] for each in entrants}
    chosen = min(entrants, key=lambda each: spread(seconds[each]).median)
    if ratio(seconds[chosen], seconds[first]).median > 1 - NOISE:
        chosen = first
    return Tuned(
        spec=spec,
        proposals=len(products),
        refused=len(products) - len(entrants),
        chosen=chosen,
        first=spread(seconds[first]),
        best=spread(seconds[chosen]),
    )


class Captured(Repeated):
    """LAUNCHES of a product as a graph.

    Parameters
    ----------
    driver : CupyDriver
    product : Gemm
        A product that has run before.
    operands : tuple of arrays
    """

    def __init__(self, driver: CupyDriver, product: Gemm, operands: tuple[Array, ...]) -> None:
        def several() -> None:
            for _ in range(LAUNCHES):
                product(*operands)

        self.driver, self.replay = driver, driver.capture(several)

    def run(self, count: int) -> None:
        """Launch the graph `count` times."""
        for _ in range(count):
            self.replay()

    def wait(self) -> None:
        """Wait until the device is done."""
        self.driver.synchronize()


def _operands(driver: CupyDriver, spec: GemmSpec) -> tuple[Array, ...]:
    """Random a and b, room for out, and a bias if the epilogue adds one, aligned like the step's."""
    rng = np.random.default_rng(0)
    last = spec.networks - 1

    def drawn(size: int, dtype: str) -> Array:
        return driver.to_device(rng.standard_normal(size, dtype=np.float32).astype(dtype_of(dtype)))

    a = drawn(last * spec.a_stride + spec.m * spec.k, spec.in_type)
    b = drawn(last * spec.b_stride + spec.k * spec.n, spec.in_type)
    out = driver.empty((last * spec.out_stride + spec.m * spec.n,), dtype_of(spec.out_type))
    if not spec.adds_bias:
        return a, b, out
    return a, b, out, drawn(last * spec.bias_stride + spec.n, spec.out_type)
