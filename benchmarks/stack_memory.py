"""What the training of a stack takes at its peak, beside what `MLP.memory` says."""

from __future__ import annotations

from typing import Any

import gpubp
from benchmarks.parts import Part
from benchmarks.process import forget_peak, status
from benchmarks.stack_cases import StackWorkload
from gpubp.backends import Backend, get_backend

BESIDE = 100e6  # bytes that a training may take besides the stack and its data


def trained(backend: Backend, workload: StackWorkload, X: Any, y: Any, **options: Any) -> dict[str, float]:
    """Two epochs; the bytes of the stack, as it says itself, and of the data."""
    net = gpubp.MLP(workload.layer_sizes, workload.activation, models=workload.models, device=backend)
    gpubp.train(net, X, y, batch_size=workload.batch_size, epochs=2, **options)
    return {"stack": net.memory(workload.batch_size)["total"], "data": X.nbytes + y.nbytes}


class HostMemory:
    """In a process of its own."""

    def training(self, workload: StackWorkload) -> dict[str, float]:
        """Bytes of the data and of what the resident memory grows by at its peak, and those that are planned."""
        backend = get_backend("cpu")
        X, y, _ = workload.members[0].rows
        small = StackWorkload(workload.layer_sizes, 8, 2, models=2)
        trained(backend, small, X[:16], y[:16])  # loads what any training needs
        forget_peak()
        before = status("VmRSS")
        planned = trained(backend, workload, X, y)
        return {"peak": planned["data"] + status("VmHWM") - before, **planned}


class DeviceMemory:
    """In a process of its own, whose pool nobody else fills."""

    def training(self, workload: StackWorkload) -> dict[str, float]:
        """Bytes that CuPy's pool takes of the device, most of what is used at an epoch's end, and those planned.

        The pool gives nothing back, so what it takes is the peak or more.
        """
        backend = get_backend("cuda")
        import cupy

        X, y, _ = workload.members[0].rows
        pool, used = cupy.get_default_memory_pool(), [0]
        pool.free_all_blocks()
        before = pool.total_bytes()
        planned = trained(backend, workload, X, y, callbacks=[lambda *_: used.append(pool.used_bytes())])
        return {"peak": pool.total_bytes() - before, "used": max(used), **planned}


def memory_row(part: Part, workload: StackWorkload, memory: dict[str, float], what: str, bar: str = "") -> None:
    """Whether the peak stays below what is planned, the data and BESIDE."""
    bound = memory["stack"] + memory["data"] + BESIDE
    planned = f"{memory['stack'] / 1e6:.0f} MB by MLP.memory, data {memory['data'] / 1e6:.0f} MB"
    part.computed(
        f"{workload.name}: a training's {what}",
        f"<= {bound / 1e6:.0f} MB",
        f"{memory['peak'] / 1e6:.0f} MB ({planned})",
        memory["peak"] <= bound,
        bar,
    )
    part.figures.append({"network": workload.name, "memory": memory})
