"""gpubp itself, a network or a stack: fused and captured on a GPU, its formulas as plain CuPy there, or on the CPU."""

from __future__ import annotations

from benchmarks.cases import Task
from benchmarks.devices import open_backend
from gpubp.bench.steps import Steps

VERSIONS = ("cupy-cuda13x", "cupy-cuda12x", "nvidia-cublas", "numba", "numpy")


def prepare(task: Task, device: str) -> Steps:
    """The steps on a device of gpubp's."""
    return Steps(task.workload, open_backend(device, task.precision, task.dry_run), learning_rate=task.learning_rate)
