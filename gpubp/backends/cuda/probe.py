"""What CuPy and the CUDA driver can do on this machine. Looking never raises."""

from __future__ import annotations

import importlib.metadata
import os
import re
import warnings
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CudaState:
    """What was found.

    Attributes
    ----------
    usable : bool
        Whether CuPy imports and sees at least one device.
    found : str
        One line: versions and devices, or what stands in the way.
    remedy : str
        What to install or set; empty where nothing is to be done.
    """

    usable: bool
    found: str
    remedy: str = ""


INSTALL = "pip install 'cupy-cuda13x[ctk]' (or 'cupy-cuda12x[ctk]' for drivers before CUDA 13)"


def probe() -> CudaState:
    """Import CuPy if it is installed, and count the devices."""
    wheels = _installed_wheels()
    try:
        with warnings.catch_warnings():  # CuPy warns of several wheels at once; so does this function
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
        return CudaState(False, f"{named}, but the CUDA runtime fails: {_one_line(error)}", _driver_remedy())


def _installed_wheels() -> list[str]:
    """CuPy's distributions with their versions; CuPy is published under one name per CUDA version."""
    found = {
        f"{name} {distribution.version}"
        for distribution in importlib.metadata.distributions()
        if (name := distribution.name) and re.fullmatch(r"cupy(-cuda\d+x?|-rocm[-\d]+)?", name.lower())
    }
    return sorted(found)


def _import_failed(error: Exception, wheels: list[str]) -> CudaState:
    if not wheels and isinstance(error, ModuleNotFoundError) and error.name == "cupy":
        return CudaState(False, "not installed")
    listed = f" ({', '.join(wheels)})" if wheels else ""
    remedy = _reinstall(wheels) if wheels else INSTALL
    return CudaState(False, f"CuPy{listed} cannot be imported: {_one_line(error)}", remedy)


def _look_at_devices(runtime: Any, named: str) -> CudaState:
    # 0 means that no driver is there at all; CuPy's own error then speaks of one that is too old.
    driver = runtime.driverGetVersion()
    if driver == 0:
        return CudaState(False, f"{named}, but no NVIDIA driver", "install the NVIDIA driver, if there is a GPU")
    count = runtime.getDeviceCount()
    names = [runtime.getDeviceProperties(i)["name"] for i in range(count)]
    devices = ", ".join(name.decode() if isinstance(name, bytes) else str(name) for name in names)
    cuda = f"{driver // 1000}.{driver % 1000 // 10}"
    number = f"{count} device{'' if count == 1 else 's'}"
    return CudaState(True, f"{named}, driver for CUDA {cuda}, {number}: {devices}")


def _driver_remedy() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f'CUDA_VISIBLE_DEVICES="{visible}" may hide the devices: unset it; else see what nvidia-smi says'
    return "see what nvidia-smi says, and update the NVIDIA driver"


def _reinstall(wheels: list[str]) -> str:
    return f"pip uninstall {' '.join(wheel.split()[0] for wheel in wheels)}; then {INSTALL}"


def _one_line(error: Exception) -> str:
    lines = [line.strip(" =") for line in str(error).splitlines()]
    text = next((line for line in lines if line), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
