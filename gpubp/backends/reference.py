"""Every operation in plain array code: the definition that all other backends are tested against.

Formulas run over blocks of rows that fit the processor's caches, so temporaries stay small for any network. No result
depends on how a stack is cut into blocks: every sum is computed in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np

from gpubp._typing import Array, Namespace
from gpubp.activations import Activation, Softmax, identity
from gpubp.backends import (
    Batch,
    Below,
    Dropout,
    Epoch,
    Feed,
    Layer,
    LayerCache,
    LossScale,
    OptimizerState,
    TrainingArrays,
)
from gpubp.backends.blas_threads import threads_for_products
from gpubp.backends.collectives import GradientSum, Processes
from gpubp.backends.feeds import HostFeed
from gpubp.backends.philox import dropout_mask
from gpubp.backends.shuffle import rows_at
from gpubp.losses import Loss

_TINY = float(np.finfo(np.float64).tiny)
NO_ACTIVATION = identity()  # of the output layer: the loss decides what becomes of its logits
BLOCK = 32768  # elements of a temporary: 128 kB in float32, so that a few of them share a core's L2


class NumpyNamespace:
    """NumPy, with SciPy's functions where NumPy lacks them."""

    def __getattr__(self, name: str) -> Any:
        if name in ("erf", "erfc"):
            from scipy import special

            function = getattr(special, name)
        else:
            function = getattr(np, name)
        setattr(self, name, function)  # found directly from now on
        return function


class ReferenceBackend:
    """NumPy on the CPU.

    Parameters
    ----------
    dtype : numpy.dtype
        float32, float64, or complex128 for complex-step differentiation.
    reason : str
        A short reason for the choice of this device.
    """

    name = "reference"
    device = "cpu"
    gemm_table: str | None = None
    block = BLOCK  # elements of a temporary
    way = "calls"  # how `capture` runs steps
    shuffles_rows = False  # a whole epoch's order takes NumPy less time than one batch after another

    def __init__(self, dtype: Any, reason: str = "asked for") -> None:
        self.dtype = np.dtype(dtype)
        self.storage = self.dtype
        self.precision = "float64" if self.dtype.kind == "c" else self.dtype.name
        self.accumulator = np.result_type(self.dtype, np.float64)
        self.reason = reason
        self.xp: Namespace = NumpyNamespace()
        # Once glibc's malloc has freed a piece as large as this, it keeps the memory of freed temporaries; before, it
        # may return it to the system at every block and fetch it again page by page.
        np.empty(64 * BLOCK, np.uint8)

    # -- memory ---------------------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        return np.empty(shape, self.dtype if dtype is None else dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        return np.zeros(shape, self.dtype if dtype is None else dtype)

    def free_memory(self) -> float:
        return np.inf

    def loss_scale(self, networks: int) -> LossScale | None:
        return None

    def from_host(self, array: Any, dtype: Any = None) -> Array:
        return np.asarray(array, dtype)

    def to_host(self, array: Array) -> Any:
        return np.asarray(array)

    def gather(self, data: Batch, epoch: Epoch, out: Batch) -> None:
        rows = self._rows(epoch, out.X.shape[1])
        for source, part in zip(data.samples, out.samples, strict=True):
            if part is not None:
                self._take(source, rows, part)

    def _take(self, source: Array, rows: Array, out: Array) -> None:
        if len(source) > 1:
            for k, data in enumerate(source):
                out[k] = data[rows[k if len(rows) > 1 else 0]]
        elif source.dtype == out.dtype:
            rows = np.broadcast_to(rows, (len(out), rows.shape[1]))  # networks with their own weights share an order
            np.take(source[0], rows, axis=0, out=out, mode="clip")  # "clip" avoids a buffered copy
        else:
            out[...] = source[0][rows]

    def feed(self, arrays: Sequence[Array]) -> Feed:
        return HostFeed(arrays)

    def cast(self, source: Array, out: Array) -> None:
        out[...] = source

    def assign(self, target: Array, values: Any, who: Any) -> None:
        if hasattr(values, "shape"):
            networks = np.flatnonzero(who)
            self.copy_networks(values, networks, target, networks)
        else:
            target[who] = values

    def copy_networks(self, source: Array, taken: Any, target: Array, places: Any) -> None:
        for place, k in zip(places.tolist(), taken.tolist(), strict=True):  # faster than indexing, and without a copy
            target[place] = source[k]

    def finite(self, array: Array) -> Any:
        return self.to_host(self.xp.isfinite(self._squared_norm(array.reshape(len(array), -1))))

    # -- the four equations ---------------------------------------------------------------------------

    def matmul(self, a: Array, b: Array, out: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> None:
        np.matmul(a.swapaxes(-1, -2) if transpose_a else a, b.swapaxes(-1, -2) if transpose_b else b, out=out)

    def dense(
        self, activation: Activation, a_prev: Array, layer: Layer, cache: LayerCache, dropout: Dropout | None = None
    ) -> None:
        self.matmul(a_prev, layer.W, out=cache.z)
        self.bias_activation(activation, layer, cache, dropout)

    def bias_activation(
        self, activation: Activation, layer: Layer, cache: LayerCache, dropout: Dropout | None = None
    ) -> None:
        z, a = cache.z, cache.a
        for rows in _row_blocks(z, self.block):
            block = z[:, rows]
            block += layer.b
            result = activation.f(self.xp, block)
            if dropout is not None and cache.mask is not None:
                mask = dropout_mask(
                    self.xp,
                    dropout.seeds,
                    dropout.rate,
                    cache.index,
                    dropout.first_step + dropout.cursor,
                    block.shape[1],
                    z.shape[2],
                    rows.start,
                )
                cache.mask[:, rows] = mask
                self.xp.multiply(result, mask * self._survivor_scale(dropout), out=a[:, rows])
            elif result is not block or a is not z:
                a[:, rows] = result

    def dense_backward(
        self,
        a_prev: Array,
        layer: Layer,
        cache: LayerCache,
        grad: Layer,
        below: Below | None = None,
        dropout: Dropout | None = None,
    ) -> None:
        self.matmul(a_prev, cache.delta, out=grad.W, transpose_a=True)
        if below is not None:
            self.matmul(cache.delta, layer.W, out=below.cache.delta, transpose_b=True)
            self.hadamard_derivative(below.activation, below.cache, below.grad_b, dropout)

    def hadamard_derivative(
        self, activation: Activation, cache: LayerCache, grad_b: Array, dropout: Dropout | None = None
    ) -> None:
        z_or_a = cache.derivative_input(activation)
        for rows in _row_blocks(cache.delta, self.block):
            delta, x = cache.delta[:, rows], z_or_a[:, rows]
            if dropout is not None and cache.mask is not None:
                scale = self._survivor_scale(dropout)
                delta *= cache.mask[:, rows] * scale
                if activation.derivative_from == "a":
                    x = x / scale  # the cached value is mask ⊙ a/(1 − rate)
            delta *= activation.derivative(self.xp, x)
        grad_b[...] = cache.delta.sum(axis=-2, keepdims=True)

    def loss_delta(self, loss: Loss, cache: LayerCache, batch: Batch, epoch: Epoch, grad_b: Array) -> None:
        xp, (networks, n_rows, _), step = self.xp, cache.a.shape, int(epoch.cursor[0])
        normalizer = epoch.normalizer[:, step, None]
        per_row = self.empty((networks, n_rows, 2), self.accumulator)
        factor = normalizer if batch.weight is None else batch.weight * normalizer
        factor = xp.broadcast_to(factor, (networks, n_rows)).astype(self.dtype)[..., None]
        smoothing = self._cast(batch.smoothing)[..., None]
        for rows in _row_blocks(cache.a, self.block):
            logits, y = cache.a[:, rows], batch.y[:, rows]
            value, delta = loss.formula(xp, logits, y, smoothing)
            per_row[:, rows, 0] = value.sum(axis=-1) if value.ndim == logits.ndim else value
            output = partial(loss.output_activation.f, xp, logits)
            per_row[:, rows, 1] = loss.metric.per_row(xp, logits, output, y)
            xp.multiply(delta, factor[:, rows], out=cache.delta[:, rows])
        if batch.weight is not None:
            per_row *= batch.weight[..., None]
        epoch.totals[:, step] = per_row.sum(axis=1)
        grad_b[...] = cache.delta.sum(axis=-2, keepdims=True)

    def dense_loss(
        self, loss: Loss, a_prev: Array, layer: Layer, cache: LayerCache, batch: Batch, epoch: Epoch, grad_b: Array
    ) -> None:
        self.dense(NO_ACTIVATION, a_prev, layer, cache)
        self.loss_delta(loss, cache, batch, epoch, grad_b)

    def output(self, activation: Activation | Softmax, logits: Array) -> None:
        for rows in _row_blocks(logits, self.block):
            logits[:, rows] = activation.f(self.xp, logits[:, rows])

    # -- the update -----------------------------------------------------------------------------------

    def optimizer_step(self, state: OptimizerState, theta: Array, grad: Array, epoch: Epoch) -> None:
        xp, index = self.xp, int(epoch.cursor[0])
        learning_rate, totals = epoch.learning_rate[:, index], epoch.totals[:, index]
        step = epoch.first_step + index
        epoch.cursor += 1
        weights = slice(0, state.n_weights)
        if state.l2 is not None:
            l2 = self._cast(state.l2 * epoch.normalizer[:, index] if state.l2_by_batch else state.l2)
            for part in _column_blocks(theta[:, weights], self.block):
                grad[:, part] += l2 * theta[:, part]
        square = self._squared_norm(grad)
        sound = xp.isfinite(square) & xp.isfinite(totals[:, 0])
        state.fault_step[...] = xp.where(state.active & ~sound, step, state.fault_step)
        state.active &= sound
        if not state.active.any():
            return
        state.updates += state.active
        if state.l2 is not None and state.penalty is not None:
            recorded = 0.5 * state.l2 * self._squared_norm(theta[:, weights])
            state.penalty[:, index] = xp.where(state.active, recorded, state.penalty[:, index])
        options = {**state.options, "lr": learning_rate, "t": xp.maximum(state.updates, 1)}
        scalars = {name: self._cast(value) for name, value in state.rule.scalars(options).items()}
        clip = None
        if state.max_grad_norm is not None:
            norm = xp.sqrt(xp.where(sound, square, 1.0))
            clip = self._cast(xp.minimum(1.0, state.max_grad_norm / xp.maximum(norm, _TINY)))
        decay = None if state.weight_decay is None else self._cast(learning_rate * state.weight_decay)
        everyone = bool(state.active.all())
        who = state.active[:, None]
        for part in _column_blocks(theta, self.block):
            g = grad[:, part] if clip is None else grad[:, part] * clip
            slots = tuple(slot[:, part] for slot in state.slots)
            update, new_slots = state.rule.step(xp, g, slots, scalars)
            if decay is not None and part.start < state.n_weights:
                end = min(part.stop, state.n_weights) - part.start
                update[:, :end] += decay * theta[:, part.start : part.start + end]
            for slot, new in zip(slots, new_slots, strict=True):
                slot[...] = new if everyone else xp.where(who, new, slot)
            theta[:, part] -= update if everyone else xp.where(who, update, 0)
            if state.largest_update is not None:
                largest = xp.maximum(state.largest_update, xp.abs(update).max(axis=1))
                state.largest_update[...] = xp.where(state.active, largest, state.largest_update)

    # -- how steps are run ----------------------------------------------------------------------------

    def computing(self) -> AbstractContextManager[Any]:
        return np.errstate(all="ignore")  # the step itself detects non-finite values

    def capture(
        self, step: Callable[[int], None], prepare: Callable[[int], None] | None = None
    ) -> Callable[[int, int], None]:
        def run(count: int, rows: int) -> None:
            with self.computing():
                for _ in range(count):
                    step(rows)

        return run

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        function(*arguments)

    def device_sum(self, processes: Processes) -> GradientSum | None:
        return None

    def training_steps(
        self, step: Callable[[int], None], training: TrainingArrays
    ) -> tuple[str, Callable[[int, int], None]]:
        run = self.capture(step)
        largest = training.batch_size * max(n_in * n_out for n_in, n_out in training.shapes)

        def on_threads(count: int, rows: int) -> None:
            with threads_for_products(largest):
                run(count, rows)

        return self.way, on_threads

    # -- pieces ---------------------------------------------------------------------------------------

    def _rows(self, epoch: Epoch, count: int) -> Array:
        """Which rows of the data each network sees in this step, (K or 1, count)."""
        start = int(epoch.cursor[0]) * epoch.batch_size
        start = start % epoch.period if epoch.period else start
        if epoch.keys is not None and epoch.counts is not None:
            order = None if epoch.order is None else self.to_host(epoch.order)
            keys, counts = self.to_host(epoch.keys), self.to_host(epoch.counts)
            return self.from_host(rows_at(np.arange(start, start + count), order, keys, counts))
        if epoch.order is None:
            return self.xp.arange(start, start + count)[None]
        return epoch.order[:, start : start + count]

    def _cast(self, per_network: Array) -> Array:
        """(K,) in float64 as (K, 1) in the backend's dtype, so that a stack and a single network round alike."""
        return per_network.astype(self.dtype)[:, None]

    def _survivor_scale(self, dropout: Dropout) -> Array:
        """1/(1 − rate), (K, 1, 1)."""
        return self._cast(1.0 / (1.0 - dropout.rate))[..., None]

    def _squared_norm(self, array: Array) -> Array:
        """Σ x² per network, (K,): one BLAS call each, repeated in float64 if float32 overflows."""
        with np.errstate(all="ignore"):
            square = np.matmul(array[:, None, :], array[:, :, None])[:, 0, 0].astype(self.accumulator)
            for k in np.flatnonzero(~np.isfinite(square)):
                square[k] = sum(
                    np.square(array[k, part], dtype=self.accumulator).sum() for part in _parts(array.shape[1])
                )
        return square


def _row_blocks(array: Array, block: int) -> Iterator[slice]:
    """Slices of the row axis of (K, rows, n) with about `block` elements each."""
    networks, rows, columns = array.shape
    height = max(1, block // (networks * columns))
    for start in range(0, rows, height):
        yield slice(start, min(start + height, rows))


def _column_blocks(array: Array, block: int) -> Iterator[slice]:
    """Slices of the last axis of (K, P) with about `block` elements each."""
    return _parts(array.shape[1], max(1, block // array.shape[0]))


def _parts(length: int, width: int = BLOCK) -> Iterator[slice]:
    for start in range(0, length, width):
        yield slice(start, min(start + width, length))
