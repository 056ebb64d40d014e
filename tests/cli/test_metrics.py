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
