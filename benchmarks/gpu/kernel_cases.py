"""Every kernel at a size at which only bytes count: what launches it, and how many bytes it must move.

Operations are called once on a backend whose driver notes the launches, so that a kernel is measured with
exactly the arguments that training gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.gpu import elementwise
from gpubp.activations import SOFTMAX, get_activation
from gpubp.backends import Batch, Epoch, Layer, LayerCache
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.losses import get_loss
from gpubp.network import MLP
from gpubp.optimizers import get_optimizer
from gpubp.training.slice_step import initial_state

COLUMNS, CLASSES, PIXELS = 4096, 1000, 784
TABLE = 4096  # steps, more than any kernel is launched: `step_begin` moves the cursor on each time


class NotingDriver:
    """A driver that notes the launches of kernels besides making them.

    Attributes
    ----------
    launches : dict of str to callable
        The last launch of each kernel, to be made again.
    arguments : dict of str to tuple
        Its arguments.
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.launches: dict[str, Callable[[], None]] = {}
        self.arguments: dict[str, tuple[Any, ...]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def kernel(self, source: Any) -> Callable[..., None]:
        """The kernel, noting its calls."""
        kernel = self._driver.kernel(source)

        def launch(grid: tuple[int, int, int], block: int, args: tuple[Any, ...], shared: int = 0) -> None:
            kernel(grid, block, args, shared)
            self.launches[source.name] = lambda: kernel(grid, block, args, shared)
            self.arguments[source.name] = args

        return launch


@dataclass(frozen=True)
class Case:
    """A kernel with its arguments.

    Attributes
    ----------
    name : str
        "bias_activation relu"
    launch : callable
    nbytes : int
        How many it must read and write.
    asked : float or None
        The fraction of the copy rate that it should reach.
    rung_of : callable or None
        ``rung_of()`` makes a function that does the same by CuPy's own means; CuPy may refuse.
    """

    name: str
    launch: Callable[[], None]
    nbytes: int
    asked: float | None = None
    rung_of: Callable[[], Callable[[], None]] | None = None


class Cases:
    """The cases of one precision.

    Parameters
    ----------
    backend : CudaBackend
        Its driver becomes a `NotingDriver`.
    nbytes : int
        Size of the main array of each case.
    """

    def __init__(self, backend: CudaBackend, nbytes: int) -> None:
        self.backend, self.nbytes = backend, nbytes
        backend.driver = self.driver = NotingDriver(backend.driver)
        self.launches = self.driver.launches
        self.item: int = backend.storage.itemsize
        rng = np.random.default_rng(0)
        self.tile = rng.standard_normal(1 << 12, dtype=np.float32)

    def __iter__(self) -> Iterator[Case]:
        wide = self.item == 4
        for name, asked in (("relu", 0.85), ("tanh", 0.85 if wide else 0.6), ("gelu", 0.85 if wide else 0.6)):
            yield self.bias_activation(name, asked)
            yield self.hadamard_derivative(name, asked)
        yield from self.column_sum()
        yield self.gather(PIXELS)
        yield self.gather(128 // self.item)
        yield self.loss_delta("cross_entropy", CLASSES)
        yield self.loss_delta("cross_entropy", 10)
        yield self.loss_delta("half_squared_error", COLUMNS)
        yield self.output("softmax", CLASSES)
        yield self.output("sigmoid", COLUMNS)
        yield from self.update()
        if not wide:
            yield self.cast()

    def bias_activation(self, name: str, asked: float) -> Case:
        """In place where the derivative is taken from a."""
        activation, rows = get_activation(name), self.rows(COLUMNS)
        z, b = self.drawn(rows, COLUMNS), self.drawn(1, COLUMNS)
        b *= 0.01  # added anew at every launch
        a = z if activation.derivative_from == "a" else self.backend.empty(z.shape, self.backend.storage)
        layer, cache = Layer(None, b), LayerCache(0, z, a, delta=None, mask=None)
        return Case(
            name=f"bias_activation {name}",
            launch=self.noted("bias_activation", lambda: self.backend.bias_activation(activation, layer, cache)),
            nbytes=z.nbytes * (2 if a is z else 3),
            asked=asked,
            rung_of=lambda: elementwise.bias_activation(activation, z, b, a),
        )

    def hadamard_derivative(self, name: str, asked: float) -> Case:
        """With the sums over chunks of rows."""
        activation, rows = get_activation(name), self.rows(COLUMNS)
        delta, z_or_a = self.drawn(rows, COLUMNS), self.drawn(rows, COLUMNS)
        cache, grad_b = LayerCache(0, z_or_a, z_or_a, delta, mask=None), self.backend.empty((1, 1, COLUMNS))
        launch = self.noted("hadamard_derivative", lambda: self.backend.hadamard_derivative(activation, cache, grad_b))
        return Case(
            name=f"hadamard_derivative {name}",
            launch=launch,
            nbytes=3 * delta.nbytes,
            asked=asked,
            rung_of=lambda: elementwise.hadamard_derivative(activation, delta, z_or_a),
        )

    def column_sum(self) -> Iterator[Case]:
        """What adds up the chunks of the last case; a matrix of few rows is one chunk."""
        if "column_sum" in self.launches:
            partial = self.driver.arguments["column_sum"][0]
            yield Case("column_sum", self.launches["column_sum"], partial.nbytes)

    def gather(self, columns: int) -> Case:
        """Rows of float32 data, as storage."""
        rows = self.rows(columns)
        source, out = (
            self.drawn(rows, columns, np.float32),
            self.backend.empty((1, rows, columns), self.backend.storage),
        )
        epoch = self.epoch(rows, np.random.default_rng(1).permutation(rows))
        data, batch = (Batch(X=array, y=None, weight=None, smoothing=None) for array in (source, out))
        return Case(
            name=f"gather rows of {4 * columns} B",
            launch=self.noted("gather", lambda: self.backend.gather(data, epoch, batch)),
            nbytes=source.nbytes + out.nbytes + 8 * rows,
            asked=0.85,
            rung_of=lambda: elementwise.gather(source[0], epoch.order, out),
        )

    def loss_delta(self, name: str, columns: int) -> Case:
        """Value and delta, and their sums over rows."""
        backend, loss, rows = self.backend, get_loss(name), self.rows(columns)
        logits = self.drawn(rows, columns)
        y = (
            backend.from_host(np.random.default_rng(2).integers(0, columns, (1, rows)))
            if loss.integer_targets
            else self.drawn(rows, columns, np.float32)
        )
        batch = Batch(X=None, y=y, weight=None, smoothing=backend.zeros((1,), np.float64))
        cache = LayerCache(0, z=logits, a=logits, delta=logits, mask=None)
        epoch, grad_b = self.epoch(rows), backend.empty((1, 1, columns))
        launch = self.noted("loss_delta", lambda: backend.loss_delta(loss, cache, batch, epoch, grad_b))
        return Case(f"loss_delta {name} {columns} columns", launch, 2 * logits.nbytes + y.nbytes)

    def output(self, name: str, columns: int) -> Case:
        """Logits to a, in place."""
        logits = self.drawn(self.rows(columns), columns)
        activation = SOFTMAX if name == "softmax" else get_activation(name)
        kernel = "softmax" if name == "softmax" else "output_activation"
        launch = self.noted(kernel, lambda: self.backend.output(activation, logits))
        return Case(f"{kernel} {columns} columns", launch, 2 * logits.nbytes)

    def update(self) -> Iterator[Case]:
        """Adam, and what decides about the step before it."""
        sizes, backend = [COLUMNS, max(1, self.nbytes // 4 // COLUMNS)], self.backend
        stack = MLP(sizes, (), init="zeros", device=backend).stack
        rule = get_optimizer("adam")
        state = initial_state(stack, rule, {name: np.full(1, value) for name, value in rule.options.items()})
        grad = self.repeated(self.tile, stack.theta.shape)
        backend.optimizer_step(state, stack.theta, grad, self.epoch(1))
        yield Case("step_begin", self.launches["step_begin"], grad.nbytes)
        moved = grad.nbytes * 7 + (0 if state.operands is None else state.operands.nbytes)
        yield Case(
            name="optimizer_step adam",
            launch=self.launches["optimizer_step"],
            nbytes=moved,
            asked=0.85,
            rung_of=lambda: elementwise.optimizer_step(state.rule, stack.theta, grad, state.slots),
        )

    def cast(self) -> Case:
        """Parameters to their 16-bit copy."""
        source = self.drawn(1, self.nbytes // 4, np.float32)
        out = self.backend.empty(source.shape, self.backend.storage)
        launch = self.noted("cast", lambda: self.backend.cast(source, out))
        return Case("cast", launch, source.nbytes + out.nbytes, None, lambda: elementwise.cast(source, out))

    # -- pieces ---------------------------------------------------------------------------------------

    def noted(self, kernel: str, operation: Callable[[], None]) -> Callable[[], None]:
        """The launch of a kernel by an operation."""
        operation()
        return self.launches[kernel]

    def rows(self, columns: int) -> int:
        """Rows of a matrix of about `nbytes`."""
        return max(1, self.nbytes // self.item // columns)

    def drawn(self, rows: int, columns: int, dtype: Any = None) -> Any:
        """(1, rows, columns) of normal numbers, in storage unless a dtype is named."""
        return self.repeated(self.tile.astype(self.backend.storage if dtype is None else dtype), (1, rows, columns))

    def repeated(self, tile: Any, shape: tuple[int, ...]) -> Any:
        """The numbers of a tile over and over, in an array that is filled on the device."""
        array = self.backend.empty(shape, tile.dtype)
        flat = array.reshape(-1)
        if tile.dtype.itemsize == 2:  # bits are copied, whatever they mean
            tile, flat = tile.view(np.uint16), flat.view(np.uint16)
        on_device, whole = self.backend.from_host(tile), flat.size // tile.size * tile.size
        flat[:whole].reshape(-1, tile.size)[...] = on_device
        flat[whole:] = on_device[: flat.size - whole]
        return array

    def epoch(self, rows: int, order: Any = None) -> Epoch:
        """Tables of TABLE steps, the cursor at the first."""
        backend = self.backend

        def column(value: float) -> Any:
            return backend.from_host(np.full((1, TABLE), value))

        order = np.zeros(1, np.int64) if order is None else order
        return Epoch(
            cursor=backend.zeros((1,), np.int64),
            first_step=backend.zeros((1,), np.int64),
            batch_size=rows,
            order=backend.from_host(order[None]),
            normalizer=column(1.0 / rows),
            learning_rate=column(1e-3),
            totals=backend.zeros((1, TABLE, 2), np.float64),
            loss_scale=backend.loss_scale(1),
        )
