"""What PyTorch's peers share: the network, its loss in the task's precision, and fused Adam."""

from __future__ import annotations

from typing import Any

from benchmarks.cases import Task
from benchmarks.peers import UnavailableError, require

VERSIONS = ("torch", "triton")
ACTIVATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "relu": ("ReLU", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "gelu": ("GELU", {}),
    "gelu_tanh": ("GELU", {"approximate": "tanh"}),
    "softplus": ("Softplus", {}),
}


class TorchSteps:
    """Step by step, as PyTorch users write it; parameters in float32, bfloat16 by autocast.

    Parameters
    ----------
    task : Task
    capturable : bool
        Whether Adam keeps its step count on the device, as a CUDA graph needs it.
    """

    def __init__(self, task: Task, capturable: bool = False) -> None:
        self.torch = torch = require("torch")
        if task.device == "cuda" and not torch.cuda.is_available():
            raise UnavailableError(f"torch {torch.__version__} finds no CUDA device")
        torch.set_float32_matmul_precision("high" if task.precision == "tf32" else "highest")
        self.task, self.device = task, torch.device(task.device)
        X, y, order = task.workload.rows
        self.X, self.y, self.order = (torch.from_numpy(array).to(self.device) for array in (X, y, order))
        activation, options = ACTIVATIONS[task.workload.activation]
        layers: list[Any] = []
        for n_in, n_out in task.workload.shapes:
            layers += [torch.nn.Linear(n_in, n_out, device=self.device), getattr(torch.nn, activation)(**options)]
        self.net = torch.nn.Sequential(*layers[:-1])
        self.load_weights()
        self.optimizer = torch.optim.Adam(
            self.net.parameters(),
            lr=task.learning_rate,
            betas=(task.beta1, task.beta2),
            eps=task.eps,
            fused=True,
            capturable=capturable,
        )
        self.at = 0

    def run(self, count: int) -> None:
        """Launch the next steps."""
        batch_size, batches = self.task.workload.batch_size, self.task.workload.batches
        for _ in range(count):
            self.step(self.order[self.at * batch_size : (self.at + 1) * batch_size])
            self.at = (self.at + 1) % batches

    def step(self, rows: Any) -> None:
        """One step on these rows of the data."""
        self.optimizer.zero_grad()
        self.loss(self.X.index_select(0, rows), self.y.index_select(0, rows)).backward()
        self.optimizer.step()

    def loss(self, X: Any, y: Any) -> Any:
        """Mean cross-entropy of a batch."""
        torch = self.torch
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.task.precision == "bfloat16"):
            return torch.nn.functional.cross_entropy(self.net(X), y)

    def wait(self) -> None:
        """Until the device has nothing left to do."""
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()

    def weights(self) -> list[Any]:
        """W and b of every layer in turn; PyTorch's W is the transpose."""
        return [(p.T if p.ndim == 2 else p).detach().cpu().numpy() for p in self.net.parameters()]

    def load_weights(self) -> None:
        """Bring the parameters to where the task begins."""
        torch = self.torch
        with torch.no_grad():
            for layer, (W, b) in zip(list(self.net)[::2], self.task.workload.weights, strict=True):
                layer.weight.copy_(torch.from_numpy(W.T))
                layer.bias.copy_(torch.from_numpy(b))
