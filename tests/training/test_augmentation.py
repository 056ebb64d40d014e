"""Rows that are made anew before each epoch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp import DataError, DeviceError, UsageError
from gpubp.backends import Backend
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.checks import SparseRows
from gpubp.training.augmentation import Augmentation
from support.machines import host, host_driver

RNG = np.random.default_rng(11)
X = RNG.standard_normal((37, 5)).astype(np.float32)
Y = RNG.integers(0, 3, 37)
OPTIONS: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.1, "shuffle": False, "batch_size": 8, "epochs": 3}


def network(device: Any = "cpu-reference", models: int = 1) -> gpubp.MLP:
    return gpubp.MLP([5, 6, 3], "tanh", seed=7, device=device, models=models)


def scaled(xp: Any, X: Any, epoch: int) -> Any:
    """What every other epoch sees, in place, which is allowed: the next epoch's rows are made of the original ones."""
    X *= 1 + 0.5 * epoch
    return X


def noisy(xp: Any, X: Any, epoch: int) -> Any:
    return X + xp.asarray(np.random.default_rng([7, epoch]).standard_normal(X.shape).astype(X.dtype))


@pytest.mark.parametrize("batch_size", [8, len(X)])
def test_each_epoch_trains_on_the_rows_made_for_it(backend: Backend, batch_size: int) -> None:
    before = X.copy()
    options = OPTIONS | {"batch_size": batch_size}
    net, expected = network(backend), network(backend)
    gpubp.train(net, X, Y, augment=scaled, **options)
    for epoch in range(3):
        rows = host(scaled(np, X.astype(backend.dtype), epoch))
        gpubp.train(expected, rows, Y, **options | {"epochs": 1})
    np.testing.assert_array_equal(host(net.theta), host(expected.theta))
    np.testing.assert_array_equal(X, before)


@pytest.mark.backends
@pytest.mark.parametrize("batch_size", [8, len(X)])
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_rows_are_made_in_the_networks_type(precision: str, batch_size: int) -> None:
    seen = []

    def augment(xp: Any, X: Any, epoch: int) -> Any:
        seen.append(X.dtype.name)
        return scaled(xp, X, epoch)

    net, expected = (network(CudaBackend(host_driver(), precision)) for _ in range(2))
    options = OPTIONS | {"batch_size": batch_size}
    gpubp.train(net, X.astype(np.float64), Y, augment=augment, **options)
    for epoch in range(3):
        gpubp.train(expected, scaled(np, X.copy(), epoch), Y, **options | {"epochs": 1})
    assert seen == ["float32"] * 3
    np.testing.assert_array_equal(host(net.theta), host(expected.theta))


def test_all_networks_of_a_stack_see_the_rows_of_an_epoch() -> None:
    folds, options = [range(30), range(5, 35)], OPTIONS | {"shuffle": True, "seed": 3}
    stack = network(models=2)
    history = gpubp.train(stack, X, Y, augment=noisy, rows=folds, validation_rows=[range(35, 37)] * 2, **options)
    for k, fold in enumerate(folds):
        alone = network()
        alone.theta[...] = network(models=2).theta[k : k + 1]
        one = gpubp.train(alone, X, Y, augment=noisy, rows=[fold], **options | {"seed": 3 + k})
        np.testing.assert_allclose(stack.theta[k], alone.theta[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose([loss[k] for loss in history.loss], one.loss, rtol=1e-5)
    # Rows to validate on are as they were given.
    assert history.validation_loss[-1] == pytest.approx(stack.evaluate(X[35:], Y[35:])["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("augment", "error", "message"),
    [
        ("flip", UsageError, "augment='flip' does not fit"),
        (lambda xp, X, epoch: None, UsageError, "augment returns a builtins.NoneType, not an array"),
        (lambda xp, X, epoch: X[:, :4], UsageError, r"augment returns shape \(37, 4\) for rows of shape \(37, 5\)"),
        (lambda xp, X, epoch: X / (1 - epoch), DataError, r"not finite, for epoch 1 \(the first is 0\)"),
    ],
)
def test_what_does_not_fit_is_refused(augment: Any, error: type[Exception], message: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(error, match=message):
        gpubp.train(network(), X, Y, augment=augment, **OPTIONS)


def test_an_array_of_the_host_is_none_of_the_device() -> None:
    net = network(CudaBackend(host_driver(), "float32"))
    with pytest.raises(UsageError, match=r"numpy\.ndarray, not an array of .*; compute with xp, not with NumPy"):
        gpubp.train(net, X, Y, augment=lambda xp, X, epoch: host(X), **OPTIONS)


def test_rows_that_are_not_all_there_twice_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(UsageError, match="augment does not go with sparse rows"):
        gpubp.train(network(), SparseRows(sparse.csr_array(X)), Y, augment=scaled)
    with pytest.raises(UsageError, match="augment does not go with batches"):
        gpubp.train(network(), batches=[(X, Y)], augment=scaled)
    net = network()
    monkeypatch.setattr(net.stack.backend, "free_memory", lambda: 100_000)
    many = np.zeros((4000, 5), np.float32)
    with pytest.raises(DeviceError, match="augment needs all rows twice on .*, 0 MiB each"):
        gpubp.train(net, many, np.zeros(4000, int), augment=scaled, **OPTIONS)


@pytest.mark.parametrize("resident, less", [(True, 0), (True, 1), (False, 0)])
def test_rows_of_which_a_copy_just_fits_are_augmented(resident: bool, less: int) -> None:
    rows = np.zeros((2**18, 12), np.float32)
    data = SimpleNamespace(resident=resident, device=(np.ones((1, *rows.shape), np.float32), None, None))
    copies = {"from_host": lambda array: array, "free_memory": lambda: rows.nbytes - less}
    backend = SimpleNamespace(device="cuda:0", xp=np, **copies)
    if not resident or less:
        with pytest.raises(DeviceError, match="augment needs all rows twice on cuda:0, 12 MiB each"):
            Augmentation(scaled, backend, rows, data)
        return
    Augmentation(scaled, backend, rows, data).begin_epoch(0)
    assert not data.device[0].any()


def test_a_training_goes_on_with_the_rows_of_its_epoch(tmp_path: Path) -> None:
    net, again = network(), network()
    gpubp.train(net, X, Y, augment=noisy, checkpoint=tmp_path, checkpoint_every="3steps", **OPTIONS)
    names = sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".safetensors")
    for name in names:
        gpubp.train(again, X, Y, augment=noisy, resume=tmp_path / name, checkpoint=tmp_path / "new", **OPTIONS)
        np.testing.assert_array_equal(net.theta, again.theta)
    with pytest.raises(DataError, match="belongs to another training: settings.augment is noisy there and scaled here"):
        gpubp.train(network(), X, Y, augment=scaled, resume=tmp_path / names[0], **OPTIONS)
