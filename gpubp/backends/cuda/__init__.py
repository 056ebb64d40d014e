"""NVIDIA GPUs through CuPy: the only package that imports it, and only on request."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from gpubp.backends.cuda.probe import probe_device
from gpubp.errors import DeviceError, UsageError
from gpubp.precision import PRECISIONS

if TYPE_CHECKING:
    from gpubp.backends import Backend
    from gpubp.backends.cuda.cupy_driver import CupyDriver

__all__ = ["open_backend", "probe_device"]


def open_backend(device: str, kind: str, index: int, precision: str) -> Backend:
    """The backend of kind "cuda", "cuda-unfused" or "auto" on a working GPU; see `gpubp.backends.get_backend`."""
    from gpubp.backends.cuda.backend import CudaBackend
    from gpubp.backends.cuda.unfused import UnfusedBackend

    driver, types = _driver(index), PRECISIONS[precision]
    driver.use()
    if driver.compute_capability < types.capability:
        have, need = (".".join(map(str, version)) for version in (driver.compute_capability, types.capability))
        raise DeviceError(
            f'precision "{precision}" needs compute capability {need}; {driver.name} has {have}; use "float32"'
        )
    if kind == "auto":
        return CudaBackend(driver, precision, "cuda", driver.name)
    if kind == "cuda-unfused" and types.storage != types.parameters:
        raise UsageError(f'device "{device}" has no precision "{precision}"; use "float32", "tf32" or "float64"')
    return (CudaBackend if kind == "cuda" else UnfusedBackend)(driver, precision, device, driver.name)


@cache
def _driver(index: int) -> CupyDriver:
    """One driver per device and process: it keeps the compiled kernels and the workspace of products."""
    from gpubp.backends.cuda.cupy_driver import CupyDriver

    return CupyDriver(index)
