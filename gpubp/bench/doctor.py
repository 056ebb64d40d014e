"""The findings of ``gpubp doctor``: what this machine can run, why, and what to install or set.

Nothing here prints. `findings` inspects the machine; `checks_of_this_machine` computes: float32 against float64, and
the four equations against complex-step differentiation.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpubp._typing import Array
from gpubp.activations import ACTIVATIONS
from gpubp.backends import get_backend
from gpubp.backends.blas_threads import cpu_count
from gpubp.backends.cuda.probe import probe
from gpubp.diagnostics import check_gradients
from gpubp.losses import LOSSES, Loss
from gpubp.network import MLP

REQUIRED = ("numpy", "scipy", "scikit-learn", "safetensors", "rich", "typer", "duckdb")
OPTIONAL = {
    "numba": "pip install 'gpubp[cpu]' to compile the CPU's loops",
    "h5py": "pip install 'gpubp[hdf5]' to read .h5 files",
}

# Kernels that OpenBLAS, MKL and BLIS may be told to use, from the slowest to the fastest, with the processor flags that
# they need. Families that are not listed (other architectures') are never judged.
LEVELS = ("SSE", "AVX", "AVX2", "AVX-512")
FLAGS: tuple[tuple[str, ...], ...] = (
    (),
    ("avx",),
    ("avx2", "fma"),
    ("avx512f", "avx512bw", "avx512dq", "avx512vl"),
)
FAMILIES: dict[str, int] = {
    **dict.fromkeys(("prescott", "core2", "penryn", "dunnington", "nehalem", "atom", "barcelona", "bobcat"), 0),
    **dict.fromkeys(("generic", "compatible", "sse2", "sse3", "ssse3", "sse4_2"), 0),
    **dict.fromkeys(("sandybridge", "bulldozer", "piledriver", "steamroller", "avx"), 1),
    **dict.fromkeys(("haswell", "zen", "zen2", "zen3", "excavator", "avx2"), 2),
    **dict.fromkeys(("skylakex", "skx", "cooperlake", "sapphirerapids", "avx512", "zen4"), 3),
}
PINS = ("OPENBLAS_CORETYPE", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "BLIS_ARCH_TYPE")
THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS")

PARITY_LIMIT = 1e-5  # normwise; the float32 unit roundoff is 6e-8, and a few layers of sums add to it


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the findings.

    Attributes
    ----------
    subject, found : str
        "BLAS", "OpenBLAS 0.3.31, SkylakeX kernels, 2 threads".
    warning : str
        What is wrong or slower than necessary, and what to install or set; empty if all is well.
    """

    subject: str
    found: str
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One computation on this machine.

    Attributes
    ----------
    name : str
    error, limit : float
        The largest relative error, and the allowed one.
    """

    name: str
    error: float
    limit: float

    @property
    def ok(self) -> bool:
        """Whether the error is a number within the limit."""
        return self.error <= self.limit


def findings() -> list[Finding]:
    """Versions, processor, BLAS, CuPy and the device that ``device="auto"`` picks."""
    backend = get_backend("auto")
    return [
        Finding("gpubp", _version("gpubp") or _source_version()),
        Finding("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"),
        *_packages(),
        Finding("processor", _processor()),
        *_blas(),
        *slow_kernels(os.environ, _cpu_flags()),
        _cupy(),
        Finding("device", f"{backend.device}: {backend.reason}"),
        *_gemm_table(backend.gemm_table),
        *_on_chip(backend),
    ]


def checks_of_this_machine() -> Iterator[Check]:
    """Parity of this machine's float32 with the reference's float64 for every activation, and gradients."""
    for name in ACTIVATIONS:
        yield Check(f"float32 against float64, {name}", _parity(name), PARITY_LIMIT)
    for name, make in LOSSES.items():
        net, X, y = _example(make(), "tanh", "float64")
        check = check_gradients(net, X, y)
        yield Check(f"gradients, {name}", max(check.errors.values()), check.tolerance)


def slow_kernels(environment: Mapping[str, str], flags: frozenset[str]) -> list[Finding]:
    """Warnings about environment variables that pin BLAS to slower kernels than the processor has.

    Parameters
    ----------
    environment : mapping
        ``os.environ``.
    flags : frozenset of str
        The processor's flags, as Linux names them; if they are unknown, it is empty and there are no warnings.
    """
    best = max((i for i, needed in enumerate(FLAGS) if flags.issuperset(needed)), default=0)
    warnings = []
    for variable in PINS:
        family = environment.get(variable, "")
        level = FAMILIES.get(family.split(",")[0].strip().lower())
        if flags and level is not None and level < best:
            warning = f"slower {LEVELS[level]} kernels, though the processor has {LEVELS[best]}; unset {variable}"
            warnings.append(Finding("BLAS kernels", f"{variable}={family}", warning))
    return warnings


def _packages() -> Iterator[Finding]:
    for name in REQUIRED:
        version = _version(name)
        yield Finding(name, version or "not installed", "" if version else f"pip install {name}")
    for name, remedy in OPTIONAL.items():
        yield Finding(name, _version(name) or f"not installed (optional: {remedy})")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cupy() -> Finding:
    state = probe()
    if state.installed or state.without_cupy:
        return Finding("CuPy", state.summary, state.remedy)
    return Finding("CuPy", f"not installed (optional: {state.remedy} to train on an NVIDIA GPU)")


def _on_chip(backend: Any) -> list[Finding]:
    """Whether small networks are trained on the chip, if a device can."""
    if not hasattr(backend, "on_chip"):
        return []
    room = f"trained on the chip where {backend.driver.shared_memory >> 10} KB of shared memory hold them"
    return [Finding("small networks", room if backend.on_chip else "trained as graphs, as GPUBP_ON_CHIP=0 asks")]


def _gemm_table(table: str | None) -> Iterator[Finding]:
    """The hash of the user's table, if there is one."""
    if table is not None:
        yield Finding("GEMM table", f"{table}, made by gpubp bench --tune")


def _source_version() -> str:
    import gpubp

    return f"{gpubp.__version__}, from a checkout"


def _processor() -> str:
    cores = cpu_count()
    text = _cpuinfo()
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    name = model[1].strip() if model else platform.processor() or platform.machine()
    return f"{name}, {cores} core{'s' if cores > 1 else ''} to use"


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpu_flags() -> frozenset[str]:
    flags = re.search(r"^flags\s*: (.*)$", _cpuinfo(), re.MULTILINE)
    return frozenset(flags[1].split()) if flags else frozenset()


def _blas() -> Iterator[Finding]:
    """NumPy's BLAS as threadpoolctl finds it in this process, or the one NumPy was built with."""
    libraries = _loaded_blas()
    for library in libraries:
        version = library.get("version") or "of unknown version"
        kernels = f", {library['architecture']} kernels" if library.get("architecture") else ""
        threads = int(library["num_threads"])
        description = f"{library['internal_api']} {version}{kernels}, {threads} thread{'s' if threads > 1 else ''}"
        yield Finding("BLAS", description, _few_threads(threads))
    if not libraries:
        built: Any = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        yield Finding("BLAS", f"{built.get('name', 'unknown')} {built.get('version', '')}".strip())


def _loaded_blas() -> list[dict[str, Any]]:
    """The BLAS libraries in this process that NumPy uses; SciPy's wheel carries one of its own."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return []
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    of_numpy = [library for library in libraries if "numpy" in str(library["filepath"]).lower()]
    return of_numpy or libraries


def _few_threads(threads: int) -> str:
    cores = cpu_count()
    limit = next((f"{name}={os.environ[name]}" for name in THREADS if os.environ.get(name)), None)
    if threads >= cores or limit is None:
        return ""
    return f"{limit} leaves {cores - threads} of {cores} cores idle; unset it unless others need them"


def _parity(activation: str) -> float:
    """The largest normwise error of outputs and gradients in float32, against float64 from the same weights."""
    narrow, X, y = _example(LOSSES["cross_entropy"](), activation, "float32")
    wide, _, _ = _example(LOSSES["cross_entropy"](), activation, "float64", "cpu-reference")
    for exact, rounded in zip((*wide.weights, *wide.biases), (*narrow.weights, *narrow.biases), strict=True):
        exact[...] = wide.stack.backend.from_host(narrow.stack.backend.to_host(rounded), wide.stack.backend.dtype)
    pairs = zip(_computed(narrow, X, y), _computed(wide, X, y), strict=True)
    return max(float(np.linalg.norm(rounded - exact) / np.linalg.norm(exact)) for rounded, exact in pairs)


def _computed(net: MLP, X: Array, y: Array) -> list[Array]:
    """Outputs and gradients, on the host."""
    _, grads = net.gradients(X, y)
    return [net.forward(X), *(net.stack.backend.to_host(g) for g in (*grads.weights, *grads.biases))]


def _example(loss: Loss, activation: str, precision: str, device: str = "auto") -> tuple[MLP, Array, Array]:
    """A small network with hidden layers, inputs that are exact in float32, and targets that fit the loss."""
    rng = np.random.default_rng(0)
    net = MLP([6, 8, 7, 4], activation, loss, seed=1, device=device, precision=precision)
    X = rng.normal(size=(32, 6)).astype(np.float32)
    if loss.integer_targets:
        return net, X, rng.integers(0, 4, 32)
    low, high = np.clip(loss.targets, -2.0, 2.0)
    values = rng.uniform(low, high, (32, 4))
    return net, X, np.rint(values) if loss.classification else values
