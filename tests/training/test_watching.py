"""What looks at a training and changes nothing of it: test rows that are watched, layers, and how it goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich.console

import gpubp
from gpubp import DivergenceError, UsageError
from gpubp.training import checkpoint, progress

RNG = np.random.default_rng(8)
X, Y = RNG.standard_normal((60, 4)), np.arange(60) % 3
TEST = X[40:], Y[40:]
OPTIONS: dict[str, Any] = {"epochs": 4, "batch_size": 10, "dropout": 0.3, "learning_rate": 0.02, "seed": 2}


def train(net: gpubp.MLP, **options: Any) -> gpubp.History:
    return gpubp.train(net, X[:30], Y[:30], validation_data=(X[30:40], Y[30:40]), **{**OPTIONS, **options})


def network(models: int = 1, device: Any = "cpu-reference") -> gpubp.MLP:
    return gpubp.MLP([4, 6, 3], "tanh", seed=4, models=models, device=device)


def test_watching_changes_no_bit(mlp):
    left = []
    for options in ({}, {"watch_test": TEST, "diagnostics": True}):
        net = mlp([4, 6, 3], "tanh", seed=4)
        history = train(net, patience=2, **options)
        curves = [history.curve(name).tobytes() for name in ("loss", "metric", "validation_loss", "learning_rate")]
        theta = net.stack.backend.to_host(net.theta)
        left.append([theta.tobytes(), *curves, history.stopped, history.best_epoch, history.steps])
    assert left[0] == left[1]


def test_what_is_watched_is_the_network_after_each_epoch():
    seen = []
    net = network()
    history = train(net, watch_test=TEST, callbacks=[lambda net, history: seen.append(net.evaluate(*TEST))])
    assert history.watched_test_loss == [scores["loss"] for scores in seen]
    assert history.watched_test_metric == [scores["accuracy"] for scores in seen]
    assert "watched_test_loss,watched_test_accuracy" in history.to_csv()
    assert "watched_test_accuracy" in history.to_dataframe()


def test_weights_of_watched_rows_count():
    weight = np.linspace(0, 1, 20)
    net = network()
    assert train(net, watch_test=(*TEST, weight)).watched_test_loss[-1] == net.evaluate(*TEST, weight)["loss"]


def test_layers_are_looked_at_on_the_rows_that_are_trained_on():
    options = {**OPTIONS, "shuffle": False, "diagnostics": True}
    on_some = gpubp.train(network(), X, Y, rows=[range(10, 40)], **options)
    alone = gpubp.train(network(), X[10:40], Y[10:40], **options)
    assert on_some.health.to_csv() == alone.health.to_csv()
    with pytest.raises(UsageError, match="diagnostics looks at a single network; this is a stack of 2"):
        train(network(2), diagnostics=True)


def test_of_a_stack_those_that_train():
    history = train(network(3), watch_test=TEST, epochs=[1, 2, 3])
    solo = [train(network(), watch_test=TEST, epochs=1).watched_test_loss[0]]
    assert np.isnan(history.curve("watched_test_loss")).tolist() == [
        [False] * 3,
        [True, False, False],
        [True, True, False],
    ]
    np.testing.assert_allclose(history.curve("watched_test_loss")[0, 0], solo)


def test_rows_that_cannot_be_watched_are_named():
    with pytest.raises(UsageError, match="watch_test does not fit; give"):
        train(network(), watch_test=X)
    with pytest.raises(gpubp.DataError, match="test X"):
        train(network(), watch_test=(X[:, :2], Y))


@pytest.mark.parametrize("kept", [slice(1, 2), slice(-1, None)], ids=["within an epoch", "at the end of one"])
def test_a_training_that_goes_on_goes_on_watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: slice):
    monkeypatch.setattr(checkpoint, "KEPT", 100)
    watched = {"watch_test": TEST, "diagnostics": True}
    unbroken = train(network(), **watched)
    train(network(), **watched, epochs=4, checkpoint=tmp_path, checkpoint_every="2steps")
    (path,) = checkpoint.CheckpointFolder(tmp_path).files()[:-1][kept]
    history = train(network(), **watched, resume=path, checkpoint=tmp_path / "new")
    assert history.watched_test_loss == unbroken.watched_test_loss
    assert history.health.epochs == [0, 1, 2, 3, 4] and history.health.to_csv() == unbroken.health.to_csv()


def test_epochs_that_nobody_watched_are_left_open(tmp_path: Path):
    unbroken = train(network(), watch_test=TEST, diagnostics=True)
    train(network(), epochs=4, checkpoint=tmp_path / "a", checkpoint_every="3steps")
    first = checkpoint.CheckpointFolder(tmp_path / "a").files()[0]
    history = train(network(), watch_test=TEST, diagnostics=True, resume=first, checkpoint=tmp_path / "b")
    curve, watched = history.curve("watched_test_loss")[:, 0], len(history.health.epochs) - 1
    assert 0 < watched < 4 and history.health.epochs[-watched:] == list(range(5 - watched, 5))
    assert np.isnan(curve[:-watched]).all() and curve[-watched:].tolist() == unbroken.watched_test_loss[-watched:]
    np.testing.assert_array_equal(
        history.health.measured("change")[:, 2:], unbroken.health.measured("change")[:, -watched:][:, 1:]
    )
    assert ",nan," in history.to_csv()


def test_a_training_that_diverges_has_what_was_watched_before():
    with pytest.raises(DivergenceError) as caught:
        train(network(), watch_test=TEST, optimizer="sgd", learning_rate=1e300)
    curve = caught.value.history.curve("watched_test_loss")
    assert len(curve) in (0, caught.value.history.epochs)


@pytest.mark.parametrize("models", [1, 2])
def test_how_it_goes_is_shown_in_lines(capsys: pytest.CaptureFixture[str], models: int):
    train(network(models), epochs=30, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert 20 <= len(lines) <= 21 and lines[0].startswith("epoch  1/30") and "validation" in lines[-1]
    assert ("mean loss" in lines[0]) == (models == 2)
    train(network())
    assert capsys.readouterr().out == ""


def test_a_notebook_has_a_bar(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for widgets in (None, object()):
        monkeypatch.setattr(progress, "find_spec", lambda name, widgets=widgets: widgets)
        console = progress.console_of_python()
        assert console.is_jupyter == progress.TrainingProgress(console, 3, 10).live == bool(widgets)


def test_a_history_of_many_networks_is_short():
    history = gpubp.History("accuracy", 100)
    history.append(0.1, loss=np.ones(100), metric=np.ones(100), learning_rate=np.ones(100))
    history.stopped_by_network[:3] = "diverged"
    assert repr(history) == "History(1 epochs of 100 networks, stopped={'diverged': 3, 'epochs': 97})"
    assert history._repr_html_().count("<tr>") == 9
