"""Networks of a stack that have nothing in common but their shape: each is trained as it would be by itself."""

from __future__ import annotations

import numpy as np
import pytest

import gpubp
from gpubp import DataError, UsageError
from gpubp.training.row_groups import RowGroup, row_groups
from support.machines import host

K, M, EPOCHS = 7, 60, 20


def data():
    rng = np.random.default_rng(8)
    X, y = rng.standard_normal((M, 5)), rng.integers(0, 3, M)
    X[np.arange(M), y] += 1.5
    return X, y


def own_settings():
    """One of everything that may differ, for each network; row counts are unequal, and some rows repeat."""
    rng = np.random.default_rng(9)
    counts = [44, 44, 41, 40, 33, 33, 8]  # the last has less than a batch
    rows = [rng.permutation(M)[:count] for count in counts]
    rows[3] = rng.integers(0, M, counts[3])  # a bootstrap sample
    return {
        "learning_rate": np.geomspace(1e-3, 3e-2, K),
        "optimizer_options": {"beta1": np.linspace(0.8, 0.95, K), "eps": np.geomspace(1e-8, 1e-4, K)},
        "l2": np.array([0, 1e-3, 0, 1e-2, 0, 0, 1e-1]),
        "weight_decay": np.array([0, 0, 0.1, 0, 0.01, 0, 0]),
        "dropout": np.array([0, 0.2, 0.5, 0, 0, 0.1, 0]),
        "label_smoothing": np.array([0, 0, 0, 0.1, 0.2, 0, 0]),
        "max_grad_norm": np.array([np.inf, 1, 0.1, np.inf, 0.5, np.inf, 2]),
        "seed": [3, 1, 4, 1, 5, 9, 2],
        "schedule": ["cosine", None, "exponential", None, "warmup(cosine, 0.1)", "reduce_on_plateau", None],
        "epochs": [20, 20, 17, 20, 5, 20, 20],
        "patience": [3, 30, 30, 2, 30, 4, 30],
        "sample_weight": rng.random((K, M)) * (rng.random((K, M)) > 0.2),
        "rows": rows,
        "validation_rows": [np.setdiff1d(np.arange(M), own) for own in rows],
    }  # fmt: skip


def solo(mlp, settings, k, **fixed):
    """Network k by itself, on its rows."""
    X, y = data()
    net = mlp([5, 9, 6, 3], seed=20 + k, activations=["relu", "silu"])

    def of(value):
        if isinstance(value, dict):
            return {name: v[k] for name, v in value.items()}
        return value[k]

    mine = {name: of(value) for name, value in settings.items()}
    rows, validated, weight = mine.pop("rows"), mine.pop("validation_rows"), mine.pop("sample_weight")
    validation = X[validated], y[validated], weight[validated]
    history = gpubp.train(net, X[rows], y[rows], weight[rows], validation, batch_size=16, **mine, **fixed)
    return net, history


def stacked(mlp, settings, **fixed):
    net = mlp([5, 9, 6, 3], seed=20, activations=["relu", "silu"], models=K)
    return net, gpubp.train(net, *data(), batch_size=16, **settings, **fixed)


def test_each_network_is_trained_as_by_itself(mlp):
    """On the reference backend to the last bit; elsewhere sums may be cut otherwise."""
    settings = own_settings()
    net, history = stacked(mlp, settings)
    exact = net.stack.backend.name == "reference"
    theta = host(net.theta)
    double = net.precision == "float64"
    tolerance = {"rtol": 0, "atol": 0 if exact else 1e-10 if double else 2e-3}
    for k in range(K):
        alone, own = solo(mlp, settings, k)
        np.testing.assert_allclose(theta[k], host(alone.theta)[0], **tolerance)
        if exact or double:
            assert history.stopped[k] == own.stopped
            assert history.best_epoch[k] == own.best_epoch
            for curve in ("loss", "metric", "validation_loss", "validation_metric", "learning_rate"):
                found = np.array(getattr(history, curve))[: own.epochs, k]
                np.testing.assert_allclose(found, getattr(own, curve), rtol=0 if exact else 1e-7)
    assert len({*history.stopped}) > 1, "networks were to end for different reasons"


def test_those_that_have_ended_give_up_their_place(mlp, monkeypatch):
    """The rest go on in fewer places as if nobody had moved; a GPU may cut the sums of fewer networks otherwise."""
    settings = own_settings() | {"epochs": [20, 3, 17, 20, 5, 20, 12]}
    net, history = stacked(mlp, settings)
    monkeypatch.setattr("gpubp.training.step.COMPACT_BELOW", 0.0)
    other, kept = stacked(mlp, settings)
    exact, double = not net.stack.backend.name.startswith("cuda"), net.precision == "float64"
    tolerance = {"rtol": 0, "atol": 0 if exact else 1e-10 if double else 2e-3}
    np.testing.assert_allclose(host(net.theta), host(other.theta), **tolerance)
    if exact or double:
        assert history.stopped == kept.stopped
        np.testing.assert_allclose(history.validation_loss, kept.validation_loss, rtol=0 if exact else 1e-7)


def test_a_network_that_diverges_leaves_the_others_alone(mlp):
    X, y = data()
    rows = [np.arange(40), np.arange(60), np.arange(20, 60)]
    net = mlp([5, 8, 3], models=3)
    settings = {"optimizer": "sgd", "epochs": 6, "batch_size": 16}
    history = gpubp.train(net, X, y, learning_rate=[1e-2, 1e38, 1e-2], rows=rows, **settings)
    assert history.stopped == ["epochs", "diverged", "epochs"]
    assert np.isfinite(host(net.theta)).all()
    for k in (0, 2):
        alone = mlp([5, 8, 3], seed=k)
        gpubp.train(alone, X[rows[k]], y[rows[k]], learning_rate=1e-2, seed=k, **settings)
        np.testing.assert_allclose(host(net.theta)[k], host(alone.theta)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{"batch_size": 16, "shuffle": False}, {"batch_size": M}], ids=["order", "batch"])
@pytest.mark.parametrize("room", [None, 0, 2000], ids=["all rows there", "a batch at a time", "some batches"])
def test_networks_with_weights_of_their_own_may_see_rows_in_one_order(mlp, monkeypatch, room, options):
    X, y = data()
    weight = np.random.default_rng(6).uniform(0.1, 2.0, (3, M))
    net = mlp([5, 8, 3], models=3)
    if room is not None:
        needed = net.memory(options["batch_size"], "sgd")
        beside = needed["total"] - needed["parameters"]
        monkeypatch.setattr(net.stack.backend, "free_memory", lambda: beside + room)
    history = gpubp.train(net, X, y, weight, optimizer="sgd", learning_rate=0.1, epochs=3, **options)
    for k in range(3):
        alone = mlp([5, 8, 3], seed=k)
        own = gpubp.train(alone, X, y, weight[k], optimizer="sgd", learning_rate=0.1, epochs=3, seed=k, **options)
        np.testing.assert_allclose(host(net.theta)[k], host(alone.theta)[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(np.array(history.loss)[:, k], own.loss, rtol=1e-5)


def test_a_schedule_is_not_asked_for_steps_beyond_the_training_of_a_network():
    stack = gpubp.MLP([5, 4, 3], models=2, device="cpu-reference")
    to_zero = lambda progress: (1 - progress.step / progress.total_steps) ** 0.5  # noqa: E731, no number beyond the end
    history = gpubp.train(stack, *data(), schedule=to_zero, epochs=[2, 4], batch_size=M)
    rates = np.array(history.learning_rate)
    np.testing.assert_allclose(rates[:, 1], 1e-3 * np.sqrt([1, 0.75, 0.5, 0.25]))
    np.testing.assert_allclose(rates[:, 0], [1e-3, 1e-3 * np.sqrt(0.5), np.nan, np.nan])


def test_row_groups():
    """Full batches together, smaller ones by neighbours of one size; a border ends a run."""
    every = slice(0, 3)
    assert row_groups(np.array([10, 10, 10]), 4) == [RowGroup(every, 4, 0, 2), RowGroup(every, 2, 2, 1)]
    assert row_groups(np.array([8, 8, 8]), 4) == [RowGroup(every, 4, 0, 2)]
    assert row_groups(np.array([8, 8, 8]), 4, [0, 1]) == [RowGroup(every, 4, 0, 1), RowGroup(every, 4, 1, 1)]
    assert row_groups(np.array([13, 9, 9]), 4) == [
        RowGroup(every, 4, 0, 2),
        RowGroup(slice(0, 1), 4, 2, 1),
        RowGroup(slice(1, 3), 1, 2, 1),
        RowGroup(slice(0, 1), 1, 3, 1),
    ]


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"rows": [[0, 1]]}, UsageError, "rows does not fit; give 2 arrays of row numbers, one per network"),
        ({"rows": [[0], [99]]}, DataError, r"rows\[1\] names row 99; X has rows 0 … 59"),
        ({"rows": [[0], [-1]]}, DataError, r"rows\[1\] names row -1"),
        ({"rows": [[0], [0.5]]}, UsageError, r"rows\[1\] has shape \(1,\) and dtype float64"),
        ({"rows": [[0], []]}, UsageError, r"rows\[1\]"),
        ({"validation_rows": [[0], [60]]}, DataError, r"validation_rows\[1\] names row 60"),
        (
            {"validation_rows": [[0], [1]], "sample_weight": np.arange(M) != 1},
            DataError,
            "sample_weight leaves every row of validation_rows of network 1 with weight 0; one must count",
        ),
        ({"epochs": [3, 0]}, UsageError, r"epochs\[1\]=0"),
        ({"epochs": [3]}, UsageError, "epochs names 1 numbers; give one, or 2, one per network"),
        ({"schedule": ["cosine"]}, UsageError, "schedule names 1 for 2 networks"),
        ({"sample_weight": np.ones((3, M))}, DataError, r"must be \(60,\), one weight a row, or \(2, 60\)"),
        ({"sample_weight": np.stack([np.ones(M), np.arange(M) - 1.0])}, DataError, r"sample_weight\[1, 0\] = -1"),
        ({"sample_weight": np.stack([np.ones(M), np.arange(M)]), "rows": [[1], [0]]}, DataError, "network 1"),
    ],
)
def test_what_does_not_fit(settings, error, message):
    net = gpubp.MLP([5, 4, 3], models=2, device="cpu-reference")
    with pytest.raises(error, match=message):
        gpubp.train(net, *data(), **settings)
