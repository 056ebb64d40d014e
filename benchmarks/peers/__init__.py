"""Who takes part in the step benchmarks: one small file per peer, behind one interface.

A peer's module has ``prepare(task) -> PeerSteps`` and ``VERSIONS``, the distributions whose versions matter. What
it needs is imported inside `prepare`, which raises `UnavailableError` where the peer cannot take part.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import time
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Protocol

from benchmarks.cases import Task
from gpubp.bench.steps import sample


class UnavailableError(Exception):
    """The peer cannot take part here; the message says why, in one line."""


class PeerSteps(Protocol):
    """Training steps of a task, ready to be taken. Selecting the batch from resident rows belongs to a step."""

    def run(self, count: int) -> None:
        """Launch the next `count` steps; after the last batch of the order comes the first again."""

    def wait(self) -> None:
        """Until all of them are done."""

    def weights(self) -> list[Any]:
        """W (n_in, n_out) and b (n_out,) of every layer in turn, on the host; empty for what trains nothing."""


# Module and options of every contender by name, and who takes part where.
CONTENDERS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "gpubp": ("benchmarks.peers.gpubp_steps", {"device": "cuda"}),
    "gpubp cuda-unfused": ("benchmarks.peers.gpubp_steps", {"device": "cuda-unfused"}),
    "gpubp cpu": ("benchmarks.peers.gpubp_steps", {"device": "cpu"}),
    "gpubp cpu-reference": ("benchmarks.peers.gpubp_steps", {"device": "cpu-reference"}),
    "torch eager": ("benchmarks.peers.torch_eager", {}),
    "torch compile": ("benchmarks.peers.torch_compile", {}),
    "torch compile autotuned": ("benchmarks.peers.torch_compile", {"mode": "max-autotune"}),
    "torch graph": ("benchmarks.peers.torch_graph", {}),
    "jax jit": ("benchmarks.peers.jax_jit", {}),
    "jax scan": ("benchmarks.peers.jax_scan", {}),
    "scikit-learn": ("benchmarks.peers.sklearn_fit", {}),
    "thinc": ("benchmarks.peers.thinc_model", {}),
    "bare GEMMs": ("benchmarks.peers.floors", {"what": "gemms"}),
    "bare GEMMs cpu": ("benchmarks.peers.floors", {"what": "gemms", "device": "cpu"}),
    "copy": ("benchmarks.peers.floors", {"what": "copy"}),
    "gpubp stack": ("benchmarks.peers.gpubp_steps", {"device": "cuda"}),
    "gpubp stack cpu": ("benchmarks.peers.gpubp_steps", {"device": "cpu"}),
    "torch vmap": ("benchmarks.peers.torch_vmap", {}),
    "torch vmap compile": ("benchmarks.peers.torch_vmap", {"compiled": True}),
    "torch vmap graph": ("benchmarks.peers.torch_vmap", {"captured": True}),
    "torch vmap compile graph": ("benchmarks.peers.torch_vmap", {"compiled": True, "captured": True}),
    "jax vmap jit": ("benchmarks.peers.jax_vmap", {"scanned": False}),
    "jax vmap scan": ("benchmarks.peers.jax_vmap", {"scanned": True}),
}
ON_A_CPU = (
    *("gpubp cpu", "gpubp cpu-reference", "torch eager", "torch compile", "jax jit", "jax scan"),
    *("scikit-learn", "thinc", "bare GEMMs cpu"),
)
WITH_STACKS = (
    *("torch vmap", "torch vmap compile", "torch vmap graph", "torch vmap compile graph"),
    *("jax vmap jit", "jax vmap scan"),
)


class Contender:
    """One of `CONTENDERS` at work, in whatever process holds this object."""

    def __init__(self, name: str) -> None:
        module, self.options = CONTENDERS[name]
        self.module: ModuleType = importlib.import_module(module)
        self.steps: PeerSteps | None = None

    def prepare(self, task: Task) -> dict[str, str]:
        """Get ready for a task; the versions of what will compute it."""
        self.steps = None
        gc.collect()  # so that the last task's memory is free
        self.steps = self.module.prepare(task, **self.options)
        return {name: number for name in self.module.VERSIONS if (number := version(name))}

    def take(self, count: int) -> float:
        """Take `count` steps; seconds from the first launch until the device is done."""
        assert self.steps is not None, "no task has been prepared"
        start = time.perf_counter()
        self.steps.run(count)
        self.steps.wait()
        return time.perf_counter() - start

    def seconds(self, count: int) -> float:
        """Seconds of `count` steps, right after as many that are not measured."""
        self.take(count)
        return self.take(count)

    def weights_after(self, count: int) -> list[Any]:
        """Take `count` steps; evenly spread elements of every tensor then."""
        self.take(count)
        assert self.steps is not None
        return [sample(tensor) for tensor in self.steps.weights()]


def require(name: str) -> ModuleType:
    """Import a peer's library, or say that it is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != name.partition(".")[0]:
            raise
        raise UnavailableError(f"{name} is not installed") from None


def version(distribution: str) -> str:
    """A distribution's version, empty where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
