"""Numbers of every kind and size: what is not real is refused by name, all else trains as its values in float64."""

from __future__ import annotations

import logging
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp import DataError, GpubpError, UsageError
from gpubp.activations import ACTIVATIONS
from gpubp.backends.notices import say_once
from gpubp.losses import LOSSES, get_loss
from gpubp.optimizers import OPTIMIZERS

# The reference by default; the compiled backend has the same checks before it, and its own loops.
DEVICES = ["cpu-reference", pytest.param("cpu", marks=pytest.mark.thorough)]
WHOLE = np.random.default_rng(0).integers(0, 200, (12, 4))
CLASSES = np.random.default_rng(1).integers(0, 3, 12)
LARGEST, LEAST = np.finfo(np.float64).max, 5e-324


def memory_map(folder: Path) -> np.ndarray:
    """A file of float32, open for reading alone."""
    np.save(folder / "X.npy", WHOLE.astype(np.float32))
    return np.load(folder / "X.npy", mmap_mode="r")


def unaligned(_: Path) -> np.ndarray:
    """Numbers that begin at an odd byte."""
    return np.frombuffer(b"x" + WHOLE.astype(float).tobytes(), float, offset=1).reshape(WHOLE.shape)


# Arrays (12, 4) by what is uncommon about them.
ARRAYS: dict[str, Any] = {
    "boolean": lambda _: WHOLE > 100,
    "uint8": lambda _: WHOLE.astype(np.uint8),
    "int8": lambda _: (WHOLE - 100).astype(np.int8),
    "int64": lambda _: WHOLE.astype(np.int64),
    "uint64 above 2**63": lambda _: WHOLE.astype(np.uint64) + np.uint64(2**63),
    "float16": lambda _: WHOLE.astype(np.float16),
    "longdouble": lambda _: WHOLE.astype(np.longdouble),
    "another byte order": lambda _: WHOLE.astype(">f8"),
    "Fortran order": lambda _: np.asfortranarray(WHOLE.astype(float)),
    "negative strides": lambda _: WHOLE.astype(float)[::-1, ::-1],
    "every second column": lambda _: np.repeat(WHOLE.astype(float), 2, axis=1)[:, ::2],
    "one row, repeated without memory": lambda _: np.broadcast_to(np.arange(4.0), (12, 4)),
    "memory map": memory_map,
    "unaligned": unaligned,
    "nested lists": lambda _: WHOLE.tolist(),
    "a mask that hides nothing": lambda _: np.ma.masked_array(WHOLE, mask=False),
    "subnormal": lambda _: WHOLE * LEAST,
    "negative zeros": lambda _: -np.zeros((12, 4)),
    "constant features": lambda _: np.ones((12, 4)),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_every_kind_train_as_their_numbers_in_float64(kind, device, tmp_path):
    X = ARRAYS[kind](tmp_path)
    plain = np.array(X, dtype=np.float64, order="C")

    def weights_and_outputs(X: Any) -> tuple[np.ndarray, np.ndarray]:
        net = gpubp.MLP([4, 5, 3], seed=0, device=device, precision="float64")
        gpubp.train(net, X, CLASSES, epochs=2, batch_size=5)
        return net.theta, net.forward(X)

    for ours, expected in zip(weights_and_outputs(X), weights_and_outputs(plain), strict=True):
        np.testing.assert_array_equal(ours, expected)
        assert np.isfinite(ours).all()


@pytest.mark.parametrize("kind", ["boolean", "uint8", "float16", "Fortran order", "negative strides", "memory map"])
def test_targets_of_every_kind_train_as_their_numbers_in_float64(kind, tmp_path):
    y = ARRAYS[kind](tmp_path)
    nets = [gpubp.MLP([4, 4], loss="huber", seed=0, device="cpu-reference") for _ in range(2)]
    for net, targets in zip(nets, (y, np.array(y, dtype=np.float64, order="C")), strict=True):
        gpubp.train(net, WHOLE / 200, targets, epochs=1)
    np.testing.assert_array_equal(nets[0].theta, nets[1].theta)


@pytest.mark.parametrize(
    ("X", "what"),
    [
        (WHOLE + 0j, "complex128"),
        (WHOLE.astype(object), "object"),
        ([[2**70, 1, 2, 3]] * 12, "object"),  # whole numbers beyond 64 bits
        (WHOLE.astype(str), "<U"),
        (WHOLE.astype("M8[s]"), "datetime64"),
        (np.zeros((12, 4), [("a", "f4")]), "'a'"),
        (np.ma.masked_array(WHOLE, mask=WHOLE > 100), "masked array"),
        (np.full((12, 4), np.inf), r"X\[0, 0\] = inf"),
        (np.full((12, 4), np.nan), r"X\[0, 0\] = nan"),
        (np.full((12, 4), LARGEST), r"too large for float32"),
        (np.full((12, 4), 2.0 * np.longdouble(LARGEST)), r"too large for float32|inf"),
        (np.zeros((0, 4)), "no rows"),
        (np.zeros((12, 0)), "0 columns"),
        (np.zeros(4), r"X.reshape\(1, -1\)"),
    ],
    ids=repr,
)
def test_what_is_no_array_of_finite_real_numbers_is_refused_by_name(X, what):
    net = gpubp.MLP([4, 3], seed=0, device="cpu-reference", precision="float32")
    before = net.theta.copy()
    for use in (lambda: gpubp.train(net, X, CLASSES), lambda: net.forward(X), lambda: net.evaluate(X, CLASSES)):
        with pytest.raises(DataError, match=what):
            use()
    np.testing.assert_array_equal(net.theta, before)


@pytest.mark.parametrize("weight", [LARGEST, 1e308, LEAST, 1e-310])
@pytest.mark.parametrize("of_classes", [False, True])
def test_weights_by_whose_sum_no_loss_can_be_divided_are_refused(weight, of_classes):
    option = {"class_weight": dict.fromkeys(range(3), weight)} if of_classes else {"sample_weight": np.full(12, weight)}
    net = gpubp.MLP([4, 3], seed=0, device="cpu-reference")
    with pytest.raises(DataError, match="sums to more than|below 2.2e-308"):
        gpubp.train(net, WHOLE / 200, CLASSES, **option)


@pytest.mark.parametrize("weight", [1e300, 1e-300])
def test_large_and_small_weights_are_as_good_as_ones(weight):
    nets = [gpubp.MLP([4, 3], seed=0, device="cpu-reference", precision="float64") for _ in range(2)]
    for net, factor in zip(nets, (1.0, weight), strict=True):
        gpubp.train(net, WHOLE / 200, CLASSES, np.full(12, factor), epochs=2, batch_size=5)
    np.testing.assert_allclose(nets[1].theta, nets[0].theta, rtol=1e-12)


def targets_of(loss: str, rows: int) -> tuple[np.ndarray, int]:
    """Targets of a loss for so many rows, and how many outputs they ask for."""
    record = get_loss(loss)
    if record.integer_targets:
        return np.arange(rows) % 2, 2
    return (np.arange(rows, dtype=float) % 2)[:, None], 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 3), (9, 1)])
def test_one_row_one_column_and_batches_larger_than_the_data(device, rows, columns):
    X = np.linspace(-1, 1, rows * columns).reshape(rows, columns)
    for loss, activation in zip(LOSSES, (*ACTIVATIONS,) * 2, strict=False):
        y, outputs = targets_of(loss, rows)
        nets = [gpubp.MLP([columns, 4, outputs], activation, loss, seed=0, device=device) for _ in range(2)]
        for net, batch_size in zip(nets, (rows, 1000), strict=True):
            gpubp.train(net, X, y, epochs=2, batch_size=batch_size, validation_data=(X, y))
        np.testing.assert_array_equal(nets[0].theta, nets[1].theta)
        assert np.isfinite(nets[0].theta).all() and np.isfinite(nets[0].forward(X)).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loss", ["cross_entropy", "half_squared_error"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_learning_rate_of_1e10_ends_finite_or_is_a_divergence(optimizer, loss, device):
    y, outputs = targets_of(loss, 12)
    for precision in ("float32", "float64"):
        net = gpubp.MLP([4, 5, outputs], "tanh", loss, seed=0, device=device, precision=precision)
        try:
            history = gpubp.train(net, WHOLE / 200, y, optimizer=optimizer, learning_rate=1e10, epochs=5, batch_size=5)
        except gpubp.DivergenceError as error:
            history = error.history
        assert np.isfinite(net.theta).all()
        assert history.stopped == "diverged" or np.isfinite(net.forward(WHOLE / 200)).all()


EXTREME = [0.0, -0.0, LEAST, 2.0**-149, np.finfo(np.float32).tiny, 1e-8, 1e8, 3e38, np.finfo(np.float32).max]


@pytest.mark.thorough
@pytest.mark.parametrize("device", ["cpu-reference", "cpu"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_inputs_of_every_size_train_to_finite_numbers_or_are_named(precision, device):
    for (value, activation), optimizer in zip(product(EXTREME, ACTIVATIONS), (*OPTIMIZERS,) * 99, strict=False):
        X = np.random.default_rng(0).choice([-1.0, 1.0], (12, 4)) * value
        net = gpubp.MLP([4, 5, 3], activation, seed=0, device=device, precision=precision)
        try:
            gpubp.train(net, X, CLASSES, optimizer=optimizer, epochs=2, batch_size=5)
        except GpubpError as error:
            assert abs(value) > 1, error
        else:
            assert np.isfinite(net.forward(X)).all()
        assert np.isfinite(net.theta).all()


def test_whole_numbers_that_no_class_and_no_number_can_be():
    net = gpubp.MLP([4, 3], seed=0, device="cpu-reference")
    with pytest.raises(DataError, match="18446744073709551615 is no class"):
        gpubp.train(net, WHOLE / 200, np.full(12, 2**64 - 1, np.uint64))
    with pytest.raises(UsageError, match="learning_rate"):
        gpubp.train(net, WHOLE / 200, CLASSES, learning_rate=10**400)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_whose_squares_overflow_says_that_weights_stay_put(optimizer, device, caplog):
    net = gpubp.MLP([4, 1], loss="absolute_error", seed=0, device=device, precision="float32")
    say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "gpubp"):
        gpubp.train(net, WHOLE * 1e23, CLASSES, optimizer=optimizer, learning_rate=1e-30, epochs=1)
    assert ("v overflowed" in caplog.text) == (optimizer not in ("sgd", "momentum", "nesterov"))
