"""Training steps of small networks in one launch: which networks fit, their layout in shared memory, the launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp._typing import Array
from gpubp.activations import Activation, identity
from gpubp.backends.cuda.unfused import UnfusedBackend, stride_of
from gpubp.backends.records import TrainingArrays
from gpubp.backends.shuffle import ROUNDS
from gpubp.optimizers import Optimizer
from gpubp.precision import PRECISIONS

THREADS, TILE, MOST_LAYERS = 256, 4, 16  # as in kernels/train_on_chip.cu
STATIC = 7168  # bytes of shared memory besides what is sized here and the rule's scalars
AHEAD = 32  # steps whose scalars are held at once
FEWEST_ROWS = 16  # of a batch at a time, or the whole batch: with fewer, a product keeps few threads busy
# Multiplications of a step's products above which a network is left to the whole device. As measured on an H200, a step
# on one multiprocessor takes 12 us with few rows and 17 with 0.85 million of them, a graph of kernels 17 to 23 us.
MOST_MULTIPLICATIONS = 5 << 18
# Multiplications of one launch, about half a second's: a user's interrupt is handled between two launches.
MOST_IN_A_LAUNCH = 20e9
BESIDE_PRODUCTS = 1_000_000  # multiplications that take as long as everything else in a step
NO_HIDDEN_LAYER = identity()


@dataclass(frozen=True)
class Placement:
    """The layout of a network in a block's shared memory.

    Attributes
    ----------
    table : (layers, 12) int32
        A `LayerPlace` of kernels/train_on_chip.cu for each layer.
    size : int
        Elements of θ there, and of every array with the same layout.
    targets_at, used : int
        In elements: the offset of the targets, and the total size.
    kinds_at : int
        In bytes: the offset of a table with a byte for each 16 bytes of θ that tells what they are; 0 if the slots are
        not there.
    chunk : int
        Rows of a batch processed at once.
    slots_on_chip : bool
        Whether the optimizer's slots are in shared memory too, instead of in device memory.
    nbytes : int
    """

    table: NDArray[np.int32]
    size: int
    targets_at: int
    kinds_at: int
    used: int
    chunk: int
    slots_on_chip: bool
    nbytes: int


@dataclass(frozen=True, slots=True)
class Matrices:
    """The parts of a network and its training that are placed.

    Attributes
    ----------
    shapes : sequence of (n_in, n_out)
        The shape of every layer's weights.
    starts : sequence of (int, int)
        Where each layer's weights and biases begin in a row of θ.
    itemsize : int
        Bytes of a number.
    keeps_z : bool
        Whether σ′ is computed from z.
    dropout : bool
    with_values : bool
        Whether targets are values instead of classes.
    """

    shapes: Sequence[tuple[int, int]]
    starts: Sequence[tuple[int, int]]
    itemsize: int
    keeps_z: bool = False
    dropout: bool = False
    with_values: bool = False

    @property
    def multiplications(self) -> int:
        """Multiplications in a step's products, per row."""
        return 3 * sum(map(prod, self.shapes))


def row_length(n: int, itemsize: int) -> int:
    """Elements from one row of a matrix to the next: a multiple of 4 at least, and an odd number of 16-byte words."""
    words = _up(n) * itemsize // 16
    return (words | 1) * 16 // itemsize


def placement(matrices: Matrices, batch_size: int, slots: int, limit: int) -> Placement | None:
    """The placement of a network in `limit` bytes of shared memory, with its optimizer's slots if possible.

    None if it does not fit, or if a step of `batch_size` rows takes too long on one multiprocessor.
    """
    whole, room = min(_up(batch_size), THREADS), limit - STATIC
    if len(matrices.shapes) > MOST_LAYERS or batch_size * matrices.multiplications > MOST_MULTIPLICATIONS:
        return None
    for copies, on_chip in ((2 + slots, True), (2, False)):
        for chunks in range(-(-batch_size // THREADS), batch_size + 1):  # of equal size, up to a tile
            chunk = _up(-(-batch_size // chunks))
            if chunk < min(whole, FEWEST_ROWS):
                break
            placed = _placed(matrices, chunk, copies, on_chip)
            if placed.nbytes <= room:
                return placed
    return None


def _placed(matrices: Matrices, chunk: int, copies: int, slots_on_chip: bool) -> Placement:
    """The placement for `chunk` rows at once, with `copies` arrays of θ's shape."""
    taken, itemsize, last = 0, matrices.itemsize, len(matrices.shapes) - 1

    def room(elements: int) -> int:
        nonlocal taken
        taken += _up(elements)
        return taken - _up(elements)

    parameters = [(room(_up(n_in) * row_length(n_out, itemsize)), room(n_out)) for n_in, n_out in matrices.shapes]
    size = taken
    taken *= copies
    input_row = row_length(matrices.shapes[0][0], itemsize)
    read, table = room(chunk * input_row), []
    for l, ((n_in, n_out), starts, place) in enumerate(zip(matrices.shapes, matrices.starts, parameters, strict=True)):
        row = row_length(n_out, itemsize)
        a = room(chunk * row)
        z = room(chunk * row) if matrices.keeps_z and l < last else a
        table.append([n_in, n_out, *starts, *place, read, input_row, a, row, z, 0])
        read, input_row = a, row
    targets_at = room(chunk * input_row) if matrices.with_values else 0
    kinds_at = room(-(-size // 16)) * itemsize if slots_on_chip else 0
    if matrices.dropout:
        for layer in table[:-1]:
            layer[-1] = room(-(-chunk * layer[9] // itemsize)) * itemsize
    return Placement(
        table=np.array(table, np.int32),
        size=size,
        targets_at=targets_at,
        kinds_at=kinds_at,
        used=taken,
        chunk=chunk,
        slots_on_chip=slots_on_chip,
        nbytes=taken * itemsize,
    )


def _up(n: int) -> int:
    """The next multiple of a tile."""
    return -(-n // TILE) * TILE


class OnChipSteps:
    """The steps of a stack of networks that fit, with one block for each network.

    Parameters
    ----------
    backend : UnfusedBackend
        The CUDA backend.
    launch : callable
        ``launch(kernel, grid, args, defines, shared, storage, **records)``, the backend's.
    arrived : (n,) array
        A counter of blocks, zero between launches.
    training : TrainingArrays
    placement : Placement
    loss_formulas : dict
        Records and defines of the loss, for `kernel_source`.
    """

    def __init__(
        self,
        backend: UnfusedBackend,
        launch: Callable[..., None],
        arrived: Array,
        training: TrainingArrays,
        placement: Placement,
        loss_formulas: dict[str, Any],
    ) -> None:
        self.backend, self.launch, self.arrived = backend, launch, arrived
        self.training, self.placement = training, placement
        self.places = backend.driver.to_device(placement.table)
        defines, data, hidden = dict(loss_formulas["defines"]), training.data, training.activations[:-1]
        self.records = {name: record for name, record in loss_formulas.items() if name != "defines"}
        self.records |= {"activation": hidden[0] if hidden else NO_HIDDEN_LAYER, "rule": training.optimizer.rule}
        y = data.y if data.y.ndim == 2 else training.theta
        self.defines = defines | {"S": data.X.dtype.name, "Y": y.dtype.name, "ROUNDS": ROUNDS}
        if placement.slots_on_chip:
            self.defines["SLOTS_ON_CHIP"] = 1
        if training.dropout is not None:
            self.defines["DROPOUT"] = 1
        if PRECISIONS[backend.precision].coarse:
            self.defines["TF32"] = 1

    def run(self, count: int, rows: int) -> None:
        """Take `count` steps of `rows` rows."""
        networks = len(self.training.theta)
        waves = -(-networks // self.backend.driver.multiprocessors)
        a_step = 3 * rows * sum(map(prod, self.training.shapes)) + BESIDE_PRODUCTS
        most = max(1, int(MOST_IN_A_LAUNCH // (waves * a_step)))
        while count > 0:
            steps = min(count, most)
            self._launch(steps, rows)
            count -= steps
        if self.training.optimizer.operands is not None:
            self.backend.cast(self.training.theta, self.training.optimizer.operands)

    def _launch(self, steps: int, rows: int) -> None:
        training, place = self.training, self.placement
        data, epoch, state = training.data, training.epoch, training.optimizer
        self.backend.driver.join()
        args: tuple[Any, ...] = (training.theta, self.places, np.int32(len(place.table)), np.int32(place.size))
        args += tuple(map(np.int32, (place.targets_at, place.kinds_at, place.used)))
        args += tuple(map(np.int32, (place.chunk, rows, steps)))
        sources = (data.X, data.y, data.weight, epoch.order, epoch.keys, epoch.counts)
        args += (*sources, *map(stride_of, sources), np.int64(epoch.period), np.int32(epoch.batch_size), epoch.cursor)
        args += (epoch.first_step, epoch.normalizer, epoch.learning_rate, epoch.totals)
        args += (np.int64(epoch.normalizer.shape[1]), data.smoothing, state.active, state.fault_step, state.updates)
        args += (state.l2, np.int32(state.l2_by_batch), None if state.l2 is None else state.penalty)
        args += (state.weight_decay, state.max_grad_norm, state.largest_update)
        args += (self.arrived, np.int64(training.theta.shape[1]))
        if training.dropout is not None:
            args += (training.dropout.rate, training.dropout.seeds)
        args += tuple(state.options[name] for name in state.rule.options)
        args += state.slots
        grid = (len(training.theta), 1, 1)
        T = self.backend.dtype.name
        self.launch("train_on_chip", grid, args, defines=self.defines, shared=place.nbytes, storage=T, **self.records)


def rule_bytes(rule: Optimizer, itemsize: int) -> int:
    """Bytes of shared memory for the scalars of an optimizer."""
    return AHEAD * itemsize * (1 + len(rule.options) + len(rule.scalar_prologue or ()))


def one_activation(activations: Sequence[Activation]) -> Activation | None:
    """The activation of all hidden layers; None if they differ, or if it has no scalar expressions."""
    hidden = activations[:-1] or [NO_HIDDEN_LAYER]
    first = hidden[0]
    same = all(
        (other.scalar_f, other.scalar_derivative, other.derivative_from)
        == (first.scalar_f, first.scalar_derivative, first.derivative_from)
        for other in hidden
    )
    return first if same and first.scalar_f is not None and first.scalar_derivative is not None else None
