"""Stage ``smoke``: whether anything can work here, within seconds, and what this machine is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.devices import open_backend
from benchmarks.gpu.parity import TINY, TOLERANCE, errors_of
from benchmarks.gpu.settings import Settings
from benchmarks.parts import Part
from benchmarks.peers import UnavailableError
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.driver import GemmSpec
from gpubp.bench.doctor import findings


@dataclass(frozen=True)
class Doubling:
    """A kernel that doubles numbers."""

    name: str = "doubling"
    text: str = (
        'extern "C" __global__ void doubling(float* x, int n) {\n'
        "    int i = blockIdx.x * blockDim.x + threadIdx.x;\n"
        "    if (i < n) x[i] *= 2.0f;\n"
        "}\n"
    )
    options: tuple[str, ...] = ()


def smoke(part: Part, settings: Settings) -> None:
    """A row for each thing that everything else is made of; the first that fails ends the run."""
    try:
        backend = open_backend("cuda", "float32", part.dry_run)
    except UnavailableError as error:
        part.failed("the backend starts", str(error))
        return
    assert isinstance(backend, CudaBackend)
    driver = backend.driver
    x = np.arange(64, dtype=np.float32).reshape(8, 8)
    array = driver.to_device(x)

    def kernel() -> bool:
        driver.kernel(Doubling())((1, 1, 1), 64, (array, np.int32(64)))
        return np.array_equal(driver.to_host(array), 2 * x)

    def product() -> bool:
        out = driver.empty((8, 8), np.float32)
        driver.gemm(GemmSpec(1, 8, 8, 8, False, True, 0, 0, 0, "float32", "float32", "float32"))(array, array, out)
        return np.array_equal(driver.to_host(out), 4 * (x @ x.T))

    def graph() -> bool:
        doubling = driver.kernel(Doubling())
        replay = driver.capture(lambda: doubling((1, 1, 1), 64, (array, np.int32(64))))
        replay()
        replay()
        return np.array_equal(driver.to_host(array), 8 * x)

    def step() -> bool:
        errors = errors_of(TINY[0], backend)
        return all(errors[what] <= TOLERANCE["float32"] for what in ("loss", "update", "theta"))

    _tried(part, "a kernel compiles, runs and is right", kernel)
    _tried(part, "a product through cuBLASLt is right", product)
    _tried(part, "a captured graph is replayed and is right", graph)
    _tried(part, "training steps agree with float64", step)
    for finding in findings():
        print(f"     {finding.subject}: {finding.found}" + (f" -> {finding.warning}" if finding.warning else ""))


def _tried(part: Part, what: str, run: Callable[[], bool]) -> None:
    start = time.perf_counter()
    try:
        right = run()
    except Exception as error:
        part.failed(what, f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
        raise
    part.computed(what, "right", f"{'right' if right else 'WRONG'}, {time.perf_counter() - start:.2f} s", right)
