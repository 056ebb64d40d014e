"""What ``gpubp doctor`` finds, on machines that are well and on machines that are not."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from gpubp.activations import ACTIVATIONS
from gpubp.backends.cuda import probe as probing
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.probe import probe
from gpubp.bench import doctor
from gpubp.cli.app import app
from gpubp.losses import LOSSES
from support.machines import host_driver

AVX512 = frozenset("avx avx2 fma avx512f avx512bw avx512dq avx512vl".split())
AVX2 = frozenset("avx avx2 fma".split())


def run_doctor() -> Any:
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, ["doctor"], prog_name="gpubp")


def test_doctor_passes_here() -> None:
    result = run_doctor()
    assert result.exit_code == 0, result.output
    for subject in ("gpubp", "Python", "numpy", "scikit-learn", "duckdb", "processor", "BLAS", "CuPy", "device"):
        assert f"\n{subject} " in f"\n{result.stdout}"
    assert "FAILED" not in result.stdout
    assert f"all {len(ACTIVATIONS) + len(LOSSES)} checks passed" in result.stdout


def test_doctor_checks_every_activation_and_loss() -> None:
    checks = {check.name: check for check in doctor.checks_of_this_machine()}
    assert all(check.ok for check in checks.values())
    for name in ACTIVATIONS:
        assert 0 < checks[f"float32 against float64, {name}"].error < 2e-6
    for name in LOSSES:
        assert checks[f"gradients, {name}"].error < 1e-13


def test_the_checks_compute_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubp.network.get_backend", lambda device, precision: CudaBackend(host_driver(), precision))
    assert all(check.ok for check in doctor.checks_of_this_machine())


@pytest.mark.parametrize("error", [1e-3, float("nan"), float("inf")])
def test_a_failed_check_is_shown_and_is_the_exit_code(monkeypatch: pytest.MonkeyPatch, error: float) -> None:
    monkeypatch.setattr(doctor, "_parity", lambda activation: error if activation == "gelu" else 0.0)
    result = run_doctor()
    assert result.exit_code == 1
    assert result.stdout.count("FAILED") == 2
    assert f"1 of {len(ACTIVATIONS) + len(LOSSES)} checks FAILED" in result.stdout


@pytest.mark.parametrize(
    ("variable", "family", "flags", "warned"),
    [
        ("OPENBLAS_CORETYPE", "Haswell", AVX512, "AVX2 kernels, though the processor has AVX-512"),
        ("OPENBLAS_CORETYPE", "ZEN", AVX512, "AVX2 kernels, though the processor has AVX-512"),
        ("OPENBLAS_CORETYPE", "Sandybridge", AVX2, "AVX kernels, though the processor has AVX2"),
        ("OPENBLAS_CORETYPE", "Prescott", AVX2, "SSE kernels, though the processor has AVX2"),
        ("MKL_ENABLE_INSTRUCTIONS", "AVX2", AVX512, "AVX2 kernels, though the processor has AVX-512"),
        ("MKL_CBWR", "COMPATIBLE,STRICT", AVX2, "SSE kernels, though the processor has AVX2"),
        ("BLIS_ARCH_TYPE", "haswell", AVX512, "AVX2 kernels, though the processor has AVX-512"),
        ("OPENBLAS_CORETYPE", "Haswell", AVX2, None),
        ("OPENBLAS_CORETYPE", "SkylakeX", AVX512, None),
        ("OPENBLAS_CORETYPE", "SkylakeX", AVX2, None),
        ("OPENBLAS_CORETYPE", "Haswell", frozenset(), None),
        ("OPENBLAS_CORETYPE", "NEOVERSEN1", AVX512, None),
        ("OPENBLAS_CORETYPE", "", AVX512, None),
        ("SOMETHING_ELSE", "Haswell", AVX512, None),
    ],
)
def test_pinned_kernels(variable: str, family: str, flags: frozenset[str], warned: str | None) -> None:
    found = doctor.slow_kernels({variable: family}, flags)
    assert [finding.warning for finding in found] == ([f"slower {warned}; unset {variable}"] if warned else [])


def test_a_pinned_blas_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: AVX512)
    assert "unset OPENBLAS_CORETYPE" in run_doctor().stdout


def test_idle_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in doctor.THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "cpu_count", lambda: 8)
    assert doctor._few_threads(8) == ""
    assert doctor._few_threads(1) == ""  # nobody asked for it: BLAS knows its reasons
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert "OMP_NUM_THREADS=2 leaves 6 of 8 cores idle" in doctor._few_threads(2)


@pytest.mark.parametrize("text", ["", "flags\t\t: fpu avx avx2\nflags : x\n", "Features : asimd\n"])
def test_odd_processors(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(doctor, "_cpuinfo", lambda: text)
    assert doctor._cpu_flags() == (frozenset({"fpu", "avx", "avx2"}) if "fpu" in text else frozenset())
    assert "to use" in doctor._processor()


def test_blas_without_threadpoolctl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    (finding,) = doctor._blas()
    assert finding.subject == "BLAS"
    assert finding.found


def test_a_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name in ("duckdb", "h5py"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {finding.subject: finding for finding in doctor.findings()}
    assert (found["duckdb"].found, found["duckdb"].warning) == ("not installed", "pip install duckdb")
    assert "gpubp[hdf5]" in found["h5py"].found
    assert not found["h5py"].warning


# -- CuPy ----------------------------------------------------------------------------------------------


def fake_cupy(monkeypatch: pytest.MonkeyPatch, wheels: tuple[str, ...] = ("cupy-cuda13x",), **runtime: Any) -> None:
    """A CuPy whose CUDA runtime answers with these values, or raises them."""

    def answer(value: Any) -> Any:
        def function(*arguments: Any) -> Any:
            if isinstance(value, Exception):
                raise value
            return value

        return function

    module: Any = ModuleType("cupy")
    module.cuda = SimpleNamespace(runtime=SimpleNamespace(**{name: answer(v) for name, v in runtime.items()}))
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(probing, "_installed_wheels", lambda: [f"{name} 14.2.0" for name in wheels])


def fails_to_import(monkeypatch: pytest.MonkeyPatch, error: Exception, wheels: list[str]) -> None:
    class Finder:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> None:
            if name == "cupy":
                raise error

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    monkeypatch.setattr(probing, "_installed_wheels", lambda: wheels)


def test_cupy_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    fails_to_import(monkeypatch, ModuleNotFoundError("No module named 'cupy'", name="cupy"), [])
    monkeypatch.setattr(probing, "_installed_driver", lambda: None)
    state = probe()
    assert (state.usable, state.installed, state.summary) == (False, False, "CuPy is not installed")
    assert state.remedy.startswith("pip install")
    assert doctor._cupy().found.startswith("not installed (optional: pip install")
    assert doctor._cupy().warning == ""  # nothing is wrong with a machine without a GPU


def test_cupy_is_listed_but_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is after one of two CuPy wheels was uninstalled."""
    fails_to_import(monkeypatch, ModuleNotFoundError("No module named 'cupy'", name="cupy"), ["cupy-cuda12x 14.2.0"])
    state = probe()
    assert not state.usable
    assert "cupy-cuda12x 14.2.0" in state.summary
    assert "pip uninstall cupy-cuda12x" in state.remedy


@pytest.mark.parametrize(
    "error",
    [
        ImportError("\n====\nFailed to import CuPy.\nlibnvrtc.so.13: cannot open\n===="),
        OSError("libcuda.so.1: invalid ELF header"),
        RuntimeError(),
    ],
)
def test_cupy_is_broken(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    fails_to_import(monkeypatch, error, ["cupy-cuda13x 14.2.0"])
    state = probe()
    assert not state.usable
    assert "cannot be imported: " + type(error).__name__ in state.summary
    assert "\n" not in state.summary
    assert state.remedy
    result = run_doctor()
    assert result.exit_code == 0
    assert "cannot be imported" in result.stdout


def test_two_wheels_of_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy(monkeypatch, ("cupy-cuda12x", "cupy-cuda13x"), driverGetVersion=13000, getDeviceCount=1)
    state = probe()
    assert not state.usable
    assert "overwrite each other" in state.summary
    assert "pip uninstall cupy-cuda12x cupy-cuda13x" in state.remedy


def test_cupy_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy(monkeypatch, driverGetVersion=0, getDeviceCount=RuntimeError("driver version is insufficient"))
    state = probe()
    assert not state.usable
    assert "no NVIDIA driver" in state.summary


@pytest.mark.parametrize("visible", [None, ""])
def test_cupy_without_a_device(monkeypatch: pytest.MonkeyPatch, visible: str | None) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    error = RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    fake_cupy(monkeypatch, driverGetVersion=13000, getDeviceCount=error)
    state = probe()
    assert not state.usable
    assert "cudaErrorNoDevice" in state.summary
    assert ("CUDA_VISIBLE_DEVICES" in state.remedy) == (visible is not None)


def test_cupy_with_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy(monkeypatch, driverGetVersion=12080, getDeviceCount=2, getDeviceProperties={"name": b"GPU X"})
    state = probe()
    assert state.usable
    assert state.summary == "cupy-cuda13x 14.2.0, driver for CUDA 12.8, 2 devices: GPU X, GPU X"


def test_the_wheels_here_can_be_listed() -> None:
    assert all(wheel.startswith("cupy") for wheel in probing._installed_wheels())


def test_cores_are_those_of_this_process() -> None:
    assert 1 <= doctor.cpu_count() <= (os.cpu_count() or 1)
