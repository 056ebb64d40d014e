"""PyTorch with `torch.compile` over the network and its loss, on a GPU with CUDA graphs of its own."""

from __future__ import annotations

from typing import Any

from benchmarks.cases import Task
from benchmarks.peers.torch_model import VERSIONS, TorchSteps

__all__ = ["VERSIONS", "prepare"]


def prepare(task: Task) -> TorchSteps:
    """The steps, with forward and backward pass compiled; fused Adam is one kernel already."""
    return CompiledSteps(task)


class CompiledSteps(TorchSteps):
    """The loss, and with it the gradient, is compiled when it is first called."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        options: dict[str, str] = {}
        if task.dry_run:
            options = {"backend": "aot_eager"}  # traces both passes, but generates no code
        elif task.device == "cuda":
            options = {"mode": "reduce-overhead"}
        self.torch.compiler.reset()  # what was compiled for the last task
        self.compiled = self.torch.compile(super().loss, fullgraph=True, dynamic=False, **options)

    def loss(self, X: Any, y: Any) -> Any:
        """Mean cross-entropy of a batch."""
        return self.compiled(X, y)
