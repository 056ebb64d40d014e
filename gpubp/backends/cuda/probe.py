"""Checks what CuPy and the CUDA driver can do on this machine. The checks never raise."""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
import shutil
import warnings
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpubp.backends.cuda.dependent_launch import cuda_driver
from gpubp.backends.cuda.driver import Driver, GemmSpec
from gpubp.backends.cuda.faults import INSTALL, INSTALL_DRIVER, NO_DEVICE, NO_DRIVER, SEE_DEVICES, explain, one_line


@dataclass(frozen=True, slots=True)
class CudaState:
    """The result of a check.

    Attributes
    ----------
    usable : bool
        Whether what was checked works.
    summary : str
        One line: versions and devices, or the obstacle.
    remedy : str
        What to install or set, in one line; empty if nothing needs to be done.
    installed : bool
        Whether CuPy, which is optional, is installed at all.
    without_cupy : bool
        Whether there is an NVIDIA driver, but no CuPy to use it.
    """

    usable: bool
    summary: str
    remedy: str = ""
    installed: bool = True
    without_cupy: bool = False

    @property
    def reason(self) -> str:
        """Why the CPU is used, if CUDA is neither usable nor required: one line."""
        if self.without_cupy:
            return f"{self.summary}: {self.remedy}"
        return self.summary if self.installed else f"no GPU: {self.summary}"


def probe() -> CudaState:
    """Import CuPy if it is installed, and count the devices."""
    wheels = _installed_wheels()
    try:
        with warnings.catch_warnings():  # CuPy warns about several installed wheels; so does this function
            warnings.simplefilter("ignore")
            import cupy
    except Exception as error:  # a broken installation may raise anything
        return _import_failed(error, wheels)
    named = ", ".join(wheels) or f"CuPy {getattr(cupy, '__version__', 'of unknown version')}"
    if len(wheels) > 1:
        return CudaState(False, f"{named} are installed, and they overwrite each other", _reinstall(wheels))
    try:
        return _look_at_devices(cupy.cuda.runtime, named)
    except Exception as error:
        cause, remedy = explain(error)
        return CudaState(False, f"{named}, but {cause}", remedy)


@cache
def probe_device(device: int = 0) -> CudaState:
    """Run a kernel and a matrix product on a device, and copy the results back.

    This takes seconds, so the answer is kept for the rest of the process.

    Parameters
    ----------
    device : int
        CUDA's index of it.
    """
    state = probe()
    if not state.usable:
        return state
    try:
        from gpubp.backends.cuda.cupy_driver import CupyDriver

        right = _computes(CupyDriver(device))
    except Exception as error:
        cause, remedy = explain(error.__cause__ or error)  # a DeviceError holds what CUDA or CuPy said
        return CudaState(False, f"{state.summary}; on device {device}, {cause}", remedy)
    if not right:
        return CudaState(
            False, f"{state.summary}; device {device} computes wrong numbers", "see what nvidia-smi -q says"
        )
    return state


# Needs the compiler, its headers and the device; adds 1 to numbers that are exact in 16 bits.
PROBE = SimpleNamespace(
    name="probe",
    options=(),
    text="""
#include <cuda_fp16.h>
#include <cuda_bf16.h>
extern "C" __global__ void probe(float* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = __half2float(__float2half_rn(x[i])) + __bfloat162float(__float2bfloat16_rn(1.0f));
}
""",
)


def _computes(driver: Driver) -> bool:
    x = np.arange(32, dtype=np.float32).reshape(4, 8)
    a, out = driver.to_device(x), driver.empty((4, 4), np.float32)
    driver.kernel(PROBE)((1, 1, 1), 64, (a, np.int32(x.size)))
    spec = GemmSpec(1, 4, 4, 8, False, True, 0, 0, 0, "float32", "float32", "float32")
    driver.gemm(spec)(a, a, out)
    return np.array_equal(driver.to_host(out), (x + 1) @ (x + 1).T)


def _installed_wheels() -> list[str]:
    """CuPy's distributions with their versions; CuPy is published under one name per CUDA version."""
    found = {
        f"{name} {distribution.version}"
        for distribution in importlib.metadata.distributions()
        if (name := distribution.name) and re.fullmatch(r"cupy(-cuda\d+x?|-rocm[-\d]+)?", name.lower())
    }
    return sorted(found)


def _installed_driver() -> int | None:
    """The CUDA version of the NVIDIA driver, found without CuPy: 13000 for 13.0, 0 if unknown; None if none is here."""
    try:
        version = ctypes.c_int()
        cuda_driver().cuDriverGetVersion(ctypes.byref(version))
        return version.value
    except (OSError, AttributeError):
        return 0 if shutil.which("nvidia-smi") else None


def _not_installed() -> CudaState:
    driver = _installed_driver()
    if driver is None:
        return CudaState(False, "CuPy is not installed", INSTALL, installed=False)
    remedy = INSTALL
    if driver:
        remedy = f"pip install 'gpubp[{'cuda13' if driver >= 13000 else 'cuda12'}]'"
        remedy = remedy if driver >= 12000 else f"update the driver to CUDA 12 or 13, then {INSTALL}"
    summary = f"an NVIDIA driver{f' for {_cuda(driver)}' if driver else ''} is here, CuPy is not"
    return CudaState(False, summary, remedy, installed=False, without_cupy=True)


def _cuda(version: int) -> str:
    """13000 is CUDA 13.0."""
    return f"CUDA {version // 1000}.{version % 1000 // 10}"


def _import_failed(error: Exception, wheels: list[str]) -> CudaState:
    if not wheels and isinstance(error, ModuleNotFoundError) and error.name == "cupy":
        return _not_installed()
    listed = f" ({', '.join(wheels)})" if wheels else ""
    remedy = _reinstall(wheels) if wheels else INSTALL
    return CudaState(False, f"CuPy{listed} cannot be imported: {one_line(error)}", remedy)


def _look_at_devices(runtime: Any, named: str) -> CudaState:
    # 0 means that there is no driver at all; CuPy's own error then complains of one that is too old.
    driver = runtime.driverGetVersion()
    if driver == 0:
        return CudaState(False, f"{named}, but {NO_DRIVER}", INSTALL_DRIVER)
    named = f"{named}, driver for {_cuda(driver)}"
    try:
        count = runtime.getDeviceCount()
        names = [runtime.getDeviceProperties(i)["name"].decode() for i in range(count)]
    except Exception as error:
        cause, remedy = explain(error)
        return CudaState(False, f"{named}, but {cause}", remedy)
    if count == 0:
        return CudaState(False, f"{named}, but {NO_DEVICE}", SEE_DEVICES)
    return CudaState(True, f"{named}, {count} device{'' if count == 1 else 's'}: {', '.join(names)}")


def _reinstall(wheels: list[str]) -> str:
    return f"pip uninstall {' '.join(wheel.split()[0] for wheel in wheels)}; then {INSTALL}"
