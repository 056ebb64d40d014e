"""Fixtures that the tests of estimators share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from gpubp.backends.cuda.backend import CudaBackend
from support.cuda_host.arrays import DeviceArray
from support.estimators import compute_on
from support.machines import BACKENDS, GPU_BACKENDS, backend_parameter, host_driver


@pytest.fixture
def estimators_on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``estimators_on(machine)``: what estimators compute on in this test; see `support.estimators.compute_on`."""
    return functools.partial(compute_on, monkeypatch=monkeypatch)


@pytest.fixture(params=[backend_parameter(f"{name}-float64", name) for name in ("reference", "compiled", "cuda-host")])
def machine(request: pytest.FixtureRequest, estimators_on: Callable[..., None]) -> str:
    """Estimators compute on each backend in turn."""
    {**BACKENDS, **GPU_BACKENDS}[f"{request.param}-float64"]()  # skips where it cannot be
    estimators_on(request.param)
    return str(request.param)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, estimators_on: Callable[..., None]) -> SimpleNamespace:
    """A driver whose arrays pass for CuPy's, in place of device "auto", and the sizes of what it copies to the host."""
    driver, copied = host_driver(), []
    get = DeviceArray.get

    def counted(array: DeviceArray) -> np.ndarray:
        copied.append(array.size)
        return get(array)

    monkeypatch.setitem(sys.modules, "cupy", driver.xp)
    monkeypatch.setattr(DeviceArray, "__module__", "cupy")
    monkeypatch.setattr(DeviceArray, "__cuda_array_interface__", {}, raising=False)
    monkeypatch.setattr(DeviceArray, "get", counted)
    estimators_on(lambda precision: CudaBackend(driver, precision), device="auto")
    return SimpleNamespace(to_device=driver.to_device, copied=copied)
