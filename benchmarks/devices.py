"""The device that is measured: CUDA's, or in a dry run the tests' stand-in, which runs the kernels on the host."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.peers import UnavailableError
from gpubp.backends import Backend, get_backend
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.unfused import UnfusedBackend
from gpubp.errors import DeviceError, UsageError

REPOSITORY = Path(__file__).resolve().parents[1]


def open_backend(device: str, precision: str, dry_run: bool) -> Backend:
    """The backend "cuda", "cuda-unfused" or "cpu" in a precision.

    Raises
    ------
    UnavailableError
        Where this machine, or the backend, does not have it: why.
    """
    try:
        if not dry_run or device.startswith("cpu"):
            return get_backend(device, precision)
        if device == "cuda":
            return CudaBackend(host_driver(), precision)
    except (DeviceError, UsageError) as error:
        raise UnavailableError(str(error)) from None
    if precision == "bfloat16":
        raise UnavailableError(f'device "{device}" has no precision "{precision}"')
    return UnfusedBackend(host_driver(), precision, device)


@cache
def host_driver() -> Any:
    """The driver of ``tests/support/cuda_host``."""
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from support.cuda_host import HostDriver, host_compiler

    if host_compiler() is None:
        raise UnavailableError("no C++ compiler to run kernels with on the host; install g++ or clang++")
    return HostDriver(REPOSITORY / ".pytest_cache" / "cuda_host")
