"""PyTorch with `torch.compile` over the network and its loss, on a GPU with CUDA graphs of its own."""

from __future__ import annotations

from typing import Any

from benchmarks.cases import Task
from benchmarks.peers.torch_model import VERSIONS, TorchSteps

__all__ = ["VERSIONS", "prepare"]


def prepare(task: Task, mode: str = "reduce-overhead") -> TorchSteps:
    """The steps, with forward and backward pass compiled; fused Adam is one kernel already.

    "max-autotune" also tries matrix products of its own.
    """
    return CompiledSteps(task, mode)


class CompiledSteps(TorchSteps):
    """The loss, and with it the gradient, is compiled before the first step."""

    def __init__(self, task: Task, mode: str) -> None:
        super().__init__(task)
        options: dict[str, str] = {}
        if task.dry_run:
            options = {"backend": "aot_eager"}  # traces both passes, but generates no code
        elif task.device == "cuda":
            options = {"mode": mode}
        self.torch.compiler.reset()  # what was compiled for the last task
        self.compiled = self.torch.compile(super().loss, fullgraph=True, dynamic=False, **options)
        self.compile()

    def compile(self) -> None:
        """Compute a gradient, which changes no weight."""
        rows = self.order[: self.task.workload.batch_size]
        self.loss(self.X.index_select(0, rows), self.y.index_select(0, rows)).backward()
        self.optimizer.zero_grad()
        self.wait()

    def loss(self, X: Any, y: Any) -> Any:
        """Mean cross-entropy of a batch."""
        return self.compiled(X, y)
