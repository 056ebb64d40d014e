"""The backends that tests run on, and how arrays on them are compared."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from gpubp.backends import Backend, Epoch, get_backend
from gpubp.backends.compiled import CompiledBackend, numba_state
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.unfused import UnfusedBackend
from gpubp.backends.reference import ReferenceBackend
from support.cuda_host import HostDriver, host_compiler
from support.package import REPOSITORY


@functools.cache
def host_driver() -> HostDriver:
    """Kernels compiled for the host, in place of a GPU; one for all tests, since compiling takes its time."""
    if host_compiler() is None:
        pytest.skip("no C++ compiler to run kernels with on the host; install g++ or clang++")
    return HostDriver(REPOSITORY / ".pytest_cache" / "cuda_host")


def compiled_backend(precision: str) -> CompiledBackend:
    """The CPU's compiled backend, where Numba is installed."""
    state = numba_state()
    if not state.usable:
        pytest.skip(state.summary)
    return CompiledBackend(precision, small=0)  # tests are small, and what they test are the loops


# Every backend that the suite runs on; a new one is a line here.
BACKENDS: dict[str, Callable[[], Backend]] = {
    "reference-float64": lambda: ReferenceBackend(np.float64),
    "reference-float32": lambda: ReferenceBackend(np.float32),
    "compiled-float64": lambda: compiled_backend("float64"),
    "compiled-float32": lambda: compiled_backend("float32"),
    "cuda-host-float64": lambda: CudaBackend(host_driver(), "float64"),
    "cuda-host-float32": lambda: CudaBackend(host_driver(), "float32"),
    "cuda-unfused-host-float64": lambda: UnfusedBackend(host_driver(), "float64"),
}
# Those that need a device; their tests carry the mark "gpu".
GPU_BACKENDS: dict[str, Callable[[], Backend]] = {
    f"{device}-{precision}": functools.partial(get_backend, device, precision)
    for device, precision in (("cuda", "float64"), ("cuda", "float32"), ("cuda-unfused", "float64"))
}

# Those that plain `pytest` runs on; tests on any other carry the mark "backends", which .ci/run asks for.
DEFAULT_BACKENDS = ("reference-float64", "compiled-float64", "compiled-float32")
KERNEL_PRECISION = "float32"  # in which plain `pytest` runs the kernels on the host


def backend_parameter(name: str, value: Any = None) -> Any:
    """A backend as a parameter of a test, with the marks that its tests carry; its value is the name by default."""
    marks = [] if name in DEFAULT_BACKENDS else [pytest.mark.backends]
    if name in GPU_BACKENDS:
        marks.append(pytest.mark.gpu)
    return pytest.param(name if value is None else value, marks=marks)


def backend_parameters(fits: Callable[[str], bool] = bool) -> list[Any]:
    """The backends whose names fit, as parameters of a test."""
    return [backend_parameter(name) for name in filter(fits, (*BACKENDS, *GPU_BACKENDS))]


def by_tier(
    values: Iterable[Any], default: Callable[[Any], bool], ids: Callable[[Any], str] | None = None
) -> list[Any]:
    """Parameters of a test, of which those that are not for plain `pytest` carry the mark "backends".

    A tuple holds the values of several names.
    """
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            id=ids and ids(value),
            marks=[] if default(value) else [pytest.mark.backends],
        )
        for value in values
    ]


def precisions_of_kernels(precisions: Iterable[str]) -> list[Any]:
    """Precisions as parameters of a test of kernels on the host, of which plain `pytest` runs one."""
    return by_tier(precisions, lambda precision: precision == KERNEL_PRECISION)


def _on_backends(fits: Callable[[str], bool]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("backend", backend_parameters(fits), indirect=True)


# Marks of tests about what NumPy alone has, of those whose comparisons need double precision, and of long ones,
# which run the reference formulas once and not on a device's arrays too.
on_the_reference = _on_backends(lambda name: name.startswith("reference"))
in_float64 = _on_backends(lambda name: name.endswith("float64"))
but_unfused = _on_backends(lambda name: "unfused" not in name)


def one_step(
    backend: Backend, networks: int, *, normalizer: Any = 1.0, learning_rate: Any = 0.0, step: int = 0
) -> Epoch:
    """The tables of an epoch of one step; numbers may be one per network."""

    def row(value: Any) -> Any:
        return backend.from_host(np.broadcast_to(np.asarray(value, np.float64)[..., None], (networks, 1)).copy())

    totals = backend.zeros((networks, 1, 2), backend.accumulator)
    cursor, first = backend.zeros((1,), np.int64), backend.from_host(np.full(networks, step))
    return Epoch(cursor, first, 1, backend.zeros((1, 1), np.int64), row(normalizer), row(learning_rate), totals)


def host(array: Any) -> Any:
    """A NumPy array of the same values, wherever the array lies: device arrays and NumPy's never mix."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


def alike(backend: Backend, found: Any, expected: Any) -> None:
    """Assert what a backend promises of one computation done in two ways, such as a stack and a network alone.

    That is the same bits, but on a GPU, where a product of another shape may be summed in another order.
    """
    if backend.name.startswith("cuda"):
        tolerance = 4096 * np.finfo(backend.dtype).eps
        np.testing.assert_allclose(host(found), host(expected), rtol=tolerance, atol=tolerance)
    else:
        np.testing.assert_array_equal(host(found), host(expected))
