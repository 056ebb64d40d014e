"""Every kernel that the CUDA backend can launch, found by asking it to launch them on a driver that only notes down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np

from gpubp.activations import ACTIVATIONS, SOFTMAX, get_activation, get_output_activation
from gpubp.backends import Batch, Below, Dropout, Layer, LayerCache, OptimizerState, TrainingArrays
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.driver import GemmSpec, Source
from gpubp.backends.cuda.source import C_TYPES
from gpubp.backends.cuda.tiles import TILES
from gpubp.losses import LOSSES, Loss, get_loss, with_output_activation
from gpubp.optimizers import OPTIMIZERS, get_optimizer
from support.machines import one_step

STORAGES = ("float64", "float32", "float16", "bfloat16")  # each the name of a precision too
ON_VALUES = tuple(name for name in LOSSES if get_loss(name).output_activation.name == "identity")
OUTPUTS = (*ACTIVATIONS, SOFTMAX.name)
OTHER_OUTPUTS = tuple(name for name in OUTPUTS if name != "identity")  # than those of losses on values
TILES_OF_MOST = [next(iter(TILES))]  # of small layers in most activations, which have nothing to do with a tile's size
MANY = 1025  # classes, more than a warp shares
# Of training on the chip, whose formulas other kernels have too: each loop and each branch once. Activation, loss,
# optimizer, dropout, whether the slots are there too, and whether targets are classes.
ON_CHIP = (
    ("gelu", "cross_entropy", "rmsprop", True, True, False),
    ("tanh", "huber", "nesterov", False, False, False),
    ("mish", "binary_cross_entropy", "momentum", True, False, False),
    ("relu", "cross_entropy", "adam", False, True, True),
)


class Recorder:
    """A `Driver` whose arrays are NumPy's, whose products do nothing, and whose kernels are noted down."""

    xp = np
    name = "a list of kernels"
    compute_capability = (9, 0)
    multiprocessors = 1
    shared_memory = 227 << 10
    gemm_table = None

    def __init__(self) -> None:
        self.sources: list[Source] = []

    empty = staticmethod(np.empty)
    zeros = staticmethod(np.zeros)
    to_device = staticmethod(np.asarray)
    to_host = staticmethod(np.asarray)

    def kernel(self, source: Source) -> Callable[..., None]:
        self.sources.append(source)
        return _nothing

    def gemm(self, spec: GemmSpec) -> Callable[..., None]:
        return _nothing

    aside = turn = staticmethod(nullcontext)
    join = staticmethod(lambda: None)


def _nothing(*args: Any) -> None:
    pass


def launched(storage: str, launch: Callable[..., None], *args: Any) -> list[Source]:
    """The kernels of one of the functions below."""
    driver = Recorder()
    launch(CudaBackend(driver, storage), *args)
    return driver.sources


# -- operations, on the smallest arrays that they take ----------------------------------------------------


def layer(backend: CudaBackend, activation: str, dropout: bool) -> None:
    """What a hidden layer launches."""
    record, (z, cache, drop) = get_activation(activation), hidden(backend, dropout)
    backend.bias_activation(record, Layer(W=z, b=z), cache, drop)
    backend.hadamard_derivative(record, cache, backend.empty((1, 1, 1)), drop)


def small_layer(backend: CudaBackend, activation: str, dropout: bool, tile: tuple[int, int], panels: int = 1) -> None:
    """What a small hidden layer launches by tiles of this size, and the first one of a network on the way back.

    So many panels of a product are fetched ahead.
    """
    record, (z, cache, drop) = get_activation(activation), hidden(backend, dropout)
    parameters, grad = Layer(W=z, b=z), Layer(*(backend.empty((1, 1, 1)) for _ in range(2)))
    module = "gpubp.backends.cuda.backend"
    with patch(f"{module}.tile_of", lambda *_: tile), patch(f"{module}.ahead", lambda *_: panels):
        backend.dense(record, z, parameters, cache, drop)
        backend.dense_backward(z, parameters, cache, grad, Below(record, cache, grad.b), drop)
        backend.dense_backward(z, parameters, cache, grad)


def hidden(backend: CudaBackend, dropout: bool) -> tuple[Any, LayerCache, Dropout | None]:
    """An array, the cache of a layer that is all made of it, and its dropout."""
    z = backend.empty((1, 1, 1), backend.storage)
    if not dropout:
        return z, LayerCache(0, z=z, a=z, delta=z, mask=None), None
    drop = Dropout(np.zeros(1), np.zeros(1, np.uint64), *np.zeros((2, 1), np.int64))
    return z, LayerCache(0, z=z, a=z, delta=z, mask=backend.empty((1, 1, 1), np.bool_)), drop


def output(backend: CudaBackend, activation: str) -> None:
    """What an output layer launches for inference."""
    backend.output(get_output_activation(activation), backend.empty((1, 1, 1), backend.storage))


def loss(
    backend: CudaBackend,
    name: str,
    output: str | None = None,
    columns: int = 1,
    classes: bool = False,
    with_layer: bool = False,
) -> None:
    """What BP1 launches, with so many outputs, and with classes or one target for each of them.

    `with_layer`, in one kernel with the output layer.
    """
    record = loss_through(name, output)
    logits, grad_b = backend.empty((1, 1, columns), backend.storage), backend.empty((1, 1, columns))
    y = backend.empty((1, 1), np.int64) if classes else backend.empty((1, 1, columns))
    cache = LayerCache(0, z=logits, a=logits, delta=logits, mask=None)
    batch = Batch(X=None, y=y, weight=None, smoothing=backend.zeros((1,), np.float64))
    if with_layer:
        with patch.object(CudaBackend, "has_kernels_for", lambda *_: True):
            backend.dense_loss(record, logits, Layer(logits, logits), cache, batch, one_step(backend, 1), grad_b)
    else:
        backend.loss_delta(record, cache, batch, one_step(backend, 1), grad_b)


def update(backend: CudaBackend, optimizer: str, l2: bool, penalty: bool, tracked: bool) -> None:
    """What an update launches."""
    rule, theta, per_network = get_optimizer(optimizer), backend.empty((1, 128)), backend.zeros((1,), np.float64)
    state = OptimizerState(
        rule,
        dict.fromkeys(rule.options, per_network),
        (theta,) * len(rule.slots),
        updates=backend.zeros((1,), np.int64),
        active=backend.zeros((1,), np.bool_),
        fault_step=backend.zeros((1,), np.int64),
        n_weights=128,
        largest_update=per_network if tracked else None,
        l2=per_network if l2 else None,
        penalty=backend.zeros((1, 1), np.float64) if penalty else None,
        operands=None if backend.storage == backend.dtype else backend.empty(theta.shape, backend.storage),
    )
    backend.optimizer_step(state, theta, theta, one_step(backend, 1))


def gather(backend: CudaBackend, source: Any, target: Any, classes: bool = True) -> None:
    """What a batch launches whose rows are kept as `source` and computed with as `target`."""
    y = backend.empty((1, 1), np.int64) if classes else backend.empty((1, 1, 1))
    data, batch = (Batch(backend.empty((1, 1, 1), kind), y, None, None) for kind in (source, target))
    backend.gather(data, one_step(backend, 1), batch)


def sums(backend: CudaBackend) -> None:
    """What no record has a part in: the sums over many rows, and the copy of θ."""
    tall, grad_b = backend.empty((1, 1000, 1), backend.storage), backend.empty((1, 1, 1))
    backend.hadamard_derivative(get_activation("identity"), LayerCache(0, tall, tall, tall, None), grad_b)
    if backend.storage != backend.dtype:
        backend.cast(backend.empty((1, 1)), backend.empty((1, 1), backend.storage))


def steps(
    backend: CudaBackend, activation: str, loss: str, optimizer: str, dropout: bool, slots_on_chip: bool, hard: bool
) -> None:
    """What a training on the chip launches."""
    rule, per_network = get_optimizer(optimizer), backend.zeros((1,), np.float64)
    counters = {name: backend.zeros((1,), np.int64) for name in ("updates", "fault_step")}
    theta, y = backend.empty((1, 512)), backend.empty((1, 1), np.int64) if hard else backend.empty((1, 1, 2))
    epoch = one_step(backend, 1)
    training = TrainingArrays(
        shapes=[(2, 2), (2, 2)],
        starts=[(0, 256), (128, 384)],
        activations=[get_activation(activation), get_activation("identity")],
        loss=get_loss(loss),
        theta=theta,
        data=Batch(backend.empty((1, 1, 2)), y, None, per_network),
        batch_size=1,
        epoch=epoch,
        dropout=Dropout(per_network, np.zeros(1, np.uint64), epoch.cursor, epoch.first_step) if dropout else None,
        optimizer=OptimizerState(
            rule,
            dict.fromkeys(rule.options, per_network),
            (theta,) * len(rule.slots),
            active=backend.zeros((1,), np.bool_),
            n_weights=256,
            **counters,
        ),
    )
    most = backend.driver.shared_memory
    for limit in (most,) if slots_on_chip else range(0, most, 64):  # the least has room without slots first
        backend.driver.shared_memory = limit
        way, run = backend.training_steps(_nothing, training)
        if way == "on-chip":
            return run(1, 1)
    raise LookupError("a small network does not fit on the chip")


def launched_by(case: dict[str, Any]) -> list[Source]:
    """The kernels that a case of test_kernels_host.py launches."""
    if "source" in case:
        return launched("float32", gather, dtype(case["source"]), dtype(case["target"]), case["targets"] == "hard")
    if "optimizer" in case:
        options = (case[option] for option in ("optimizer", "l2", "penalty", "tracked"))
        return launched(case["storage"], update, *options)
    if "loss" in case:
        named = case["loss"], case.get("output"), case["columns"], case["targets"] == "hard", "inputs" in case
        return launched(case["storage"], loss, *named)
    if "tile" in case:
        return launched(case["storage"], small_layer, case["activation"], case["dropout"], case["tile"])
    if "dropout" in case:
        kernels = launched(case["storage"], layer, case["activation"], case["dropout"])
        return kernels + launched(case["storage"], sums)
    return launched(case["storage"], output, case["activation"])


# -- all of them ------------------------------------------------------------------------------------------


def loss_through(name: str, output: str | None) -> Loss:
    """A loss with its own output activation, or a loss on values with another one."""
    record = get_loss(name)
    return record if output is None else with_output_activation(record, get_output_activation(output))


def _on_chip_variants(storage: str) -> dict[str, tuple[str, Source]]:
    """What is compiled of training on the chip: bfloat16 is by tensor cores, and float16 not there."""
    found = {}
    for case in ON_CHIP if storage != "float16" else ():
        (source,) = launched(storage, steps, *case)
        found[source.text] = ", ".join(case[:3]) + " with dropout" * case[3], source
    return found


def loss_variants() -> Iterator[tuple[Any, ...]]:
    """What each loss is compiled for: a label, and the arguments of `loss`."""
    for name in LOSSES:
        if get_loss(name).row_loop is None:
            yield name, name
            yield f"{name} with its layer", name, None, 1, False, True
            continue
        for classes in (False, True):
            label = name + ", classes" * classes
            for columns in (1, MANY):
                yield f"{label}, {columns} outputs", name, None, columns, classes
            yield f"{label} with its layer", name, None, 1, classes, True


def every_variant(storage: str) -> dict[str, tuple[str, Source]]:
    """All kernels for one type: by their text, what they are for, and the source."""
    found: dict[str, tuple[str, Source]] = {}

    def add(label: str, launch: Callable[..., None], *args: Any) -> None:
        for source in launched(storage, launch, *args):
            found.setdefault(source.text, (label, source))

    both = (False, True)
    for activation, dropout in product(ACTIVATIONS, both):
        label = activation + " with dropout" * dropout
        add(label, layer, activation, dropout)
        for tile in TILES if activation in ("relu", "gelu") else TILES_OF_MOST:
            for panels in (1, 2) if activation == "relu" else (1,):
                add(label, small_layer, activation, dropout, tile, panels)
    for activation in OUTPUTS:
        add(activation, output, activation)
    for label, *case in loss_variants():
        add(label, loss, *case)
    add("several quantiles", loss, "quantile(0.1, 0.5, 0.9)", None, 3)
    for name in ON_VALUES:
        for activation in OTHER_OUTPUTS:
            add(f"{name} through {activation}", loss, name, activation)
    for optimizer in OPTIMIZERS:
        for l2, penalty, tracked in product(both, repeat=3):
            label = optimizer + " with l2" * l2 + ", penalty" * penalty + ", tracked" * tracked
            add(label, update, optimizer, l2, penalty, tracked)
    for source, classes in product(C_TYPES, both):
        add(f"{source} to {storage}" + ", classes" * classes, gather, dtype(source), dtype(storage), classes)
    add("", sums)
    return found | _on_chip_variants(storage)


def dtype(name: str) -> Any:
    """A dtype by its name; NumPy has no bfloat16."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
