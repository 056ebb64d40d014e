"""PyTorch as it is, with fused Adam."""

from __future__ import annotations

from benchmarks.cases import Task
from benchmarks.peers.torch_model import VERSIONS, TorchSteps

__all__ = ["VERSIONS", "prepare"]


def prepare(task: Task) -> TorchSteps:
    """The steps, one operation at a time."""
    return TorchSteps(task)
