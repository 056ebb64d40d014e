"""What the step benchmarks train: the networks, and for everyone the same weights, rows, order and precision."""

from __future__ import annotations

from dataclasses import dataclass

from gpubp.bench.steps import Workload

PRECISIONS = ("float32", "tf32", "bfloat16")
SMALL = (
    Workload((64, 64, 64, 10), 32, 64),
    Workload((64, 256, 256, 10), 128, 64),
    Workload((784, 512, 512, 10), 128, 64),
)
LARGE = (
    Workload((784, 1024, 1024, 1024, 10), 256, 32),
    Workload((1024, 4096, 4096, 4096, 4096, 1000), 4096, 4),
    Workload((1024, 4096, 4096, 4096, 4096, 1000), 256, 16),
)
CPU_WORKLOADS = (*SMALL, LARGE[0], Workload((1024, 2048, 2048, 2048, 10), 512, 8))
ACTIVATIONS = ("sigmoid", "tanh", "gelu_tanh", "gelu", "softplus")  # besides ReLU


@dataclass(frozen=True)
class Task:
    """Adam steps of a network in a precision, beginning with the network's weights and rows.

    Attributes
    ----------
    workload : Workload
    precision : {"float32", "tf32", "bfloat16"}
        How products are formed; with bfloat16, parameters and optimizer stay in float32.
    device : {"cuda", "cpu"}
        Where peers compute.
    dry_run : bool
        Whether it is only to be seen that everything runs: gpubp's kernels then run on the host, and a peer
        may leave out costly compilation.
    """

    workload: Workload
    precision: str
    device: str = "cuda"
    dry_run: bool = False
    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
