"""What each kernel must compute: checks for tests to hand cases to, and for planted faults to fail."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np

from gpubp.activations import get_activation, get_output_activation
from gpubp.backends import Batch, Below, Dropout, Layer, LayerCache, OptimizerState
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.driver import Driver
from gpubp.backends.philox import dropout_mask
from gpubp.backends.reference import NumpyNamespace
from gpubp.backends.shuffle import order_keys, rows_at
from gpubp.layout import Layout
from gpubp.losses import Loss
from gpubp.optimizers import get_optimizer
from support.kernel_parity import Machine, on_all, one_each, parameters_of, rounded, wide
from support.kernel_variants import dtype, loss_through
from support.machines import host

XP = NumpyNamespace()


# -- layers -----------------------------------------------------------------------------------------------


def check_layer(
    driver: Driver, *, activation: str, storage: str, rows: int, columns: int, networks: int, dropout: bool, place: str
) -> None:
    """z + b and σ of it; δ = grad ⊙ σ′ and its sums; the mask bit for bit."""
    record, shape, layer, step = get_activation(activation), (networks, rows, columns), 3, 70_000
    rng = np.random.default_rng([rows, columns, networks])
    z, grad = rounded(rng.normal(0, 2, shape), storage), rounded(rng.normal(0, 1, shape), storage)
    b = rounded(rng.normal(0, 1, (networks, 1, columns)), storage)
    rate, seeds = one_each(networks, 0.0, 0.9), rng.integers(0, 2**64, networks, np.uint64)
    lead = np.arange(networks)  # in steps: each network's own
    mask = dropout_mask(np, seeds, rate, layer, step + lead, rows, columns)

    def drop(machine: Machine) -> Dropout | None:
        return Dropout(*map(machine.plain, (rate, seeds, np.array([1]), step - 1 + lead))) if dropout else None

    def forward(machine: Machine) -> dict[str, Any]:
        kind = machine.backend.storage
        z_, b_ = machine.put(z, kind), machine.put(b, kind)
        a = z_ if record.derivative_from == "a" else machine.room(shape, kind)
        drawn = machine.room(shape, np.bool_) if dropout else None
        cache = LayerCache(layer, z=z_, a=a, delta=a, mask=drawn)
        machine.backend.bias_activation(record, Layer(W=b_, b=b_), cache, drop(machine))
        return {"z": z_, "a": a, **({"mask": drawn} if dropout else {})}

    results = on_all(driver, storage, place, forward)
    results.check("z", storage)
    results.check("a", storage)
    if dropout:
        np.testing.assert_array_equal(results.found["mask"], mask)
    kept = rounded(results.exact["a" if record.derivative_from == "a" else "z"], storage)

    def backward(machine: Machine) -> dict[str, Any]:
        kind = machine.backend.storage
        delta, kept_ = machine.put(grad, kind), machine.put(kept, kind)
        drawn = machine.put(mask, np.bool_) if dropout else None
        grad_b = machine.room((networks, 1, columns))
        cache = LayerCache(layer, z=kept_, a=kept_, delta=delta, mask=drawn)
        machine.backend.hadamard_derivative(record, cache, grad_b, drop(machine))
        return {"delta": delta, "grad_b": grad_b}

    results = on_all(driver, storage, place, backward)
    results.check("delta", storage)
    results.check("grad_b", parameters_of(storage), np.abs(results.exact["delta"]).sum(axis=1, keepdims=True))


def check_small_layer(
    driver: Driver,
    *,
    activation: str,
    storage: str,
    rows: int,
    inputs: int,
    columns: int,
    networks: int,
    dropout: bool,
    place: str,
    tile: tuple[int, int],
) -> None:
    """A layer forward in one kernel, and back in another: z and a; BP4, BP3, and BP2 to a layer with `inputs` units."""
    record, shape, step = get_activation(activation), (networks, rows, columns), 70_000
    rng = np.random.default_rng([rows, inputs, columns, networks])
    a_prev = rounded(rng.normal(0, 1, (networks, rows, inputs)), storage)  # what the layer below has kept, too
    W = rounded(rng.normal(0, 1, (networks, inputs, columns)) / np.sqrt(inputs), storage)
    b, delta = (rounded(rng.normal(0, 1, s), storage) for s in ((networks, 1, columns), shape))
    rate, seeds = one_each(networks, 0.0, 0.9), rng.integers(0, 2**64, networks, np.uint64)
    mask = dropout_mask(np, seeds, rate, 3, step + np.zeros(networks, np.int64), rows, columns)
    mask_below = rng.random(a_prev.shape) < 0.5

    def drop(machine: Machine) -> Dropout | None:
        drawn = rate, seeds, np.array([1]), np.full(networks, step - 1)
        return Dropout(*map(machine.plain, drawn)) if dropout else None

    def forward(machine: Machine) -> dict[str, Any]:
        kind = machine.backend.storage
        x, W_, b_ = (machine.put(values, kind) for values in (a_prev, W, b))
        z = machine.room(shape, kind)
        a = z if record.derivative_from == "a" else machine.room(shape, kind)
        drawn = machine.room(shape, np.bool_) if dropout else None
        machine.backend.dense(record, x, Layer(W=W_, b=b_), LayerCache(3, z, a, a, drawn), drop(machine))
        return {"z": z, "a": a, **({"mask": drawn} if dropout else {})}

    def backward(machine: Machine) -> dict[str, Any]:
        kind = machine.backend.storage
        x, W_, delta_ = (machine.put(values, kind) for values in (a_prev, W, delta))
        drawn = machine.put(mask_below, np.bool_) if dropout else None
        grad = Layer(machine.room(W.shape), machine.room(b.shape))
        below = Below(
            record, LayerCache(2, x, x, machine.room(a_prev.shape, kind), drawn), machine.room((networks, 1, inputs))
        )
        cache = LayerCache(3, delta_, delta_, delta_, None, sums_due=True)
        machine.backend.dense_backward(x, Layer(W_, W_), cache, grad, below, drop(machine))
        first = Layer(machine.room(W.shape), grad.b)
        machine.backend.dense_backward(x, Layer(W_, W_), cache, first)
        sums = grad.b if isinstance(machine.backend, CudaBackend) else delta.sum(axis=1, keepdims=True)
        return {"grad_W": grad.W, "first": first.W, "grad_b": sums, "below": below.cache.delta}

    scale = 1 / (1 - rate[:, None, None]) if dropout else 1.0
    with (
        patch("gpubp.backends.cuda.backend.tile_of", lambda *_: tile),
        patch.object(CudaBackend, "has_kernels_for", lambda *_, **options: True),
    ):
        results = on_all(driver, storage, place, forward)
        terms = np.abs(a_prev) @ np.abs(W) + np.abs(b)
        results.check("z", storage, scale * terms)
        results.check("a", storage, scale * terms)
        if dropout:
            np.testing.assert_array_equal(results.found["mask"], mask)
        results = on_all(driver, storage, place, backward)
    theirs = parameters_of(storage)
    for name in ("grad_W", "first"):
        results.check(name, theirs, np.abs(a_prev).swapaxes(1, 2) @ np.abs(delta))
    results.check("grad_b", theirs, np.abs(delta).sum(axis=1, keepdims=True))
    results.check("below", storage, scale * (np.abs(delta) @ np.abs(W).swapaxes(1, 2)))


def check_output(
    driver: Driver, *, activation: str, storage: str, rows: int, columns: int, networks: int, place: str
) -> None:
    """a^L from logits, in place."""
    rng = np.random.default_rng([rows, columns, networks])
    z = rounded(rng.normal(0, 2, (networks, rows, columns)), storage)

    def run(machine: Machine) -> dict[str, Any]:
        a = machine.put(z, machine.backend.storage)
        machine.backend.output(get_output_activation(activation), a)
        return {"a": a}

    on_all(driver, storage, place, run).check("a", storage)


# -- losses -----------------------------------------------------------------------------------------------


def check_loss(
    driver: Driver,
    *,
    loss: str,
    output: str | None = None,
    storage: str,
    rows: int,
    columns: int,
    networks: int,
    targets: str,
    weights: str,
    smoothing: bool,
    place: str,
    inputs: int | None = None,
) -> None:
    """δᴸ, its sums, and Σ weight · (value, metric), with loss scaling where the type needs it.

    Parameters
    ----------
    inputs : int, optional
        Of a last layer that is computed in the same kernel, which leaves the sums of δᴸ to the way back.
    targets : {"hard", "soft"}
        Classes or distributions, labels or probabilities; values are values either way.
    weights : {"none", "shared", "own"}
        Of samples; with "own", each network has targets of its own too.
    """
    record, rng = loss_through(loss, output), np.random.default_rng([rows, columns, networks])
    if inputs is None:
        z = terms_of_z = rounded(rng.normal(0, 2, (networks, rows, columns)), storage)
    else:
        a_prev, W, b = (
            rounded(rng.normal(0, deviation, shape), storage)
            for deviation, shape in (
                (1.0, (networks, rows, inputs)),
                (2 / np.sqrt(inputs), (networks, inputs, columns)),
                (1.0, (networks, 1, columns)),
            )
        )
        z, terms_of_z = a_prev @ W + b, np.abs(a_prev) @ np.abs(W) + np.abs(b)
    owners = networks if weights == "own" else 1
    y = _targets(rng, record, z[:owners], targets, parameters_of(storage), met=inputs is None)
    weight = None if weights == "none" else rng.integers(0, 3, (owners, rows)) * rng.random((owners, rows))
    smoothed = one_each(networks, 0.0, 0.3) if smoothing and record.classification else np.zeros(networks)
    normalizer = rng.uniform(0.5, 2.0, (networks, 3)) / rows
    scale = 2.0 ** np.arange(3, 3 + networks) if storage == "float16" else np.ones(networks)
    step = 2

    def run(machine: Machine) -> dict[str, Any]:
        epoch = machine.epoch(
            step,
            normalizer=normalizer if machine.scales else normalizer * scale[:, None],
            learning_rate=np.zeros((networks, 3)),
            scale=scale,
        )
        kind, grad_b = machine.backend.storage, machine.room((networks, 1, columns))
        delta = machine.put(z, kind) if inputs is None else machine.room(z.shape, kind)
        target = machine.put(y, np.int64 if y.dtype.kind == "i" else None)
        w = None if weight is None else machine.put(weight, np.float64)
        cache = LayerCache(0, z=delta, a=delta, delta=delta, mask=None)
        batch = Batch(X=None, y=target, weight=w, smoothing=machine.plain(smoothed))
        if inputs is None:
            machine.backend.loss_delta(record, cache, batch, epoch, grad_b)
            return {"delta": delta, "grad_b": grad_b, "totals": epoch.totals}
        x, W_, b_ = (machine.put(values, kind) for values in (a_prev, W, b))
        machine.backend.dense_loss(record, x, Layer(W_, b_), cache, batch, epoch, grad_b)
        assert cache.sums_due == isinstance(machine.backend, CudaBackend), "it went another way"
        return {"delta": delta, "totals": epoch.totals}

    with patch.object(CudaBackend, "has_kernels_for", lambda *_, **options: True):
        results = on_all(driver, storage, place, run)
    factors = normalizer[:, step, None, None] * scale[:, None, None] * (1 if weight is None else weight[..., None])
    results.check("delta", storage, np.abs(results.exact["delta"]) + (0 if inputs is None else factors * terms_of_z))
    if inputs is None:
        own = results.found["delta"]  # what is summed up is what was rounded
        results.exact["grad_b"] = results.single["grad_b"] = own.sum(axis=1, keepdims=True)
        results.check("grad_b", parameters_of(storage), np.abs(own).sum(axis=1, keepdims=True))
    terms = np.zeros((networks, 3, 2))
    per_row = np.abs(terms_of_z).max(axis=2) if record.row_loop else np.abs(terms_of_z).sum(axis=2)
    terms[:, step] = (per_row if weight is None else per_row * weight).sum(axis=1)[:, None]
    results.check("totals", "float64", np.abs(results.exact["totals"]) + terms)
    assert not results.found["totals"][:, :step].any(), "the totals of another step were written"


def _targets(rng: np.random.Generator, loss: Loss, z: Any, targets: str, kind: str, met: bool) -> Any:
    """Targets (K, rows, n), or classes (K, rows); not where δ jumps, since rounding would choose a side.

    Values are met by some z exactly, if `met`: there δ is 0.
    """
    if loss.integer_targets:
        if targets == "hard":
            return rng.integers(0, z.shape[2], z.shape[:2])
        return rounded(rng.dirichlet(np.ones(z.shape[2]), z.shape[:2]), kind)
    if loss.classification:
        y = rng.random(z.shape)
        return rounded(np.rint(y) if targets == "hard" else y, kind)
    if loss.targets[0] == 0:
        return rounded(rng.poisson(2.0, z.shape), kind)
    if loss.values is None:
        away = rng.choice([-1, 1], z.shape) * rng.uniform(0.05, 2.0, z.shape)
        return rounded(np.where(met & (rng.random(z.shape) < 0.1), z, z + away), kind)
    away = rng.choice([-1, 1], z.shape) * rng.uniform(0.05, 2.0, z.shape)
    return rounded(loss.output_activation.f(XP, z) + away, kind)


# -- updates and batches ----------------------------------------------------------------------------------


def check_update(
    driver: Driver,
    *,
    optimizer: str,
    storage: str,
    inputs: int,
    networks: int,
    l2: bool,
    l2_by_batch: bool,
    penalty: bool,
    weight_decay: bool,
    clipping: bool,
    tracked: bool,
    inactive: bool,
) -> None:
    """Ten steps over a layer with so many inputs; with `inactive`, every other network stands still from the start.

    In the seventh, something of the last network is not finite: the gradient, or with loss scaling, where that
    would only be an overflow, the loss.
    """
    rule, layout, steps, first, fault = get_optimizer(optimizer), Layout([inputs, 33]), 10, 100, 6
    rng = np.random.default_rng([inputs, networks])
    used = np.zeros((1, layout.size), np.bool_)
    for layer in layout.layers(used):
        layer.W[...] = layer.b[...] = True
    theta = rounded(rng.normal(0, 1, (networks, layout.size)) * used, parameters_of(storage))
    grads = rounded(rng.normal(0, 0.1, (steps, networks, layout.size)) * used, parameters_of(storage))
    totals = np.zeros((networks, steps, 2))
    if storage == "float16":
        totals[-1, fault, 0] = np.nan
    else:
        grads[fault, -1, 0] = np.nan
    norm = 0.1 * np.sqrt(used.sum())  # of a usual gradient, so that some are clipped and some are not
    active = np.array([not inactive or k % 2 == 0 for k in range(networks)])
    options = {name: value * one_each(networks, 0.5, 1.0) for name, value in rule.options.items()}
    rates = rng.uniform(0.01, 0.1, (networks, steps))
    scale = 2.0 ** np.arange(1, 1 + networks)

    def run(machine: Machine) -> dict[str, Any]:
        def option(wanted: bool, low: float, high: float) -> Any:
            return machine.plain(one_each(networks, low, high)) if wanted else None

        backend, moved = machine.backend, machine.put(theta)
        state = OptimizerState(
            rule,
            {name: machine.plain(value) for name, value in options.items()},
            tuple(machine.put(np.zeros(theta.shape)) for _ in rule.slots),
            updates=machine.plain(np.zeros(networks, np.int64)),
            active=machine.plain(active),
            fault_step=machine.plain(np.full(networks, -1)),
            n_weights=layout.n_weights,
            largest_update=machine.plain(np.zeros(networks)) if tracked else None,
            l2=option(l2, 0.01, 0.1),
            l2_by_batch=l2_by_batch,
            penalty=machine.plain(np.zeros((networks, steps))) if penalty else None,
            weight_decay=option(weight_decay, 0.01, 0.1),
            max_grad_norm=option(clipping, 0.5 * norm, 1.5 * norm),
            operands=None if backend.storage == backend.dtype else machine.put(theta, backend.storage),
        )
        epoch = machine.epoch(0, first, normalizer=rates[:, ::-1], learning_rate=rates, scale=scale)
        epoch.totals = machine.plain(totals)
        for grad in grads:
            scaled = grad * scale[:, None] if machine.scales else grad
            backend.optimizer_step(state, moved, machine.put(scaled), epoch)
        numbers = {"theta": moved, **dict(zip(rule.slots, state.slots, strict=True))}
        if tracked:
            numbers["largest"] = state.largest_update
        if penalty:
            numbers["penalty"] = state.penalty
        if isinstance(backend, CudaBackend) and state.operands is not None:
            numbers["operands"] = state.operands
        return (
            numbers
            | {name: getattr(state, name) for name in ("updates", "active", "fault_step")}
            | {"cursor": epoch.cursor}
        )

    results = on_all(driver, storage, "whole", run)
    for name in ("updates", "active", "fault_step", "cursor"):
        results.check_equal(name)
    for name in results.found.keys() & {"theta", "largest", "penalty", *rule.slots}:
        results.check(name, parameters_of(storage))
    found = results.found["theta"]
    assert not found[:, ~used[0]].any(), "the padding between tensors was written"
    np.testing.assert_array_equal(found[~active], theta[~active], "a network that is not active was written")
    if "operands" in results.found:
        np.testing.assert_array_equal(results.found["operands"], rounded(found, storage))


def check_gather(
    driver: Driver,
    *,
    source: str,
    target: str,
    rows: int,
    columns: int,
    networks: int,
    order: str,
    targets: str = "hard",
    place: str,
) -> None:
    """X, y and weights of the third step, each network's own rows, bit for bit as NumPy casts them.

    From one data set for all, and from one each; and where positions are counted anew after the second step.

    Parameters
    ----------
    order : {"listed", "shuffled", "shuffled list", "none"}
        Rows in a given order, all rows shuffled by keys, a list of a network's own rows shuffled, or as they lie.
    targets : {"hard", "soft"}
        Classes, or three values a row.
    """
    rng, steps = np.random.default_rng([rows, columns, networks]), np.zeros((networks, 3))
    kind, whole = dtype(source), 3 * rows + 5
    keys = order_keys(np.arange(networks, dtype=np.uint64), 7) if "shuffled" in order else None
    lists = np.stack([rng.permutation(whole) for _ in range(networks)]) if "list" in order else None
    counts = np.full(networks, whole)
    for owners, period in sorted({(1, 0), (networks, 0), (1, 2 * rows)}):
        positions = np.arange(rows) if period else np.arange(2 * rows, 3 * rows)
        found = rows_at(positions, lists, keys, counts[:1] if order == "none" else counts)
        chosen = np.broadcast_to(found, (networks, rows))
        X = rng.normal(0, 50, (owners, whole, columns)).clip(-120, 120)
        X = (np.abs(X) if kind.kind == "u" else X > 0 if kind.kind == "b" else X).astype(kind)
        y = rng.integers(0, 9, (owners, whole)) if targets == "hard" else rng.random((owners, whole, 3), np.float32)
        data = {"X": X, "y": y, "weight": rng.random((owners, whole))}
        machine = Machine(CudaBackend(driver, "float32"), place)
        epoch = machine.epoch(
            2, normalizer=steps, learning_rate=steps, scale=np.ones(networks), order=((0,),), batch_size=rows
        )
        epoch.order, epoch.keys = (None if table is None else machine.plain(table) for table in (lists, keys))
        epoch.counts, epoch.period = None if keys is None else machine.plain(counts), period
        sources, batch = (
            Batch(**{name: put(name, values) for name, values in data.items()}, smoothing=None)
            for put in (
                lambda name, values, machine=machine: machine.put(values, values.dtype),
                lambda name, values, machine=machine: machine.room(
                    (networks, rows, *values.shape[2:]), dtype(target) if name == "X" else values.dtype
                ),
            )
        )
        machine.backend.gather(sources, epoch, batch)
        machine.check_between()
        for name, values in data.items():
            taken = np.stack([values[k % owners, own] for k, own in enumerate(chosen)])
            out = host(getattr(batch, name))
            if out.dtype.itemsize == 2 and kind.itemsize > 2:
                taken = taken.astype(np.float32)  # from there a device rounds to 16 bits
            np.testing.assert_array_equal(wide(out), wide(taken.astype(out.dtype)), name)
