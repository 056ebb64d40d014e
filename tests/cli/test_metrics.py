"""What is measured of classes, labels and values, under which names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from gpubp.cli.app import app

QUICK = ["--epochs", "5", "--hidden", "8"]


def done(*arguments: Any) -> str:
    """What a command that must succeed prints."""
    result = CliRunner(env={"COLUMNS": "100"}).invoke(app, [str(a) for a in arguments], prog_name="gpubp")
    assert result.exit_code == 0, result.output
    return str(result.stdout)


@pytest.fixture
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> np.ndarray:
    """A working directory with labels.npz: three labels, the last of which is noise."""
    monkeypatch.chdir(tmp_path)
    X = rng.normal(size=(90, 4))
    y = np.column_stack([X[:, 0] > 0, X[:, 1] > 0, rng.random(90) > 0.5]).astype(int)
    np.savez("labels.npz", X=X, y=y)
    return y


def test_labels_are_measured_by_row_and_by_label(labels: np.ndarray) -> None:
    text = done("train", "labels.npz", *QUICK, "--validation", "0.2", "--out", "run")
    assert "exact_match" in text and " accuracy " not in text
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["task"] == "multilabel"
    assert list(metrics["test"]) == ["loss", "exact_match", "label_accuracy"]
    scores = json.loads(done("evaluate", "run", "labels.npz", "--json"))
    done("predict", "run", "labels.npz")
    columns = np.genfromtxt("predictions.csv", delimiter=",", names=True)
    right = np.column_stack([columns[f"prediction_{i}"] for i in range(3)]) == labels
    assert scores["exact_match"] == pytest.approx(right.all(axis=1).mean())
    assert scores["label_accuracy"] == pytest.approx(right.mean())
    assert scores["exact_match"] < scores["label_accuracy"]
    assert "label_accuracy" in Path("run/history.csv").read_text().splitlines()[0]


def test_a_search_ranks_labels_by_label_accuracy(labels: np.ndarray) -> None:
    text = done("search", "labels.npz", "--grid", "hidden=4,8", "--epochs", "3", "--folds", "2", "--seeds", "1")
    assert "best: " in text and "label_accuracy" in text


def test_one_hot_rows_are_measured_as_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    codes = np.arange(90) % 3
    np.savez("one_hot.npz", X=np.arange(90.0)[:, None] % 3, y=np.eye(3)[codes])
    done("train", "one_hot.npz", "--hidden", "8", "--epochs", "400", "--learning-rate", "0.05", "--out", "run")
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["task"] == "classification"
    assert metrics["test"]["accuracy"] == 1


NIELSEN = """--hidden 30 --activation sigmoid --loss half_squared_error --output-activation sigmoid
    --init standard_normal --optimizer sgd --learning-rate 3 --schedule constant --batch-size 10 --epochs 40
    --seed 1""".split()


def test_the_textbooks_first_network_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = done("train", "digits", *NIELSEN, "--out", "run")
    assert "10 classes, an output each" in text
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert list(metrics["test"]) == ["loss", "accuracy"]
    assert metrics["layer_sizes"][-1] == 10
    assert metrics["test"]["accuracy"] > 0.9
    scores = json.loads(done("evaluate", "run", "digits", "--json"))
    done("predict", "run", "digits")
    rows = np.genfromtxt("predictions.csv", delimiter=",", names=True)
    assert rows.dtype.names[:2] == ("prediction", "output_0")
    from sklearn.datasets import load_digits

    assert scores["accuracy"] == pytest.approx((rows["prediction"] == load_digits().target).mean())


def test_squared_errors_of_classes_are_searched_by_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--loss", "half_squared_error", "--epochs", "30", "--folds", "2", "--seeds", "1", "--out", "run"]
    text = done("search", "iris", "--grid", "learning-rate=0.01,1e-5", *options)
    assert "best: learning-rate=0.01: accuracy 0." in text
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["task"] == "classification" and metrics["test"]["accuracy"] > 0.6


@pytest.mark.parametrize("output", ["softplus", "relu", "sigmoid"])
def test_predictions_reach_below_the_mean_of_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    a = np.linspace(0, 3, 120)
    Path("t.csv").write_text("a,price\n" + "".join(f"{x},{5 + 300 * x:.3f}\n" for x in a))
    done(
        "train",
        "t.csv",
        "--output-activation",
        output,
        "--learning-rate",
        "0.01",
        "--epochs",
        "150",
        "--seed",
        "1",
        "--out",
        "run",
    )
    assert json.loads(Path("run/metrics.json").read_text())["test"]["r2"] > 0.95
    done("predict", "run", "t.csv")
    assert np.loadtxt("predictions.csv", skiprows=1).min() < 150


def test_a_search_over_output_activations_scales_for_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,price\n" + "".join(f"{i},{5 + 300 * (i % 9):.3f}\n" for i in range(60)))
    grid = ["--grid", "output-activation=identity,softplus", "--folds", "2", "--seeds", "1", "--epochs", "2"]
    text = done("search", "t.csv", "--loss", "half_squared_error", *grid)
    assert "target: scaled and not shifted, for outputs of identity and softplus lie in [0, inf]" in text


def test_a_target_that_the_output_cannot_reach_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,price\n" + "".join(f"{i},{i / 7 - 1:.3f}\n" for i in range(60)))
    result = CliRunner().invoke(app, ["train", "t.csv", "--output-activation", "softplus"], prog_name="gpubp")
    assert result.exit_code == 2
    assert 't.csv, line 2, column "price": -1.0 is not in [0, inf], as outputs of softplus are' in result.stderr
