"""What is measured of classes, labels and values, under which names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from gpubp.cli import metrics
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
    assert list(metrics["test"]) == ["loss", "accuracy", "balanced_accuracy", "auc"]
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


def test_figures_of_classes_are_scikit_learns(rng: np.random.Generator) -> None:
    from sklearn.metrics import balanced_accuracy_score, confusion_matrix, roc_auc_score

    preprocessing = {"target": {"type": "classes", "classes": ["a", "b", "c"], "training_mean": [0.2, 0.5, 0.3]}}
    y, outputs = rng.integers(3, size=80), rng.dirichlet(np.ones(3), size=80)
    scores = metrics.measure(preprocessing, y, outputs)
    predicted = outputs.argmax(axis=1)
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, predicted))
    assert scores["auc"] == pytest.approx(roc_auc_score(y, outputs, multi_class="ovr"))
    assert metrics.confusion(preprocessing, y, outputs) == confusion_matrix(y, predicted).tolist()
    baseline = metrics.baseline(preprocessing, y)
    assert baseline is not None and baseline["accuracy"] == (y == 1).mean() and baseline["auc"] == 0.5
    assert metrics.baseline_name(preprocessing) == 'always "b"'
    assert metrics.measure(preprocessing, y[y == 1], outputs[y == 1])["auc"] is None
    assert metrics.baseline({"target": {"type": "classes", "classes": ["a", "b"]}}, y) is None  # an older file


def test_two_classes_with_one_output(rng: np.random.Generator) -> None:
    from sklearn.metrics import roc_auc_score

    preprocessing = {"target": {"type": "binary", "classes": [0, 1], "training_mean": [0.2]}}
    y, outputs = rng.integers(2, size=(50, 1)).astype(float), rng.random((50, 1))
    scores = metrics.measure(preprocessing, y, outputs)
    assert scores["auc"] == pytest.approx(roc_auc_score(y[:, 0], outputs[:, 0]))
    assert metrics.baseline_name(preprocessing) == 'always "0"'


def test_what_figures_might_hide_is_said() -> None:
    preprocessing = {"target": {"type": "classes", "classes": ["a", "b"]}}
    parts = {"train": {"accuracy": 0.9}, "test": {"accuracy": 0.9}}
    assert metrics.remarks(preprocessing, [[8, 1], [0, 1]], parts) == []
    (said,) = metrics.remarks(preprocessing, [[9, 0], [1, 0]], parts)
    assert said.startswith('predicts "a" for all 10 rows of test')
    (said,) = metrics.remarks(preprocessing, None, {"train": {"r2": 0.9}, "test": {"r2": 0.5}})
    assert said.startswith("r2 falls from 0.90 on training rows to 0.50 on test")


def test_the_baseline_of_values_is_the_mean_and_evaluate_prints_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,y\n" + "".join(f"{i % 9},{i * i % 50 / 4}\n" for i in range(80)))
    text = done("train", "t.csv", *QUICK, "--out", "run")
    assert "test, mean of training" in text
    baseline = json.loads(Path("run/metrics.json").read_text())["baseline"]
    assert baseline["predicts"] == "mean of training" and abs(baseline["train"]["r2"]) < 1e-6
    assert "t.csv, 80 rows, mean of training" in done("evaluate", "run", "t.csv")


def test_class_weights_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.chdir(tmp_path)
    rare = rng.random(300) < 0.05
    rows = [f"{x + r},{'ill' if r else 'well'}\n" for x, r in zip(rng.normal(size=300), rare, strict=True)]
    Path("t.csv").write_text("x,state\n" + "".join(rows))
    common = ("train", "t.csv", "--hidden", "none", "--epochs", "60", "--learning-rate", "0.1", "--out", "run")
    text = done(*common)
    assert 'predicts "well" for all 60 rows of test: it tells no classes apart' in text
    for weights in ("balanced", "ill=19,well=1"):
        done(*common, "--class-weight", weights, "--overwrite")
        assert json.loads(Path("run/metrics.json").read_text())["test"]["balanced_accuracy"] > 0.6
    for wrong in ("sick=2", "ill=x", "ill", "ill=-1", "ill=nan"):
        result = CliRunner().invoke(app, [*common, "--class-weight", wrong, "--overwrite"])
        assert result.exit_code == 2 and f'--class-weight "{wrong}"' in result.output


def test_what_was_never_learned_is_not_learned_by_heart() -> None:
    parts = {"train": {"r2": -0.9}, "test": {"r2": -3.1}}
    assert metrics.remarks({}, None, parts) == []
    parts["train"]["r2"] = 0.9
    assert "r2 falls from 0.90 on training rows to -3.10 on test" in metrics.remarks({}, None, parts)[0]


def test_classes_of_few_rows_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("x,y\n" + "".join(f"{i % 7},{'abc'[(i > 40) + (i > 95)]}\n" for i in range(99)))
    assert 'target: classes of fewer than 10 rows: "c" (3)' in done("train", "t.csv", *QUICK, "--out", "run")


def test_figures_of_values_are_scikit_learns_with_the_truth_first(rng: np.random.Generator) -> None:
    """R2 is not symmetric: predictions that spread less than the truth tell which is which."""
    from sklearn.metrics import mean_pinball_loss, r2_score

    truth = rng.normal(size=(50, 1))
    predicted = 0.2 * truth + rng.normal(0, 0.1, (50, 1))
    target = {"type": "values", "mean": [3.0], "scale": [2.0], "outputs": 1}
    figures = metrics._measure_values({"target": target}, truth, predicted)
    assert figures["r2"] == pytest.approx(r2_score(2 * truth + 3, 2 * predicted + 3))
    assert abs(figures["r2"] - r2_score(2 * predicted + 3, 2 * truth + 3)) > 1
    quantiles = {**target, "mean": [3.0] * 2, "scale": [2.0] * 2, "outputs": 2, "quantiles": [0.1, 0.9]}
    figures = metrics._measure_values({"target": quantiles}, np.tile(truth, 2), np.tile(predicted, 2))
    expected = [mean_pinball_loss(2 * truth + 3, 2 * predicted + 3, alpha=q) for q in (0.1, 0.9)]
    assert figures["pinball_loss"] == pytest.approx(np.mean(expected))
