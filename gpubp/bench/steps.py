"""The measured work: a network's training steps and their bare matrix products, with verification of the steps."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from typing import Any

import numpy as np

from gpubp.backends import Backend
from gpubp.backends.reference import ReferenceBackend
from gpubp.bench.timing import turns
from gpubp.network import MLP
from gpubp.optimizers import get_optimizer
from gpubp.training.slice_step import initial_state
from gpubp.training.step import TrainingStep
from gpubp.training.step_table import draw_table

RESIDENT = 64e6  # bytes of the training rows
ROUNDS, TURN = 31, 0.02  # maximum rounds; seconds per entrant and round
PATIENCE = 12.0  # seconds after which no new round starts

SAMPLE = 65_536  # elements of a tensor compared in verification
VERIFIED = 2  # steps
VERIFYING = 1e11  # floating-point operations that the float64 reference may use for them
# Relative error of these steps' changes to a tensor, compared with float64. In Adam's first steps, a rounding error in
# a small gradient can flip an update's sign, hence the wide limit; the steps of another network are off by more than 1.
TOLERANCE = {"float64": 1e-3, "float32": 0.05, "tf32": 0.3, "float16": 0.3, "bfloat16": 0.6}


@dataclass(frozen=True)
class Workload:
    """A network to train, with its batches, rows and initial weights: the same for every entrant.

    Rows and weights are random. The loss is cross-entropy, or half the squared error for a single output.
    """

    layer_sizes: tuple[int, ...]
    batch_size: int
    batches: int  # in the resident data set, which is reused; 2 or more, so that rows are selected
    activation: str = "relu"

    @property
    def name(self) -> str:
        """784-512-512-10 b128; 1024-4096x4-1000 b256 tanh."""
        first, *hidden, last = self.layer_sizes
        runs = [(size, len(list(group))) for size, group in groupby(hidden)]
        sizes = (f"{n}x{count}" if count > 2 else "-".join([str(n)] * count) for n, count in runs)
        activation = "" if self.activation == "relu" else f" {self.activation}"
        return f"{'-'.join([str(first), *sizes, str(last)])} b{self.batch_size}{activation}"

    @property
    def shapes(self) -> Sequence[tuple[int, int]]:
        """(n_in, n_out) of every layer."""
        return list(zip(self.layer_sizes, self.layer_sizes[1:], strict=False))

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return sum((n_in + 1) * n_out for n_in, n_out in self.shapes)

    @property
    def flops_per_row(self) -> int:
        """Floating-point operations of a step's matrix products: forward, BP4, and BP2 of all layers but the first."""
        products = [2 * n_in * n_out for n_in, n_out in self.shapes]
        return 3 * sum(products) - products[0]

    @property
    def loss(self) -> str:
        """The loss's name in gpubp."""
        return "cross_entropy" if self.layer_sizes[-1] > 1 else "half_squared_error"

    @property
    def weights(self) -> list[tuple[Any, Any]]:
        """W (n_in, n_out) and b (n_out,) of every layer, float32, before the first step."""
        return _weights(self)

    @property
    def rows(self) -> tuple[Any, Any, Any]:
        """X (m, n_0) float32, y (m,) int64 or (m, 1) float32, and the order (m,) int64 in which batches take them."""
        return _rows(self)


def workload(layer_sizes: Sequence[int], batch_size: int, activation: str = "relu") -> Workload:
    """The workload of a network on as many batches as fit in `RESIDENT` bytes, from 2 to 64."""
    batches = int(np.clip(RESIDENT / (4 * batch_size * layer_sizes[0]), 2, 64))
    return Workload(tuple(layer_sizes), batch_size, batches, activation)


@lru_cache(maxsize=1)
def _weights(workload: Workload) -> list[tuple[Any, Any]]:
    """He's uniform draw, so that signals neither vanish nor explode; nonzero biases, so that their use shows."""
    rng = np.random.default_rng(0)

    def uniform(*shape: int) -> Any:
        return 2 * rng.random(shape, dtype=np.float32) - 1

    return [
        (uniform(n_in, n_out) * np.float32((6 / n_in) ** 0.5), uniform(n_out) * np.float32(0.1))
        for n_in, n_out in workload.shapes
    ]


@lru_cache(maxsize=1)
def _rows(workload: Workload) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(1)
    m, n_out = workload.batch_size * workload.batches, workload.layer_sizes[-1]
    X = rng.standard_normal((m, workload.layer_sizes[0]), dtype=np.float32)
    y = rng.integers(0, n_out, m) if n_out > 1 else rng.standard_normal((m, 1), dtype=np.float32)
    return X, y, rng.permutation(m)


class Repeated(ABC):
    """Work that can be repeated."""

    @abstractmethod
    def run(self, count: int) -> None:
        """Launch the work `count` times."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until all of it is done."""

    def seconds(self, count: int) -> float:
        """Seconds from the first launch until the device is done."""
        start = time.perf_counter()
        self.run(count)
        self.wait()
        return time.perf_counter() - start


class Steps(Repeated):
    """Prepared training steps on resident rows; after the last batch of the order, the first follows again.

    A step includes selecting the batch.

    Parameters
    ----------
    workload : Workload
        With weights (K, n_in, n_out) and an order (K, m), it is that of a stack of K networks.
    backend : Backend
    optimizer : str
    learning_rate, dropout : float
    """

    def __init__(
        self,
        workload: Workload,
        backend: Backend,
        optimizer: str = "adam",
        learning_rate: float = 1e-3,
        dropout: float = 0.0,
    ) -> None:
        self.workload, self.backend = workload, backend
        X, y, order = workload.rows
        orders = np.atleast_2d(order)
        K = len(orders)
        net = MLP(workload.layer_sizes, workload.activation, workload.loss, init="zeros", models=K, device=backend)
        self.stack = net.stack
        for layer, (W, b) in zip(self.stack.layers, workload.weights, strict=True):
            layer.W[...] = backend.from_host(W.reshape(layer.W.shape), backend.dtype)
            layer.b[...] = backend.from_host(b.reshape(layer.b.shape), backend.dtype)
        rule = get_optimizer(optimizer)
        options = {name: np.full(K, value) for name, value in rule.options.items()}
        decay = np.full(K, rule.weight_decay) if rule.weight_decay else None
        self.step = TrainingStep(
            self.stack,
            data=(X, y, None),
            batch_size=workload.batch_size,
            optimizer=initial_state(self.stack, rule, options, weight_decay=decay),
            dropout=np.full(K, dropout),
            label_smoothing=np.zeros(K),
            orders=K,
        )
        rates = [np.full(workload.batches, learning_rate)] * K
        self.step.begin(draw_table(list(orders), workload.batch_size, None, np.zeros(K, np.int64), rates))
        self.at = 0

    def run(self, count: int, rows: int | None = None) -> None:
        """Launch the next steps, on the first `rows` rows of their batches or on whole batches."""
        while count:
            taken = min(count, self.workload.batches - self.at)
            self.step.run_steps(taken, rows or self.workload.batch_size)
            self.at, count = (self.at + taken) % self.workload.batches, count - taken
            if self.at == 0:
                self.step.seek(0)

    def wait(self) -> None:
        """Wait until the last step has advanced the cursor."""
        self.step.position()

    def weights(self) -> list[Any]:
        """W and b of every layer in turn, on the host; for a stack, those of its first network, then its second, …"""
        layers, to_host = self.step.live.layers, self.backend.to_host
        tensors = [to_host(tensor) for layer in layers for tensor in (layer.W, layer.b[:, 0])]
        return [tensor[k] for k in range(self.stack.models) for tensor in tensors]

    def diverged(self) -> bool:
        """Whether a network diverged: from then on, steps do not change it."""
        return not self.step.active().all()


class BareGemms(Repeated):
    """The matrix products of a step alone, captured like the step: a lower bound for any step."""

    def __init__(self, workload: Workload, backend: Backend) -> None:
        self.workload, self.backend = workload, backend
        self.last = backend.zeros((1,))
        self.products = backend.capture(_products(workload, backend))

    def run(self, count: int) -> None:
        """Launch the products of `count` steps."""
        self.products(count, self.workload.batch_size)

    def wait(self) -> None:
        """Copying to the host waits for all earlier work."""
        self.backend.to_host(self.last)


def _products(workload: Workload, backend: Backend) -> Callable[[int], None]:
    """Forward products, then BP4 and BP2 of every layer from the last, on operands of the step's sizes."""
    rng = np.random.default_rng(2)
    storage, batch_size, shapes = backend.storage, workload.batch_size, workload.shapes

    def drawn(*shape: int) -> Any:
        return backend.from_host(rng.standard_normal((1, *shape), dtype=np.float32), storage)

    X = drawn(batch_size, workload.layer_sizes[0])
    W = [backend.from_host(w[None], storage) for w, _ in workload.weights]
    a = [backend.empty((1, batch_size, n_out), storage) for _, n_out in shapes]
    deltas = [drawn(batch_size, n_out) for _, n_out in shapes]
    below = [backend.empty((1, batch_size, n_in), storage) for n_in, _ in shapes]
    grads = [backend.empty((1, n_in, n_out)) for n_in, n_out in shapes]

    def step(rows: int) -> None:
        for l in range(len(W)):
            backend.matmul(a[l - 1] if l else X, W[l], out=a[l])
        for l in range(len(W) - 1, -1, -1):
            backend.matmul(a[l - 1] if l else X, deltas[l], out=grads[l], transpose_a=True)
            if l:
                backend.matmul(deltas[l], W[l], out=below[l], transpose_b=True)

    return step


def rounds(entrants: Mapping[str, Repeated]) -> Iterator[dict[str, float]]:
    """Seconds of one step of every entrant, round after round, for PATIENCE seconds or ROUNDS rounds."""
    counts = {}
    for name, entrant in entrants.items():
        entrant.seconds(1)  # compiles, captures
        counts[name] = max(1, round(TURN / max(entrant.seconds(1), 1e-6)))
    functions = {name: partial(entrant.seconds, counts[name]) for name, entrant in entrants.items()}
    start = time.perf_counter()
    for done, seconds in enumerate(turns(functions) if functions else (), start=1):
        yield {name: value / counts[name] for name, value in seconds.items()}
        spent = time.perf_counter() - start
        if done == ROUNDS or spent + spent / done > PATIENCE:
            return


# -- verification -------------------------------------------------------------------------------------------


def sample(tensor: Any) -> Any:
    """About SAMPLE elements at most, evenly spread."""
    return tensor.ravel()[:: max(1, tensor.size // SAMPLE)].copy()


def verified_rows(workload: Workload) -> int:
    """The rows of a batch used in verification: all, unless the reference would take too long."""
    return int(np.clip(VERIFYING / (VERIFIED * workload.flops_per_row), 1, workload.batch_size))


def displacements(workload: Workload, optimizer: str = "adam", rows: int | None = None) -> list[Any]:
    """What the first steps add to the sampled elements of every tensor, in float64, by the reference formulas."""
    steps = Steps(workload, ReferenceBackend(np.float64), optimizer)
    steps.run(VERIFIED, rows)
    return [sample(tensor) - s for tensor, s in zip(steps.weights(), first_weights(workload), strict=True)]


def first_weights(workload: Workload) -> list[Any]:
    """The sampled elements of every tensor before the first step."""
    return [sample(tensor) for layer in workload.weights for tensor in layer]


def error(workload: Workload, sampled: Sequence[Any], expected: Sequence[Any]) -> float:
    """The largest relative error of a tensor after the first steps.

    Parameters
    ----------
    workload : Workload
    sampled : sequence of arrays
        The tensors after those steps, from `sample`.
    expected : sequence of arrays
        The changes that the steps should have made to them, from `displacements`.
    """
    moved = [w - s for w, s in zip(sampled, first_weights(workload), strict=True)]
    pairs = zip(moved, expected, strict=True)
    return float(np.max([np.linalg.norm(m - e) / np.linalg.norm(e) for m, e in pairs]))
