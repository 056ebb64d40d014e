"""PyTorch with whole steps, batch selection and fused Adam included, captured by hand into a CUDA graph.

The strongest form that PyTorch offers: as many steps in a graph as gpubp has, so that neither pays the gap
between two launches more often.
"""

from __future__ import annotations

from typing import Any

from benchmarks.cases import Task
from benchmarks.peers import UnavailableError
from benchmarks.peers.torch_model import VERSIONS, TorchSteps
from gpubp.backends.cuda.graph import UNROLLED

__all__ = ["VERSIONS", "prepare"]


def prepare(task: Task) -> GraphSteps:
    """The steps, captured."""
    if task.device != "cuda":
        raise UnavailableError("CUDA graphs need a CUDA device")
    return GraphSteps(task)


class GraphSteps(TorchSteps):
    """Which batch is next is counted on the device."""

    def __init__(self, task: Task) -> None:
        super().__init__(task, capturable=True)
        torch = self.torch
        self.cursor = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.batches = self.order.view(task.workload.batches, task.workload.batch_size)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # libraries choose their algorithms and take their memory before a capture
                self.next_step()
        torch.cuda.current_stream().wait_stream(side)
        self.graphs = {count: self.capture(count) for count in (UNROLLED, 1)}
        self.start_again()

    def next_step(self) -> None:
        """The step that the cursor points at."""
        self.step(self.batches.index_select(0, self.cursor)[0])
        self.cursor.add_(1).remainder_(len(self.batches))

    def capture(self, count: int) -> Any:
        """A graph of `count` steps."""
        self.optimizer.zero_grad()  # so that gradients lie in the graph's own memory
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            for _ in range(count):
                self.next_step()
        return graph

    def start_again(self) -> None:
        """Undo what the warm-up did."""
        self.load_weights()
        for slots in self.optimizer.state.values():
            for slot in slots.values():
                slot.zero_()
        self.cursor.zero_()

    def run(self, count: int) -> None:
        """Replay."""
        for steps, graph in self.graphs.items():
            times, count = divmod(count, steps)
            for _ in range(times):
                graph.replay()
