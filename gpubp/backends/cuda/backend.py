"""Every operation as launches of the kernels in ``kernels/`` and of cuBLASLt products, through a driver."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np

from gpubp._typing import Array
from gpubp.activations import Activation, Softmax, identity, relu
from gpubp.backends import Batch, Below, Dropout, Epoch, Layer, LayerCache, LossScale, OptimizerState, TrainingArrays
from gpubp.backends.cuda.driver import Driver, Kernel, NoAlgorithmError
from gpubp.backends.cuda.graph import StepGraphs
from gpubp.backends.cuda.on_chip import Matrices, OnChipSteps, one_activation, placement, rule_bytes
from gpubp.backends.cuda.source import C_TYPES, kernel_source
from gpubp.backends.cuda.tiles import ahead, is_small, tile_of, tiles
from gpubp.backends.cuda.unfused import UnfusedBackend, stride_of
from gpubp.backends.notices import say_once
from gpubp.backends.shuffle import ROUNDS
from gpubp.errors import UsageError
from gpubp.losses import LABEL_ACCURACY, RMSE, Loss

THREADS = 256  # of every block, as in kernels/common.cuh
MOST_BLOCKS = 65535  # along a grid's y and z; one of them counts networks
GATHERED = (1024, 4096)  # elements that a block gathers: fewer if there are few, for more blocks; else four per thread
MOST_GATHERED_ROWS = 64  # of a block, as in kernels/gather.cu
LOSS_ROWS = {2: THREADS, 32: THREADS // 32, THREADS: 4}  # the fewest per block, by the threads that share a row
MOST_LOSS_CHUNKS = 512  # blocks of a loss per network, so that their sums stay few
BY_ONE_BLOCK = 1 << 14  # parameters up to which one block computes a network's gradient norm and waits for no other
MOST_BLOCKS_OF_NORMS = 2048  # of all networks
MOST_ADDED = 1 << 14  # sums of chunks that the last block of a loss adds up alone
WITH_LOSS = (16, 16)  # the tile of a last layer computed with its loss: as many logits as threads, and whole rows
LINE = 128  # bytes of a row in a block's tile of columns
FIRST_SCALE, CLEAN_STEPS = 2.0**16, 2000  # of float16's loss scaling: first scale, steps until it doubles
NULL = np.uint64(0)

# Formulas that cuBLASLt applies itself, after adding the bias, when it writes the product.
IDENTITY = identity()
EPILOGUES = {relu().scalar_f: "relu_bias", IDENTITY.scalar_f: "bias"}


class CudaBackend(UnfusedBackend):
    """An NVIDIA GPU, or a driver that simulates one.

    A user's record without scalar expressions runs with the inherited formulas.
    """

    name = "cuda"
    way = "graph"
    shuffles_rows = True

    def __init__(self, driver: Driver, precision: str, device: str = "cuda", reason: str = "asked for") -> None:
        super().__init__(driver, precision, device, reason)
        self.scratch: dict[tuple[Any, ...], Array] = {}
        # Keyed by name, identity of records and defines; holds the records, so that no identity is reused.
        self._kernels: dict[tuple[Any, ...], tuple[Kernel, dict[str, Any]]] = {}
        self._updated = False  # whether the last kernel was an update, which reads and writes only parameters
        self.fused = True  # until a record without scalar expressions is used
        self.on_chip = os.environ.get("GPUBP_ON_CHIP", "") != "0"  # whether to train networks that fit there

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
        args: tuple[Any, ...] = (*arrays, epoch.cursor, *map(stride_of, arrays), np.int64(epoch.period))
        args += tuple(map(np.int32, (rows, columns, y_columns, epoch.batch_size, height, self._updated)))
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
        if activation.scalar_f is not None and self.has_kernels_for(layer.W, a_prev):
            return self._small_dense(activation, a_prev, layer, cache, dropout)
        z, b = cache.z, layer.b
        epilogue = EPILOGUES.get(activation.scalar_f)
        if epilogue is not None and z is cache.a and cache.mask is None:
            spec = self._product(a_prev, layer.W, z, epilogue=epilogue, bias=b)
            with suppress(NoAlgorithmError):  # there may be an algorithm without the epilogue
                return self.driver.gemm(spec)(a_prev, layer.W, z, b)
        self.matmul(a_prev, layer.W, out=z)
        self.bias_activation(activation, layer, cache, dropout)

    def has_kernels_for(self, W: Array, a_prev: Array, *, backward: bool = False) -> bool:
        """Whether our own kernels compute a layer's products, together with everything else for the layer."""
        networks, n_in, n_out = W.shape
        units = (self.compute, self.storage.name) != ("float32", "float32")
        whole = n_in * W.itemsize % 16 == 0 and n_out * W.itemsize % 16 == 0
        if units and not backward and whole and W.itemsize > 2:  # in 16 bits our kernels use tensor cores too
            return False  # the library writes z with bias and ReLU at once; it is slow with rows of other alignment
        return is_small(networks, a_prev.shape[1] * n_in * n_out, units)

    def _small_dense(
        self, activation: Activation, a_prev: Array, layer: Layer, cache: LayerCache, dropout: Dropout | None
    ) -> None:
        z, a, W, b = cache.z, cache.a, layer.W, layer.b
        (networks, rows, n), n_in = z.shape, a_prev.shape[2]
        products = [(rows, n, n_in)]
        tile = tile_of(networks, products)
        args: tuple[Any, ...] = (a_prev, W, b, z, a, np.int32(rows), np.int32(n_in), np.int32(n))
        args += tuple(map(stride_of, (a_prev, W, b, z, a)))
        dropping, defines = self._dropping(cache, dropout)
        grid = (tiles(rows, n, tile), networks, 1)
        defines = {**_tile(networks, products, tile), **defines}
        self._launch("dense", grid, args + dropping, activation=activation, defines=defines)

    def _dropping(self, cache: LayerCache, dropout: Dropout | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Further arguments and defines of a layer's kernel forward, if its activations are dropped."""
        if dropout is None or cache.mask is None:
            return (), {}
        args = (cache.mask, stride_of(cache.mask), dropout.rate, dropout.seeds)
        return (*args, dropout.cursor, dropout.first_step, np.int32(cache.index)), {"DROPOUT": 1}

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
        args: tuple[Any, ...] = (z, b, a, *shape, stride_of(z), stride_of(b), stride_of(a))
        dropping, defines = self._dropping(cache, dropout)
        self._launch("bias_activation", grid, args + dropping, activation=activation, defines=defines)

    def dense_backward(
        self,
        a_prev: Array,
        layer: Layer,
        cache: LayerCache,
        grad: Layer,
        below: Below | None = None,
        dropout: Dropout | None = None,
    ) -> None:
        fused = below is None or below.activation.scalar_derivative is not None
        if fused and self.has_kernels_for(layer.W, a_prev, backward=True):
            return self._small_dense_backward(a_prev, layer, cache, grad, below, dropout)
        with self.driver.aside():  # BP2 does not need the result
            if cache.sums_due:
                self._sum_rows(cache.delta, grad.b)
            self.matmul(a_prev, cache.delta, out=grad.W, transpose_a=True)
        cache.sums_due = False
        if below is not None:
            self.matmul(cache.delta, layer.W, out=below.cache.delta, transpose_b=True)
            self.hadamard_derivative(below.activation, below.cache, below.grad_b, dropout)
        self.driver.join()  # what follows overwrites the memory of δ, which BP4 reads

    def _small_dense_backward(
        self,
        a_prev: Array,
        layer: Layer,
        cache: LayerCache,
        grad: Layer,
        below: Below | None,
        dropout: Dropout | None,
    ) -> None:
        self.driver.join()
        W, delta = layer.W, cache.delta
        (networks, rows, n), n_in = delta.shape, a_prev.shape[2]
        products = [(n_in, n, rows)] + ([] if below is None else [(rows, n_in, n)])
        tile = tile_of(networks, products)
        grad_b = grad.b if cache.sums_due else None
        cache.sums_due = False
        args: tuple[Any, ...] = (a_prev, delta, grad.W, grad_b, np.int32(rows), np.int32(n_in), np.int32(n))
        args += tuple(map(stride_of, (a_prev, delta, grad.W, grad_b)))
        records: dict[str, Any] = {}
        defines = _tile(networks, products, tile)
        if below is not None:
            to, mask = below.cache.delta, below.cache.mask
            from_ = below.cache.derivative_input(below.activation)
            args += (W, to, from_, stride_of(W), stride_of(to), stride_of(from_))
            records, defines["BELOW"] = {"activation": below.activation}, 1
            below.cache.sums_due = True
            if dropout is not None and mask is not None:
                args += (mask, stride_of(mask), dropout.rate)
                defines["DROPOUT"] = 1
        grid = (sum(tiles(m, columns, tile) for m, columns, _ in products), networks, 1)
        self._launch("dense_backward", grid, args, defines=defines, **records)

    def hadamard_derivative(
        self, activation: Activation, cache: LayerCache, grad_b: Array, dropout: Dropout | None = None
    ) -> None:
        if activation.scalar_derivative is None:
            self._unfuse(activation.name)
            return super().hadamard_derivative(activation, cache, grad_b, dropout)
        delta, z_or_a = cache.delta, cache.derivative_input(activation)
        networks, rows, n = delta.shape
        # A function only of rows and n; hence the sums are too.
        wanted = 1 if rows <= 256 else min(-(-rows // 128), max(1, 1024 // self._tiles(n)))
        height = -(-rows // wanted)  # rows of a block
        chunks = -(-rows // height)
        partial = self._partial(chunks, grad_b)
        grid = (self._tiles(n), chunks, networks)
        args: tuple[Any, ...] = (delta, z_or_a, partial, np.int32(rows), np.int32(n), np.int32(height))
        args += (stride_of(delta), stride_of(z_or_a), stride_of(partial))
        if dropout is None or cache.mask is None:
            self._launch("hadamard_derivative", grid, args, activation=activation)
        else:
            args += (cache.mask, stride_of(cache.mask), dropout.rate)
            self._launch("hadamard_derivative", grid, args, activation=activation, defines={"DROPOUT": 1})
        if chunks > 1:
            self._sum_rows(partial, grad_b)

    def loss_delta(self, loss: Loss, cache: LayerCache, batch: Batch, epoch: Epoch, grad_b: Array) -> None:
        logits, y, weight, scaling = cache.a, batch.y, batch.weight, epoch.loss_scale
        networks, rows, n = logits.shape
        formulas = _loss_formulas(loss, n, classes=y.ndim < logits.ndim)
        if formulas is None:
            self._unfuse(loss.name)
            return super().loss_delta(loss, cache, batch, epoch, grad_b)
        least = LOSS_ROWS[formulas["defines"]["GROUP"]]
        height = least * -(-rows // (least * MOST_LOSS_CHUNKS))  # rows of a block
        chunks = -(-rows // height)
        partial = self._partial(chunks, grad_b)
        by_last_block = chunks > 1 and chunks * n <= MOST_ADDED
        args: tuple[Any, ...] = (logits, y, weight, epoch.normalizer, batch.smoothing)
        args += (None if scaling is None else scaling.scale, epoch.cursor, _steps(epoch))
        args += (np.int32(rows), np.int32(n), np.int32(height), stride_of(logits), stride_of(y), stride_of(weight))
        args += (partial, grad_b if by_last_block else None, self._scratch("totals", (networks, chunks, 2), np.float64))
        args += (epoch.totals, self._arrived(networks), stride_of(partial), stride_of(grad_b))
        self._launch("loss_delta", (chunks, networks, 1), args, **formulas)
        if chunks > 1 and not by_last_block:
            self._sum_rows(partial, grad_b)

    def dense_loss(
        self, loss: Loss, a_prev: Array, layer: Layer, cache: LayerCache, batch: Batch, epoch: Epoch, grad_b: Array
    ) -> None:
        y, weight, delta = batch.y, batch.weight, cache.delta
        networks, rows, n = delta.shape
        n_in = a_prev.shape[2]
        formulas = _loss_formulas(loss, n, classes=y.ndim < delta.ndim)
        products = [(rows, n, n_in)]
        fits = n <= WITH_LOSS[1] and tile_of(networks, products) == WITH_LOSS
        if formulas is None or not fits or not self.has_kernels_for(layer.W, a_prev):
            return super().dense_loss(loss, a_prev, layer, cache, batch, epoch, grad_b)
        self.driver.join()
        chunks = tiles(rows, n, WITH_LOSS)
        args: tuple[Any, ...] = (a_prev, layer.W, layer.b, delta, np.int32(rows), np.int32(n_in), np.int32(n))
        args += tuple(map(stride_of, (a_prev, layer.W, layer.b, delta)))
        args += (y, weight, epoch.normalizer, batch.smoothing)
        args += (None if epoch.loss_scale is None else epoch.loss_scale.scale, epoch.cursor, _steps(epoch))
        args += (stride_of(y), stride_of(weight), self._scratch("totals", (networks, chunks, 2), np.float64))
        args += (epoch.totals, self._arrived(networks))
        defines = formulas["defines"] | _tile(networks, products, WITH_LOSS)
        self._launch("dense_loss", (chunks, networks, 1), args, **{**formulas, "defines": defines})
        cache.sums_due = True

    def output(self, activation: Activation | Softmax, logits: Array) -> None:
        networks, rows, n = logits.shape
        if isinstance(activation, Softmax):
            grid = (-(-rows * 32 // THREADS), networks, 1)
            self._launch("softmax", grid, (logits, np.int32(rows), np.int32(n), stride_of(logits)))
        elif activation.scalar_f is None:
            self._unfuse(activation.name)
            super().output(activation, logits)
        else:
            grid = (_blocks(rows * n), networks, 1)
            self._launch("output_activation", grid, (logits, np.int64(rows * n), stride_of(logits)), output=activation)

    # -- the update -----------------------------------------------------------------------------------

    def optimizer_step(self, state: OptimizerState, theta: Array, grad: Array, epoch: Epoch) -> None:
        self.driver.join()
        rule = state.rule
        if rule.scalar_step is None or rule.scalar_prologue is None:
            self._unfuse(rule.name)
            return super().optimizer_step(state, theta, grad, epoch)
        networks, P = theta.shape
        blocks = _blocks(P // (16 // theta.dtype.itemsize))
        blocks = 1 if P <= BY_ONE_BLOCK else min(blocks, max(MOST_BLOCKS_OF_NORMS // networks, 1))
        members = 1 + len(rule.options) + len(rule.scalar_prologue) + 4  # of Step<Rule>, none above 8 bytes
        steps = self._scratch("steps", (networks, 8 * members), np.uint8)
        penalized = {} if state.l2 is None else {"L2": 1}
        counted = {} if state.penalty is None or state.l2 is None else {"PENALTY": 1}
        scaling = epoch.loss_scale
        squares = self._scratch("squares", (networks, blocks, 2), np.float64)
        args: tuple[Any, ...] = (grad, theta, squares, self._arrived(networks + 1))
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
        args = (theta, grad, state.operands, steps, state.largest_update, np.int64(state.n_weights), np.int64(P))
        args += state.slots
        grid, defines = (_blocks(P // (16 // theta.dtype.itemsize)), networks, 1), {**penalized, **tracked, **copied}
        self._launch("optimizer_step", grid, args, rule=rule, defines=defines)

    # -- how steps are run ----------------------------------------------------------------------------

    def capture(
        self, step: Callable[[int], None], prepare: Callable[[int], None] | None = None
    ) -> Callable[[int, int], None]:
        return StepGraphs(self.driver, step, lambda: self.fused, prepare).run

    def training_steps(
        self, step: Callable[[int], None], training: TrainingArrays
    ) -> tuple[str, Callable[[int, int], None]]:
        on_chip = self._on_chip_steps(training)
        return super().training_steps(step, training) if on_chip is None else ("on-chip", on_chip.run)

    def _on_chip_steps(self, training: TrainingArrays) -> OnChipSteps | None:
        """Steps on the chip for networks that fit there; None for those that do not.

        This depends only on shape, batch, types, records and device, and on nothing that changes during a training.
        """
        rule, data, n = training.optimizer.rule, training.data, training.shapes[-1][1]
        hidden = one_activation(training.activations)
        formulas = _loss_formulas(training.loss, n, classes=data.y.ndim == 2)
        # In the parameters' type, with products in TF32 where no more is promised; float16 has loss scaling of its own.
        ours = self.storage != np.float16 and data.X.dtype.name in C_TYPES
        if not (self.on_chip and ours) or hidden is None or formulas is None:
            return None
        if rule.scalar_step is None or rule.scalar_prologue is None:
            return None
        matrices = Matrices(
            training.shapes,
            training.starts,
            itemsize=self.dtype.itemsize,
            keeps_z=hidden.derivative_from == "z",
            dropout=training.dropout is not None,
            with_values=data.y.ndim > 2,
        )
        limit = self.driver.shared_memory - rule_bytes(rule, self.dtype.itemsize)
        placed = placement(matrices, training.batch_size, len(rule.slots), limit)
        if placed is None:
            return None
        defines = {key: value for key, value in formulas["defines"].items() if key != "GROUP"}
        formulas = {**formulas, "defines": defines}
        return OnChipSteps(self, self._launch, self._arrived(1), training, placed, formulas)

    # -- pieces ---------------------------------------------------------------------------------------

    def _launch(
        self,
        name: str,
        grid: tuple[int, int, int],
        args: tuple[Any, ...],
        defines: dict[str, Any] | None = None,
        shared: int = 0,
        storage: str | None = None,
        **records: Any,
    ) -> None:
        """Launch a kernel, given `kernel_source`'s arguments; None as an argument is a null pointer."""
        if max(grid[1:]) > MOST_BLOCKS:
            raise UsageError(
                f'device "{self.device}" takes at most {MOST_BLOCKS:,} networks in one stack, and this one has '
                f"{max(grid[1:]):,}; train them in several stacks"
            )
        key = (name, *((kind, id(record)) for kind, record in records.items()), *(defines or {}).items())
        if key not in self._kernels:
            source = kernel_source(name, storage or self.storage.name, **records, defines=defines)
            self._kernels[key] = self.driver.kernel(source), records
        kernel, _ = self._kernels[key]
        self._updated = name == "optimizer_step"
        kernel(grid, THREADS, tuple(NULL if arg is None else arg for arg in args), shared)

    def _unfuse(self, name: str) -> None:
        """Record that a record without scalar expressions was used: nothing is captured from now on."""
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
        """The buffer for sums over `chunks` chunks of rows: the gradient itself for a single chunk."""
        networks, _, n = grad_b.shape
        return grad_b if chunks == 1 else self._scratch("partial", (networks, chunks, n), self.dtype)

    def _sum_rows(self, values: Array, sums: Array) -> None:
        """sums (K, 1, n) = those of values (K, rows, n) over rows."""
        networks, rows, n = values.shape
        args = (values, sums, np.int32(rows), np.int32(n), stride_of(values), stride_of(sums))
        self._launch("column_sum", (self._tiles(n), 1, networks), args, defines={"S": values.dtype.name})

    def _scratch(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """A buffer kept as long as the backend, since graphs hold its address."""
        key = (name, shape, dtype)
        if key not in self.scratch:
            self.scratch[key] = self.driver.empty(shape, dtype)
        return self.scratch[key]

    def _arrived(self, networks: int) -> Array:
        key = ("arrived", networks)
        if key not in self.scratch:
            self.scratch[key] = self.driver.zeros((networks,), np.uint32)
        return self.scratch[key]


def _tile(networks: int, products: Sequence[tuple[int, int, int]], tile: tuple[int, int]) -> dict[str, Any]:
    """A tile of products as a kernel's macros."""
    return {"TILE_M": tile[0], "TILE_N": tile[1], "AHEAD": ahead(networks, products, tile)}


def _steps(epoch: Epoch) -> Any:
    """The steps in a row of the epoch's tables."""
    return np.int64(epoch.normalizer.shape[1])


def _blocks(threads: int) -> int:
    """Blocks for `threads` threads; beyond a few thousand blocks, each thread handles several elements."""
    return min(-(-threads // THREADS), 8192)


def _loss_formulas(loss: Loss, n: int, classes: bool) -> dict[str, Any] | None:
    """A loss over n outputs in the form kernels take, with GROUP threads per row; None if its records lack formulas."""
    few = 2 if n <= 16 else 32
    if loss.row_loop is not None:
        of_targets = {"CLASSES": 1} if classes else {}
        return {"defines": {"GROUP": few if n <= 1024 else THREADS, loss.row_loop.upper(): 1, **of_targets}}
    on_values, output = loss.values or loss, loss.output_activation
    if on_values.scalar_value is None or on_values.scalar_delta is None or loss.metric not in (LABEL_ACCURACY, RMSE):
        return None
    defines = {"GROUP": few, **({"LABELS": 1} if loss.metric is LABEL_ACCURACY else {})}
    if isinstance(output, Softmax):
        defines["LINK"] = 2
        return {"loss": on_values, "defines": defines} if loss.values else None
    if output.scalar_f is None or output.scalar_derivative is None:
        return None
    defines["LINK"] = 1 if loss.values else 0
    return {"loss": on_values, "output": output, "defines": defines}
