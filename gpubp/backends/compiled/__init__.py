"""The CPU with loops compiled by Numba around NumPy's products; a step runs without Python in between.

An operation without scalar expressions runs as in the reference. If the compiler fails, all operations do.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import numpy as np

from gpubp._typing import Array
from gpubp.activations import Activation, Softmax
from gpubp.backends import Batch, Dropout, Epoch, Layer, LayerCache, OptimizerState
from gpubp.backends.compiled.cache import LoopsFailedError, address, load, loops_failed, numba_state
from gpubp.backends.compiled.program import Arguments, Launches, Program, address_of, run_loops
from gpubp.backends.compiled.small_products import is_small, register_bytes
from gpubp.backends.compiled.source import (
    NUMBERS,
    ModuleSource,
    activation_source,
    gather_source,
    launch_source,
    loss_source,
    optimizer_source,
    order_source,
    product_source,
)
from gpubp.backends.compiled.ufunc import matmul_loop
from gpubp.backends.reference import ReferenceBackend
from gpubp.losses import Loss, get_loss

__all__ = ["CompiledBackend", "numba_state"]

CACHE_LINE = 64  # bytes
_WITH_SOFTMAX = get_loss("cross_entropy")


class _Recording(threading.local):
    """What a thread records: copies of a network share a backend, and others may run its operations meanwhile."""

    program: Program | None = None


_RECORDING = _Recording()


def _or_reference(operation: Callable[..., None]) -> Callable[..., None]:
    """An operation that runs as in the reference once the compiler has failed."""

    @wraps(operation)
    def run(self: CompiledBackend, *arguments: Any, **options: Any) -> None:
        if not loops_failed():
            try:
                return operation(self, *arguments, **options)
            except LoopsFailedError:  # reported where it was raised
                pass
        self._call(partial(getattr(ReferenceBackend, operation.__name__), self), *arguments, **options)

    return run


class CompiledBackend(ReferenceBackend):
    """NumPy's products and compiled loops.

    Parameters
    ----------
    dtype : numpy.dtype
        float32 or float64.
    reason : str
        A short reason for the choice of this device.
    small : int
        Elements below which an operation outside a step is left to the reference, which starts faster.
    """

    name = "compiled"
    way = "program"
    shuffles_rows = True

    def __init__(self, dtype: Any, reason: str = "asked for", small: int = 1 << 14) -> None:
        super().__init__(dtype, reason)
        self.small = small
        taken = os.environ.get("GPUBP_SMALL_PRODUCTS", "") != "0"
        self.register_bytes = register_bytes() if taken else 0

    def capture(
        self, step: Callable[[int], None], prepare: Callable[[int], None] | None = None
    ) -> Callable[[int, int], None]:
        programs: dict[int, Program] = {}

        def run(count: int, rows: int) -> None:
            if rows not in programs:
                programs[rows] = self._record(partial(step, rows))
            with self.computing():
                programs[rows].run(count)

        return run

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        self._call(function, *arguments)

    # -- memory ---------------------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        return _aligned(np.empty, shape, np.dtype(self.dtype if dtype is None else dtype))

    def zeros(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        return _aligned(np.zeros, shape, np.dtype(self.dtype if dtype is None else dtype))

    # -- operations -----------------------------------------------------------------------------------

    @_or_reference
    def gather(self, data: Batch, epoch: Epoch, out: Batch) -> None:
        pairs = [pair for pair in zip(data.samples, out.samples, strict=True) if pair[1] is not None]
        if not all(x.dtype.isnative and x.dtype.name in NUMBERS and _regular(x, part) for x, part in pairs):
            return self._call(super().gather, data, epoch, out)
        networks, count = out.X.shape[:2]
        rows = np.empty((networks, count), np.int64)
        arguments = Arguments().numbers(count).parts(np.int64, rows, epoch.order).parts(np.uint32, epoch.keys)
        arguments.parts(np.int64, epoch.counts).tables(np.int64, epoch.cursor)
        arguments.numbers(epoch.batch_size, epoch.period)
        self._launch(order_source(), "order", networks, arguments)
        for source, part in pairs:
            columns = part[0, 0].size
            arguments = Arguments().numbers(count, columns, columns * source.itemsize)
            arguments.parts(source.dtype, source).parts(part.dtype, part).parts(np.int64, rows)
            self._launch(gather_source(source.dtype.name, part.dtype.name), "gather", networks, arguments)

    @_or_reference
    def matmul(self, a: Array, b: Array, out: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> None:
        if self._program is None or not self._typed(a, b, out):
            return self._call(super().matmul, a, b, out, transpose_a=transpose_a, transpose_b=transpose_b)
        operands = (a.swapaxes(-1, -2) if transpose_a else a, b.swapaxes(-1, -2) if transpose_b else b, out)
        networks, rows, columns = out.shape
        inner = operands[0].shape[2]
        if _regular(a, b, out) and is_small(rows, inner, columns, self.dtype, self.register_bytes):
            arguments = Arguments().numbers(rows, columns, inner).parts(self.dtype, a).numbers(*operands[0].strides[1:])
            arguments.parts(self.dtype, b).numbers(b.strides[1], transpose_b).parts(self.dtype, out)
            return self._launch(product_source(self.dtype.name, self.register_bytes), "product", networks, arguments)
        places = [[address_of(x[k if len(x) > 1 else 0]) for x in operands] for k in range(networks)]
        sizes = [1, rows, inner, columns]
        strides = [0, 0, 0, *(stride for x in operands for stride in x.strides[1:])]
        arguments = Arguments().numbers(matmul_loop(self.dtype))
        arguments.tables(np.int64, *(np.array(table, np.int64) for table in (places, sizes, strides)))
        arguments.arrays += operands
        self._launch(launch_source(), "matmul", networks, arguments)

    @_or_reference
    def bias_activation(
        self, activation: Activation, layer: Layer, cache: LayerCache, dropout: Dropout | None = None
    ) -> None:
        z, b, a = cache.z, layer.b, cache.a
        module = None if self._is_small(z) else activation_source(activation, self.dtype.name)
        if module is None or not (self._typed(z, b, a) and _regular(z, b, a)):
            return self._call(super().bias_activation, activation, layer, cache, dropout)
        arguments, name = Arguments().numbers(*z.shape[1:]).parts(self.dtype, z, b, a), "bias_activation"
        if dropout is not None and cache.mask is not None:
            arguments.parts(np.bool_, cache.mask).tables(np.float64, dropout.rate).tables(np.uint64, dropout.seeds)
            arguments.tables(np.int64, dropout.cursor, dropout.first_step).numbers(cache.index)
            name = "bias_dropout"
        self._launch(module, name if address_of(a) == address_of(z) else f"{name}_apart", len(z), arguments)

    @_or_reference
    def hadamard_derivative(
        self, activation: Activation, cache: LayerCache, grad_b: Array, dropout: Dropout | None = None
    ) -> None:
        delta, z_or_a = cache.delta, cache.derivative_input(activation)
        module = activation_source(activation, self.dtype.name)
        if module is None or not (self._typed(delta, z_or_a, grad_b) and _regular(delta, z_or_a, grad_b)):
            return self._call(super().hadamard_derivative, activation, cache, grad_b, dropout)
        arguments = Arguments().numbers(*delta.shape[1:]).parts(self.dtype, delta, z_or_a, grad_b)
        name = "hadamard_derivative"
        if dropout is not None and cache.mask is not None:
            arguments.parts(np.bool_, cache.mask).tables(np.float64, dropout.rate)
            name = "hadamard_dropout"
        self._launch(module, name, len(delta), arguments)

    @_or_reference
    def loss_delta(self, loss: Loss, cache: LayerCache, batch: Batch, epoch: Epoch, grad_b: Array) -> None:
        logits, y, weight = cache.a, batch.y, () if batch.weight is None else (batch.weight,)
        module, classes = loss_source(loss, self.dtype.name), y.ndim == 2
        y_type = np.int64 if classes else self.dtype
        typed = self._typed(logits, grad_b) and y.dtype == y_type
        if module is None or not (typed and _regular(logits, y, grad_b, *weight)):
            return self._call(super().loss_delta, loss, cache, batch, epoch, grad_b)
        arguments = Arguments().numbers(*logits.shape[1:]).parts(self.dtype, logits).parts(y_type, y)
        arguments.parts(np.float64, batch.weight).tables(np.float64, batch.smoothing)
        arguments.tables(np.int64, epoch.cursor).numbers(epoch.normalizer.shape[1])
        arguments.tables(np.float64, epoch.normalizer, epoch.totals).parts(self.dtype, grad_b)
        name = "loss_delta" if loss.row_loop is None else "classes" if classes else "distributions"
        self._launch(module, name, len(logits), arguments)

    @_or_reference
    def output(self, activation: Activation | Softmax, logits: Array) -> None:
        if self._is_small(logits):
            module, name = None, ""
        elif isinstance(activation, Softmax):
            module, name = loss_source(_WITH_SOFTMAX, self.dtype.name), "softmax"
        else:
            module, name = activation_source(activation, self.dtype.name), "output"
        if module is None or not (self._typed(logits) and _regular(logits)):
            return self._call(super().output, activation, logits)
        self._launch(module, name, len(logits), Arguments().numbers(*logits.shape[1:]).parts(self.dtype, logits))

    @_or_reference
    def optimizer_step(self, state: OptimizerState, theta: Array, grad: Array, epoch: Epoch) -> None:
        module, buffers = optimizer_source(state.rule, self.dtype.name), (theta, grad, *state.slots)
        if module is None or not (self._typed(*buffers) and all(x.flags.c_contiguous for x in buffers)):
            return self._call(super().optimizer_step, state, theta, grad, epoch)
        networks, size = theta.shape
        arguments = Arguments().numbers(size, state.n_weights, theta.strides[0]).tables(self.dtype, theta, grad)
        arguments.tables(np.int64, epoch.cursor, epoch.first_step).tables(np.float64, epoch.learning_rate, epoch.totals)
        arguments.numbers(epoch.normalizer.shape[1])
        arguments.tables(np.int64, state.updates, state.fault_step).tables(np.bool_, state.active)
        arguments.tables(np.float64, state.largest_update, state.l2, state.weight_decay, state.max_grad_norm)
        arguments.tables(np.float64, epoch.normalizer if state.l2_by_batch else None, state.penalty)
        arguments.tables(np.float64, *(state.options[name] for name in state.rule.options))
        arguments.tables(self.dtype, *state.slots)
        self._launch(module, "optimizer_step", networks, arguments)
        if self._program is None:
            epoch.cursor += 1
        else:
            self._program.cursor = epoch.cursor

    # -- pieces ---------------------------------------------------------------------------------------

    @property
    def _program(self) -> Program | None:
        """The program being recorded, if any."""
        return _RECORDING.program

    def _record(self, step: Callable[[], None]) -> Program:
        _RECORDING.program = program = Program()
        try:
            step()
            return program
        finally:
            _RECORDING.program = None

    def _launch(self, module: ModuleSource, name: str, networks: int, arguments: Arguments) -> None:
        """Run a loop, or record it."""
        run_loops()  # before recording: without it no loop can be run
        launches = Launches(address(load(module), name), networks, arguments)
        if self._program is not None:
            self._program.launch(launches)
        else:
            launches.run(0, networks, 1)

    def _call(self, operation: Callable[..., None], *arguments: Any, **options: Any) -> None:
        """Run an operation of the reference, or record it."""
        if self._program is not None:
            self._program.call(partial(operation, *arguments, **options))
        else:
            operation(*arguments, **options)

    def _is_small(self, array: Array) -> bool:
        """Whether the reference finishes before a loop would be called. In a program, a call costs nothing."""
        return self._program is None and array.size < self.small

    def _typed(self, *arrays: Array) -> bool:
        return all(array.dtype == self.dtype and array.flags.aligned for array in arrays)


def _aligned(make: Callable[[int, Any], Array], shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """An array aligned to the processor's cache lines, so that no register is loaded from two of them."""
    size = math.prod(shape) * dtype.itemsize
    memory = make(size + CACHE_LINE, np.uint8)
    start = -address_of(memory) % CACHE_LINE
    array: Array = memory[start : start + size].view(dtype).reshape(shape)
    return array


def _regular(*arrays: Array) -> bool:
    """Whether each network's part is contiguous."""
    return all(array[0].flags.c_contiguous for array in arrays)
