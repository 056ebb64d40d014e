"""What no step can do without: its bare GEMMs, captured as the step is, and moving bytes at the device's copy rate."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import Task
from benchmarks.devices import open_backend
from gpubp.backends import Backend
from gpubp.backends.compiled import CompiledBackend
from gpubp.bench.steps import BareGemms

VERSIONS = ("cupy-cuda13x", "cupy-cuda12x", "nvidia-cublas", "numba", "numpy")
COPIED = 256 << 20  # bytes: several times what caches hold


def prepare(task: Task, what: str, device: str = "cuda") -> Gemms | Copies:
    """The "gemms" of the task's step on a device of gpubp's, or a "copy" of 256 MiB there as its step."""
    backend = open_backend(device, task.precision, task.dry_run)
    if isinstance(backend, CompiledBackend):
        backend.register_bytes = 0  # BLAS's products alone
    return Gemms(task.workload, backend) if what == "gemms" else Copies(backend, copied(task.dry_run))


def copied(dry_run: bool) -> int:
    """Bytes of the array that is copied."""
    return 1 << 15 if dry_run else COPIED


class Gemms(BareGemms):
    """The products, which train nothing."""

    def weights(self) -> list[Any]:
        """None."""
        return []


class Copies:
    """Copies an array again and again."""

    def __init__(self, backend: Backend, nbytes: int) -> None:
        tile = np.random.default_rng(3).random(1 << 14, dtype=np.float32)
        self.backend = backend
        self.source = backend.from_host(np.resize(tile, nbytes // 4))
        self.target = backend.empty(self.source.shape, np.float32)
        self.last = backend.zeros((1,))

    def run(self, count: int) -> None:
        """Launch the copies."""
        for _ in range(count):
            self.target[...] = self.source

    def wait(self) -> None:
        """Copying to the host waits for all work before it."""
        self.backend.to_host(self.last)

    def weights(self) -> list[Any]:
        """None."""
        return []
