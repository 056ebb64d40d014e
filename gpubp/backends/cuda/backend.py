"""Every operation as launches of the kernels in ``kernels/`` and of cuBLASLt products, through a driver."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np

from gpubp._typing import Array
from gpubp.activations import Activation, Softmax, identity, relu
from gpubp.backends import Batch, Dropout, Epoch, Layer, LayerCache, LossScale, OptimizerState
from gpubp.backends.cuda.driver import Driver, Kernel, NoAlgorithmError, sign_bytes
from gpubp.backends.cuda.graph import StepGraphs
from gpubp.backends.cuda.source import kernel_source
from gpubp.backends.cuda.unfused import UnfusedBackend, stride
from gpubp.backends.notices import say_once
from gpubp.backends.shuffle import ROUNDS
from gpubp.errors import UsageError
from gpubp.losses import LABEL_ACCURACY, RMSE, Loss

THREADS = 256  # of every block, as kernels/common.cuh has it
MOST_BLOCKS = 65535  # along a grid's y and z, of which one counts networks
GATHERED = (1024, 4096)  # elements that a block gathers: where they are few, the more blocks; else four a thread
MOST_GATHERED_ROWS = 64  # of a block, as kernels/gather.cu has it
LOSS_ROWS = {32: THREADS // 32, THREADS: 4}  # the fewest of a block, by the threads that share a row
MOST_LOSS_CHUNKS = 512  # blocks of a loss for each network, so that their sums stay few
MOST_ADDED = 1 << 14  # sums of chunks that the last block of a loss adds up by itself
LINE = 128  # bytes of a row in a block's tile of columns
FIRST_SCALE, CLEAN_STEPS = 2.0**16, 2000  # of float16's loss scaling: where it starts, when it doubles
NULL = np.uint64(0)

# Formulas that cuBLASLt applies itself, after adding the bias, as it writes the product.
RELU = relu()
EPILOGUES = {RELU.scalar_f: "relu_bias", identity().scalar_f: "bias"}


class CudaBackend(UnfusedBackend):
    """An NVIDIA GPU, or what stands for one.

    A record without scalar expressions, a user's own, runs by the formulas that are inherited.
    """

    name = "cuda"
    shuffles_rows = True

    def __init__(self, driver: Driver, precision: str, device: str = "cuda", reason: str = "asked for") -> None:
        super().__init__(driver, precision, device, reason)
        self.scratch: dict[tuple[Any, ...], Array] = {}
        # By name, identity of records and defines; with the records, so that no other gets the identity of one.
        self._kernels: dict[tuple[Any, ...], tuple[Kernel, dict[str, Any]]] = {}
        self.fused = True  # until a record without scalar expressions is met

    # -- memory ---------------------------------------------------------------------------------------

    def loss_scale(self, networks: int) -> LossScale | None:
        if self.storage != np.float16:
            return None
        scale = self.from_host(np.full(networks, FIRST_SCALE))
        return LossScale(scale, self.zeros((networks,), np.int64), self.zeros((networks,), np.int64))

    def gather(self, data: Batch, epoch: Epoch, out: Batch) -> None:
        self.driver.join()
        orders, rows, columns = len(out.X), out.X.shape[1], prod(out.X.shape[2:])
        elements = GATHERED[orders * rows * columns >= 1 << 20]
        height = max(1, min(elements // columns, MOST_GATHERED_ROWS))  # rows of a block
        pairs = zip(data.samples, out.samples, strict=True)
        arrays = [array for source, part in pairs for array in (None if part is None else source, part)]
        arrays += epoch.order, epoch.keys, epoch.counts
        y_columns = 0 if out.y is None else prod(out.y.shape[2:])
        args: tuple[Any, ...] = (*arrays, epoch.cursor, *map(_stride, arrays), np.int64(epoch.period))
        args += tuple(map(np.int32, (rows, columns, y_columns, epoch.batch_size, height)))
        y_type = self.dtype if out.y is None else out.y.dtype
        types = {"S": data.X.dtype.name, "D": out.X.dtype.name, "Y": y_type.name, "ROUNDS": ROUNDS}
        self._launch("gather", (-(-rows // height), orders, 1), args, defines=types)

    def cast(self, source: Array, out: Array) -> None:
        self.driver.join()
        self._launch("cast", (_blocks(source.size), 1, 1), (source, out, np.int64(source.size)))

    # -- the four equations ---------------------------------------------------------------------------

    def dense(
        self, activation: Activation, a_prev: Array, layer: Layer, cache: LayerCache, dropout: Dropout | None = None
    ) -> None:
        self.driver.join()
        z, b, signs = cache.z, layer.b, cache.signs
        epilogue = EPILOGUES.get(activation.scalar_f)
        if signs is not None:
            signs.kept = False
            spec = self._product(a_prev, layer.W, z, epilogue="relu_aux_bias", bias=b, signs=signs.bits)
            with suppress(NoAlgorithmError):  # there may be one that keeps no signs
                self.driver.gemm(spec)(a_prev, layer.W, z, b, signs.bits)
                signs.kept = True
                return
        if epilogue is not None and z is cache.a and cache.mask is None:
            spec = self._product(a_prev, layer.W, z, epilogue=epilogue, bias=b)
            with suppress(NoAlgorithmError):  # there may be one without the epilogue
                return self.driver.gemm(spec)(a_prev, layer.W, z, b)
        self.matmul(a_prev, layer.W, out=z)
        self.bias_activation(activation, layer, cache, dropout)

    def sign_bytes(self, activation: Activation, n: int) -> int:
        formulas = activation.scalar_f, activation.scalar_derivative, activation.derivative_from
        return sign_bytes(n) if formulas == (RELU.scalar_f, RELU.scalar_derivative, RELU.derivative_from) else 0

    def bias_activation(
        self, activation: Activation, layer: Layer, cache: LayerCache, dropout: Dropout | None = None
    ) -> None:
        if activation.scalar_f is None:
            self._unfuse(activation.name)
            return super().bias_activation(activation, layer, cache, dropout)
        z, b, a = cache.z, layer.b, cache.a
        networks, rows, n = z.shape
        height = max(32 if rows * n < 1 << 20 else 128, -(-rows // MOST_BLOCKS))  # rows of a block
        grid = (self._tiles(n), -(-rows // height), networks)
        shape = (np.int32(rows), np.int32(n), np.int32(height))
        args: tuple[Any, ...] = (z, b, a, *shape, _stride(z), _stride(b), _stride(a))
        if dropout is None or cache.mask is None:
            return self._launch("bias_activation", grid, args, activation=activation)
        args += (cache.mask, _stride(cache.mask), dropout.rate, dropout.seeds)
        args += (dropout.cursor, dropout.first_step, np.int32(cache.index))
        self._launch("bias_activation", grid, args, activation=activation, defines={"DROPOUT": 1})

    def weight_gradient(self, a_prev: Array, cache: LayerCache, grad: Layer) -> None:
        delta = cache.delta
        if cache.signs is not None and cache.signs.sums_due:
            if delta.shape[1] > 1:  # older versions of cuBLASLt do not sum a single row
                spec = self._product(a_prev, delta, grad.W, transpose_a=True, epilogue="bgrad", bias=grad.b)
                with suppress(NoAlgorithmError), self.driver.aside():
                    return self.driver.gemm(spec)(a_prev, delta, grad.W, grad.b)
            self.hadamard_derivative(RELU, cache, grad.b)  # leaves δ, which is it already, and sums it
        with self.driver.aside():  # BP2 does not need it
            self.matmul(a_prev, delta, out=grad.W, transpose_a=True)

    def backpropagate(
        self,
        activation: Activation,
        delta: Array,
        W: Array,
        below: LayerCache,
        grad_b: Array,
        dropout: Dropout | None = None,
    ) -> None:
        if not self._backpropagate_signs(delta, W, below, grad_b):
            super().backpropagate(activation, delta, W, below, grad_b, dropout)
        self.driver.join()  # what comes next writes into the memory of δ, which BP4 reads

    def _backpropagate_signs(self, delta: Array, W: Array, below: LayerCache, grad_b: Array) -> bool:
        """BP2 in one product, with BP3 where its sums can have the type of `grad_b`; whether there is one."""
        signs, out = below.signs, below.delta
        if signs is None:
            return False
        signs.sums_due = False
        if not signs.kept or delta.shape[2] == 1:  # cuBLASLt wants at least two terms in a sum
            return False
        sums = grad_b if grad_b.dtype == out.dtype else None
        epilogue = "drelu" if sums is None else "drelu_bgrad"
        spec = self._product(delta, W, out, transpose_b=True, epilogue=epilogue, bias=sums, signs=signs.bits)
        with suppress(NoAlgorithmError):
            self.driver.gemm(spec)(delta, W, out, sums, signs.bits)
            signs.sums_due = sums is None
            return True
        return False

    def hadamard_derivative(
        self, activation: Activation, cache: LayerCache, grad_b: Array, dropout: Dropout | None = None
    ) -> None:
        if activation.scalar_derivative is None:
            self._unfuse(activation.name)
            return super().hadamard_derivative(activation, cache, grad_b, dropout)
        delta, z_or_a = cache.delta, cache.derivative_input(activation)
        networks, rows, n = delta.shape
        # A function of rows and n alone, and so are the sums.
        wanted = 1 if rows <= 256 else min(-(-rows // 128), max(1, 1024 // self._tiles(n)))
        height = -(-rows // wanted)  # rows of a block
        chunks = -(-rows // height)
        partial = self._partial(chunks, grad_b)
        grid = (self._tiles(n), chunks, networks)
        args: tuple[Any, ...] = (delta, z_or_a, partial, np.int32(rows), np.int32(n), np.int32(height))
        args += (_stride(delta), _stride(z_or_a), _stride(partial))
        if dropout is None or cache.mask is None:
            self._launch("hadamard_derivative", grid, args, activation=activation)
        else:
            args += (cache.mask, _stride(cache.mask), dropout.rate)
            self._launch("hadamard_derivative", grid, args, activation=activation, defines={"DROPOUT": 1})
        self._sum_chunks(partial, chunks, grad_b)

    def loss_delta(self, loss: Loss, cache: LayerCache, batch: Batch, epoch: Epoch, grad_b: Array) -> None:
        logits, y, weight, scaling = cache.a, batch.y, batch.weight, epoch.loss_scale
        networks, rows, n = logits.shape
        kernel = _loss_kernel(loss, n, classes=y.ndim < logits.ndim)
        if kernel is None:
            self._unfuse(loss.name)
            return super().loss_delta(loss, cache, batch, epoch, grad_b)
        name, group, formulas = kernel
        least = LOSS_ROWS[group]
        height = least * -(-rows // (least * MOST_LOSS_CHUNKS))  # rows of a block
        chunks = -(-rows // height)
        partial = self._partial(chunks, grad_b)
        by_last_block = chunks > 1 and chunks * n <= MOST_ADDED
        args: tuple[Any, ...] = (logits, y, weight, epoch.normalizer, batch.smoothing)
        args += (None if scaling is None else scaling.scale, epoch.cursor, _steps(epoch))
        args += (np.int32(rows), np.int32(n), np.int32(height), _stride(logits), _stride(y), _stride(weight))
        args += (partial, grad_b if by_last_block else None, self._scratch("totals", (networks, chunks, 2), np.float64))
        args += (epoch.totals, self._arrived(networks), _stride(partial), _stride(grad_b))
        self._launch(name, (chunks, networks, 1), args, **formulas)
        if not by_last_block:
            self._sum_chunks(partial, chunks, grad_b)

    def output(self, activation: Activation | Softmax, logits: Array) -> None:
        networks, rows, n = logits.shape
        if isinstance(activation, Softmax):
            grid = (-(-rows * 32 // THREADS), networks, 1)
            self._launch("softmax", grid, (logits, np.int32(rows), np.int32(n), _stride(logits)))
        elif activation.scalar_f is None:
            self._unfuse(activation.name)
            super().output(activation, logits)
        else:
            grid = (_blocks(rows * n), networks, 1)
            self._launch("output_activation", grid, (logits, np.int64(rows * n), _stride(logits)), output=activation)

    # -- the update -----------------------------------------------------------------------------------

    def optimizer_step(self, state: OptimizerState, theta: Array, grad: Array, epoch: Epoch) -> None:
        self.driver.join()
        rule = state.rule
        if rule.scalar_step is None or rule.scalar_prologue is None:
            self._unfuse(rule.name)
            return super().optimizer_step(state, theta, grad, epoch)
        networks, P = theta.shape
        blocks = min(_blocks(P // (16 // theta.dtype.itemsize)), 1024)
        members = 1 + len(rule.options) + len(rule.scalar_prologue) + 4  # of Step<Rule>, none above 8 bytes
        steps = self._scratch("steps", (networks, 8 * members), np.uint8)
        penalized = {} if state.l2 is None else {"L2": 1}
        counted = {} if state.penalty is None or state.l2 is None else {"PENALTY": 1}
        scaling = epoch.loss_scale
        squares = self._scratch("squares", (networks, blocks, 2), np.float64)
        args: tuple[Any, ...] = (grad, theta, squares, self._arrived(networks))
        args += (epoch.cursor, epoch.first_step, epoch.totals, epoch.learning_rate)
        args += (state.active, state.fault_step, state.updates, steps)
        args += (state.l2, epoch.normalizer if state.l2_by_batch else None, state.penalty if counted else None)
        args += (state.weight_decay, state.max_grad_norm)
        args += (None,) * 3 if scaling is None else (scaling.scale, scaling.clean_steps, scaling.overflows)
        args += (np.int64(CLEAN_STEPS), _steps(epoch), np.int64(state.n_weights), np.int64(P))
        args += tuple(state.options[name] for name in rule.options)
        self._launch("step_begin", (blocks, networks, 1), args, rule=rule, defines={**penalized, **counted})
        tracked = {} if state.largest_update is None else {"TRACKED": 1}
        copied = {} if state.operands is None else {"OPERANDS": 1}
        args = (theta, grad, state.operands, steps, state.largest_update, epoch.cursor)
        args += (np.int64(state.n_weights), np.int64(P), *state.slots)
        grid, defines = (_blocks(P // (16 // theta.dtype.itemsize)), networks, 1), {**penalized, **tracked, **copied}
        self._launch("optimizer_step", grid, args, rule=rule, defines=defines)

    # -- how steps are run ----------------------------------------------------------------------------

    def capture(self, step: Callable[[int], None]) -> Callable[[int, int], None]:
        return StepGraphs(self.driver, step, lambda: self.fused).run

    # -- pieces ---------------------------------------------------------------------------------------

    def _launch(
        self,
        name: str,
        grid: tuple[int, int, int],
        args: tuple[Any, ...],
        defines: dict[str, Any] | None = None,
        **records: Any,
    ) -> None:
        """Launch a kernel, of `kernel_source`'s `defines` and `records`; None as an argument is a null pointer."""
        if max(grid[1:]) > MOST_BLOCKS:
            raise UsageError(
                f'device "{self.device}" takes at most {MOST_BLOCKS:,} networks in one stack, and this one has '
                f"{max(grid[1:]):,}; train them in several stacks"
            )
        key = (name, *((kind, id(record)) for kind, record in records.items()), *(defines or {}).items())
        if key not in self._kernels:
            source = kernel_source(name, self.storage.name, **records, defines=defines)
            self._kernels[key] = self.driver.kernel(source), records
        kernel, _ = self._kernels[key]
        kernel(grid, THREADS, tuple(NULL if arg is None else arg for arg in args))

    def _unfuse(self, name: str) -> None:
        """Note that a record without scalar expressions was met: nothing is captured from now on."""
        if self.storage != self.dtype:
            raise UsageError(
                f'"{name}" has no scalar expressions, and precision "{self.precision}" has kernels only; '
                f'give it scalar expressions, or use precision="{self.dtype.name}"'
            )
        if self.fused:
            say_once(f'"{name}" has no scalar expressions: it runs unfused, and steps are not captured into graphs')
        self.fused = False

    def _tiles(self, n: int) -> int:
        """Blocks side by side over n columns."""
        return -(-n * int(self.storage.itemsize) // LINE)

    def _partial(self, chunks: int, grad_b: Array) -> Array:
        """Where sums over so many chunks of rows go: into the gradient itself if it is one."""
        networks, _, n = grad_b.shape
        return grad_b if chunks == 1 else self._scratch("partial", (networks, chunks, n), self.dtype)

    def _sum_chunks(self, partial: Array, chunks: int, grad_b: Array) -> None:
        if chunks > 1:
            networks, _, n = grad_b.shape
            args = (partial, grad_b, np.int32(chunks), np.int32(n), _stride(partial), _stride(grad_b))
            self._launch("column_sum", (self._tiles(n), 1, networks), args)

    def _scratch(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """A buffer kept for as long as the backend, since graphs hold its address."""
        key = (name, shape, dtype)
        if key not in self.scratch:
            self.scratch[key] = self.driver.empty(shape, dtype)
        return self.scratch[key]

    def _arrived(self, networks: int) -> Array:
        key = ("arrived", networks)
        if key not in self.scratch:
            self.scratch[key] = self.driver.zeros((networks,), np.uint32)
        return self.scratch[key]


def _stride(array: Array | None) -> Any:
    """`stride` as a kernel takes it; 0 for no array."""
    return np.int64(0 if array is None else stride(array))


def _steps(epoch: Epoch) -> Any:
    """The steps in a row of the epoch's tables."""
    return np.int64(epoch.normalizer.shape[1])


def _blocks(threads: int) -> int:
    """Blocks for so many threads; beyond a few thousand blocks, threads take several turns."""
    return min(-(-threads // THREADS), 8192)


def _loss_kernel(loss: Loss, n: int, classes: bool) -> tuple[str, int, dict[str, Any]] | None:
    """Name, threads per row, and formulas of the kernel for a loss over n outputs; None where its records lack them."""
    if loss.row_loop is not None:
        group = 32 if n <= 1024 else THREADS
        return loss.row_loop, group, {"defines": {"GROUP": group, **({"CLASSES": 1} if classes else {})}}
    on_values, output = loss.values or loss, loss.output_activation
    if on_values.scalar_value is None or on_values.scalar_delta is None or loss.metric not in (LABEL_ACCURACY, RMSE):
        return None
    defines = {"LABELS": 1} if loss.metric is LABEL_ACCURACY else {}
    if isinstance(output, Softmax):
        return ("elementwise_loss", 32, {"loss": on_values, "defines": {"LINK": 2, **defines}}) if loss.values else None
    if output.scalar_f is None or output.scalar_derivative is None:
        return None
    link = {"LINK": 1 if loss.values else 0}
    return "elementwise_loss", 32, {"loss": on_values, "output": output, "defines": {**link, **defines}}
