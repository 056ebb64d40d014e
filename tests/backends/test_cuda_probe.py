"""What stands between gpubp and a GPU is found, and told with its remedy: each cause on a machine that has it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gpubp.backends import get_backend
from gpubp.backends.cuda import probe as probing
from gpubp.backends.cuda.faults import INSTALL
from gpubp.backends.cuda.probe import CudaState, probe, probe_device
from gpubp.bench import doctor
from gpubp.errors import DeviceError
from support import cuda_stubs
from support.cuda_stubs import (
    CompileException,
    CublasLtStub,
    CUDARuntimeError,
    CupyStub,
    DynamicLibNotFoundError,
    OutOfMemoryError,
)

TOO_OLD = CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version")
NO_DEVICE = CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
BUSY = CUDARuntimeError("cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy or unavailable")
FULL = OutOfMemoryError("Out of memory allocating 33,554,432 bytes (allocated so far: 0 bytes).")
NO_NVRTC = ImportError(
    'Failure finding "libnvrtc.so.13": No such file: libnvrtc.so.13\n  listdir("/x"):\n    libcuda.so'
)
NO_CUBLAS = DynamicLibNotFoundError('Failure finding "libcublasLt.so.13 or libcublasLt.so.12": No such file')
NO_HEADERS = CompileException('\nk.cu(2): catastrophic error: could not open source file "cuda_fp16.h"\n  #include')


@pytest.fixture(autouse=True)
def a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(probing, "_installed_wheels", lambda: ["cupy-cuda13x 14.2.0"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    probe_device.cache_clear()
    yield
    probe_device.cache_clear()


def machine(monkeypatch: pytest.MonkeyPatch, lt: CublasLtStub | None = None, **faults: Exception) -> CupyStub:
    """One with a GPU, on which these calls fail."""
    cupy = CupyStub(faults)
    cuda_stubs.install(monkeypatch, cupy, lt or CublasLtStub())
    return cupy


def check(state: CudaState, cause: str, remedy: str) -> None:
    assert not state.usable
    assert re.search(cause, state.summary), state.summary
    assert re.search(remedy, state.remedy), state.remedy
    assert "\n" not in state.summary + state.remedy


def test_a_machine_that_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    lt = CublasLtStub()
    cupy = machine(monkeypatch, lt)
    state = probe_device()
    assert state == probe() == CudaState(True, "cupy-cuda13x 14.2.0, driver for CUDA 13.0, 1 device: GPU X")
    assert [name for name in ("launch of probe", "copy") if name in cupy.log] == ["launch of probe", "copy"]
    assert "cuda_fp16.h" in cupy.sources[0] and "cuda_bf16.h" in cupy.sources[0]
    assert len(lt.products) == 1
    calls = len(cupy.log)
    assert probe_device() is state
    assert len(cupy.log) == calls  # looked at once


def test_1_cupy_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_installed_wheels", lambda: [])
    fails_to_import(monkeypatch, ModuleNotFoundError("No module named 'cupy'", name="cupy"))
    monkeypatch.setattr(probing, "_installed_driver", lambda: None)
    check(probe_device(), "^CuPy is not installed$", r"^pip install 'gpubp\[cuda13\]'")
    assert not probe_device().installed
    assert probe_device().reason == "no GPU: CuPy is not installed"


@pytest.mark.parametrize(
    ("driver", "named", "remedy"),
    [
        (13000, " for CUDA 13.0", "pip install 'gpubp[cuda13]'"),
        (12080, " for CUDA 12.8", "pip install 'gpubp[cuda12]'"),
        (11080, " for CUDA 11.8", f"update the driver to CUDA 12 or 13, then {INSTALL}"),
        (0, "", INSTALL),
    ],
)
def test_1_there_is_a_driver_without_cupy(
    monkeypatch: pytest.MonkeyPatch, driver: int, named: str, remedy: str
) -> None:
    monkeypatch.setattr(probing, "_installed_wheels", lambda: [])
    monkeypatch.setattr(probing, "_installed_driver", lambda: driver)
    fails_to_import(monkeypatch, ModuleNotFoundError("No module named 'cupy'", name="cupy"))
    said = f"an NVIDIA driver{named} is here, CuPy is not"
    state = probe_device()
    assert (state.summary, state.remedy, state.installed) == (said, remedy, False)
    assert get_backend("auto").reason.startswith(f"{said}: {remedy}")
    with pytest.raises(DeviceError, match=re.escape(f'device "cuda": {said}; {remedy}')):
        get_backend("gpu")
    assert (doctor._cupy().found, doctor._cupy().warning) == (said, remedy)


def test_1_how_a_driver_is_found_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_version(pointer: Any) -> int:
        pointer._obj.value = 12080
        return 0

    monkeypatch.setattr("shutil.which", lambda name: None)
    loaded: dict[str, Any] = {"library": SimpleNamespace(cuDriverGetVersion=get_version)}
    monkeypatch.setattr(probing, "cuda_driver", lambda: loaded["library"])
    assert probing._installed_driver() == 12080
    loaded["library"] = SimpleNamespace()  # which is no driver
    assert probing._installed_driver() is None
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi" if name == "nvidia-smi" else None)
    assert probing._installed_driver() == 0


@pytest.mark.parametrize(
    "error",
    [ModuleNotFoundError("No module named 'cupy'", name="cupy"), ImportError("\n===\nFailed to import CuPy.\n")],
)
def test_2_cupy_is_listed_but_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    fails_to_import(monkeypatch, error)
    check(
        probe_device(), r"cupy-cuda13x 14\.2\.0.*cannot be imported: \w+Error", "^pip uninstall cupy-cuda13x; then pip"
    )
    assert probe_device().installed


def test_3_two_wheels_of_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    monkeypatch.setattr(probing, "_installed_wheels", lambda: ["cupy-cuda12x 13.6.0", "cupy-cuda13x 14.2.0"])
    check(probe_device(), "overwrite each other", "^pip uninstall cupy-cuda12x cupy-cuda13x; then pip install")


def test_4_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = machine(monkeypatch, getDeviceCount=TOO_OLD)
    cupy.cuda.runtime.driverGetVersion = lambda: 0
    check(probe_device(), "no NVIDIA driver is installed", "install the NVIDIA driver")


def test_5_the_driver_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = machine(monkeypatch, getDeviceCount=TOO_OLD)
    cupy.cuda.runtime.driverGetVersion = lambda: 11080
    check(probe_device(), r"driver for CUDA 11\.8, but the NVIDIA driver is too old", "update the NVIDIA driver, or")


@pytest.mark.parametrize("hidden", [False, True])
def test_6_no_device_is_visible(monkeypatch: pytest.MonkeyPatch, hidden: bool) -> None:
    machine(monkeypatch, getDeviceCount=NO_DEVICE)
    if hidden:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    check(probe_device(), "no such device is visible", 'CUDA_VISIBLE_DEVICES="-1" may' if hidden else "nvidia-smi -L")


def test_6_no_device_without_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch).cuda.runtime.getDeviceCount = lambda: 0
    check(probe_device(), "no such device is visible", "nvidia-smi -L")


def test_6_a_device_with_too_high_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Device=CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal"))
    assert probe().usable
    check(probe_device(3), "on device 3, no such device is visible", "nvidia-smi -L")


@pytest.mark.parametrize("error", [NO_NVRTC, NO_HEADERS, NO_CUBLAS])
def test_7_a_part_of_the_toolkit_is_missing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    lt = CublasLtStub()
    if error is NO_CUBLAS:
        lt.fault = error
        machine(monkeypatch, lt)
    else:
        machine(monkeypatch, compile=error)
    assert probe().usable
    cause = "the CUDA headers are missing" if error is NO_HEADERS else "a library of the CUDA toolkit is missing"
    check(probe_device(), f"on device 0, {cause}.*(libnvrtc|cuda_fp16|libcublasLt)", r"'gpubp\[cuda13\]'")


@pytest.mark.parametrize(("call", "error"), [("Stream", BUSY), ("Device", BUSY), ("allocation", FULL)])
def test_8_the_device_is_busy_or_full(monkeypatch: pytest.MonkeyPatch, call: str, error: Exception) -> None:
    machine(monkeypatch, **{call: error})
    check(probe_device(), "device is (busy|out of memory)", "^end other programs on the device")


# -- and what has no name yet --------------------------------------------------------------------------


def test_a_device_that_computes_wrong_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch).kernels["probe"] = lambda *arguments: None
    check(probe_device(), "device 0 computes wrong numbers", "nvidia-smi")


@pytest.mark.parametrize("error", [CUDARuntimeError("cudaErrorNew: odd"), RuntimeError(), TypeError("1\n2")])
def test_looking_never_raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    machine(monkeypatch, getDeviceCount=error)
    check(probe_device(), type(error).__name__, "gpubp doctor")
    probe_device.cache_clear()
    machine(monkeypatch, synchronize=error, copy=error)
    check(probe_device(), f"on device 0, {type(error).__name__}", "gpubp doctor")


@pytest.mark.parametrize("error", [NO_CUBLAS, OSError("libcublasLt.so.13: invalid ELF header"), RuntimeError()])
def test_7_cublaslt_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    lt = CublasLtStub()
    lt.fault = error
    machine(monkeypatch, lt)
    check(probe_device(), f"cuBLASLt cannot be loaded: {type(error).__name__}", r"'gpubp\[cuda13\]'")


def test_7_cuda_pathfinder_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    check(probe_device(), "cuda-pathfinder, which comes with CuPy, cannot", "^pip install --upgrade cuda-pathfinder")
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", ModuleType("cuda.pathfinder"))  # one from before it loaded
    probe_device.cache_clear()
    check(probe_device(), "cuda-pathfinder, which comes with CuPy, cannot", "^pip install --upgrade cuda-pathfinder")


def test_7_cublaslt_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    lt = CublasLtStub()
    lt.version = 111103
    machine(monkeypatch, lt)
    check(probe_device(), "on device 0, cuBLASLt is too old .*111103", "^update it: pip install")


def test_7_cublaslt_lacks_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    lt = CublasLtStub()
    del lt.cublasLtMatmul
    machine(monkeypatch, lt)
    check(probe_device(), "cuBLASLt cannot be loaded: AttributeError", "pip install")


@pytest.mark.parametrize("function", ["cublasLtCreate", "cublasLtMatmulDescCreate", "cublasLtMatmul"])
def test_a_cublaslt_that_fails(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    lt = CublasLtStub()
    lt.statuses[function] = 13
    machine(monkeypatch, lt)
    check(probe_device(), f"on device 0, CublasLtError: {function}: CUBLAS_STATUS_13", "gpubp doctor")


@pytest.mark.gpu
def test_gpu_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # this machine as it is
    if not probe().usable:
        pytest.skip(f"no CUDA device: {probe().summary}")
    assert probe_device() == probe()


def fails_to_import(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """``import cupy`` raises this."""

    class Finder:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> None:
            if name == "cupy":
                raise error

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
