"""PyTorch with a stack of networks: `torch.func.vmap` over `stack_module_state`, and Adam's fused kernel for all."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import Task
from benchmarks.peers import UnavailableError, require
from benchmarks.peers.torch_model import ACTIVATIONS, VERSIONS
from benchmarks.stack_cases import network_by_network
from gpubp.backends.cuda.graph import UNROLLED

__all__ = ["VERSIONS", "prepare"]


def prepare(task: Task, compiled: bool = False, captured: bool = False) -> VmapSteps:
    """The steps in float32 or TF32, the gradient compiled or not, captured into CUDA graphs or not."""
    return (CapturedSteps if captured else VmapSteps)(task, compiled)


class VmapSteps:
    """The gradient of one network's loss, mapped over the networks, then one optimizer for the stacked tensors.

    Parameters
    ----------
    task : Task
    compiled : bool
        Whether `torch.compile` fuses what it can of the gradient.
    capturable : bool
        Whether Adam keeps its step count on the device, as a CUDA graph needs it.
    """

    def __init__(self, task: Task, compiled: bool, capturable: bool = False) -> None:
        self.torch = torch = require("torch")
        if task.device == "cuda" and not torch.cuda.is_available():
            raise UnavailableError(f"torch {torch.__version__} finds no CUDA device")
        torch.set_float32_matmul_precision("high" if task.precision == "tf32" else "highest")
        self.workload, self.device = task.workload, torch.device(task.device)
        X, y, orders = self.workload.rows
        self.X, self.y = (torch.from_numpy(array).to(self.device) for array in (X, y))
        # (batches, K · batch): the rows that all networks take in a step, one network after the other.
        K, batches = self.workload.models, self.workload.batches
        by_step = orders.reshape(K, batches, -1).swapaxes(0, 1).reshape(batches, -1)
        self.order = torch.from_numpy(np.ascontiguousarray(by_step)).to(self.device)
        nets = [self._module() for _ in range(K)]
        stacked, _ = torch.func.stack_module_state(nets)
        self.parameters = {name: tensor.detach().to(self.device) for name, tensor in stacked.items()}
        self.load_weights()
        self.skeleton = nets[0].to("meta")
        self.gradients = torch.func.vmap(torch.func.grad(self.loss))
        if compiled:
            options = {"backend": "aot_eager"} if task.dry_run else {}  # traces, but generates no code
            torch.compiler.reset()  # what was compiled for the last task
            self.gradients = torch.compile(self.gradients, fullgraph=True, dynamic=False, **options)
        self.optimizer = torch.optim.Adam(
            self.parameters.values(),
            lr=task.learning_rate,
            betas=(task.beta1, task.beta2),
            eps=task.eps,
            fused=True,
            capturable=capturable,
        )
        self.at = 0

    def _module(self) -> Any:
        activation, options = ACTIVATIONS[self.workload.activation]
        layers: list[Any] = []
        for n_in, n_out in self.workload.shapes:
            layers += [self.torch.nn.Linear(n_in, n_out), getattr(self.torch.nn, activation)(**options)]
        return self.torch.nn.Sequential(*layers[:-1])

    def load_weights(self) -> None:
        """Bring the parameters to where the task begins; PyTorch's W is the transpose."""
        for l, (W, b) in enumerate(self.workload.weights):
            self.parameters[f"{2 * l}.weight"].copy_(self.torch.from_numpy(W.swapaxes(1, 2)))
            self.parameters[f"{2 * l}.bias"].copy_(self.torch.from_numpy(b))

    def loss(self, parameters: Any, X: Any, y: Any) -> Any:
        """Mean cross-entropy of a batch of one network."""
        logits = self.torch.func.functional_call(self.skeleton, parameters, (X,))
        return self.torch.nn.functional.cross_entropy(logits, y)

    def step(self, rows: Any) -> None:
        """One step of all networks; `rows` holds the batch of each."""
        batches = self.workload.models, self.workload.batch_size
        X = self.X.index_select(0, rows).view(*batches, -1)
        y = self.y.index_select(0, rows).view(*batches)
        for name, grad in self.gradients(self.parameters, X, y).items():
            self.parameters[name].grad = grad
        self.optimizer.step()

    def run(self, count: int) -> None:
        """Launch the next steps."""
        for _ in range(count):
            self.step(self.order[self.at])
            self.at = (self.at + 1) % len(self.order)

    def wait(self) -> None:
        """Until the device has nothing left to do."""
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()

    def weights(self) -> list[Any]:
        """W and b of every layer of the first network, of the second, …"""
        host = (tensor.cpu().numpy() for tensor in self.parameters.values())
        return network_by_network([x.swapaxes(1, 2) if x.ndim == 3 else x for x in host])


class CapturedSteps(VmapSteps):
    """Whole steps as CUDA graphs, as many in one as gpubp has; which batch is next is counted on the device."""

    def __init__(self, task: Task, compiled: bool) -> None:
        if task.device != "cuda":
            raise UnavailableError("CUDA graphs need a CUDA device")
        super().__init__(task, compiled, capturable=True)
        torch = self.torch
        self.cursor = torch.zeros(1, dtype=torch.int64, device=self.device)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # libraries choose their algorithms and take their memory before a capture
                self.next_step()
        torch.cuda.current_stream().wait_stream(side)
        self.graphs = {count: self.capture(count) for count in (UNROLLED, 1)}
        self.load_weights()  # undoes the warm-up, as do the zeros
        for slots in self.optimizer.state.values():
            for slot in slots.values():
                slot.zero_()
        self.cursor.zero_()

    def next_step(self) -> None:
        """The step that the cursor points at."""
        self.step(self.order.index_select(0, self.cursor)[0])
        self.cursor.add_(1).remainder_(len(self.order))

    def capture(self, count: int) -> Any:
        """A graph of `count` steps."""
        self.optimizer.zero_grad()  # so that gradients lie in the graph's own memory
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            for _ in range(count):
                self.next_step()
        return graph

    def run(self, count: int) -> None:
        """Replay."""
        for steps, graph in self.graphs.items():
            times, count = divmod(count, steps)
            for _ in range(times):
                graph.replay()
