"""``gpubp train``: what it says, measures and leaves in its folder."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

import gpubp
from gpubp.cli import run_folder
from gpubp.cli.settings import default_epochs
from gpubp.errors import UsageError
from support.commands import QUICK, RUN_FILES, done, flowers, invoke, read_csv, tree


def test_train_says_everything_and_writes_a_run(folder: Path) -> None:
    text = done("train", "flowers.csv", "--hidden", "6,5", "--activation", "relu,elu(0.5)", "--epochs", "5")
    assert "classification into 2 classes" in text
    assert 'target: last column, "kind"' in text
    assert re.search(r"2\s+elu\(alpha=0.5\)\s+6 x 5\s+5\s+35", text)
    assert "loss cross_entropy; memory" in text
    assert "device cpu (" in text
    assert re.search(r"epoch 5/5 .*loss .*accuracy .*samples/s", text)
    (run,) = (folder / "runs").iterdir()
    assert re.fullmatch(r"flowers-\d{8}-\d{6}", run.name)
    assert {p.name for p in run.iterdir()} == RUN_FILES
    assert text.rstrip().endswith(f"in runs/{run.name}")


def test_metrics_are_those_of_the_design(folder: Path) -> None:
    done("train", "flowers.csv", *QUICK, "--validation", "0.25", "--seed", "3", "--out", "run")
    metrics = json.loads(Path("run/metrics.json").read_text())
    keys = (
        "task train validation test baseline classes confusion epochs steps stopped seconds device precision "
        "gemm_table seed parameters layer_sizes config versions model_digest"
    )
    assert list(metrics) == keys.split()
    for part in ("train", "validation", "test"):
        assert list(metrics[part]) == ["loss", "accuracy", "balanced_accuracy", "auc"]
        assert list(metrics["baseline"][part]) == ["accuracy", "balanced_accuracy", "auc"]
    assert (metrics["task"], metrics["epochs"], metrics["seed"]) == ("classification", 3, 3)
    assert (metrics["device"], metrics["precision"], metrics["gemm_table"]) == ("cpu", "float32", None)
    n_inputs = metrics["layer_sizes"][0]
    assert metrics["layer_sizes"][1:] == [4, 2]
    assert metrics["parameters"] == n_inputs * 4 + 4 + 4 * 2 + 2
    assert metrics["versions"]["gpubp"] == gpubp.__version__
    assert metrics["config"]["target"] == "kind"
    assert metrics["config"]["loss"] == "cross_entropy"
    assert metrics["config"]["learning_rate"] == 1e-3
    assert not {"out", "overwrite", "quiet", "help"} & set(metrics["config"])
    history = read_csv("run/history.csv")
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    assert {"loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate"} <= set(history[0])


def test_regression_is_measured_in_the_targets_own_units(folder: Path) -> None:
    text = done("train", "prices.csv", "--hidden", "16", "--epochs", "150", "--learning-rate", "0.01", "--out", "run")
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert "validation" not in metrics
    assert list(metrics["test"]) == ["loss", "rmse", "mae", "r2"]
    assert metrics["test"]["r2"] > 0.9
    done("predict", "run", "prices.csv")
    predicted = np.array([float(row["prediction"]) for row in read_csv("predictions.csv")])
    truth = np.loadtxt("prices.csv", delimiter=",", skiprows=1)[:, 2]
    rmse = math.sqrt(np.mean((predicted - truth) ** 2))
    found = json.loads(done("evaluate", "run", "prices.csv", "--json"))
    assert found["rmse"] == pytest.approx(rmse, rel=1e-4)
    assert found["rows"] == 80
    assert min(metrics["train"]["rmse"], metrics["test"]["rmse"]) <= rmse * 1.0001
    assert rmse <= max(metrics["train"]["rmse"], metrics["test"]["rmse"]) * 1.0001
    assert "not in its own units" in text


def test_small_data_gets_a_thousand_steps_and_it_is_said(folder: Path) -> None:
    text = done("train", "flowers.csv", "--hidden", "none", "--out", "run")
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["steps"] == metrics["epochs"] == metrics["config"]["epochs"] == 1000
    assert "epochs: 1000, the data being small" in text
    assert len([line for line in text.splitlines() if line.startswith("epoch ")]) <= 22


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs"), [(60_000, 128, 20), (1437, 128, 84), (100, 128, 1000), (1, 1, 1000)]
)
def test_default_epochs(rows: int, batch_size: int, epochs: int) -> None:
    assert default_epochs(rows, batch_size) == epochs


def test_quiet_prints_the_result_alone(folder: Path) -> None:
    text = done("train", "flowers.csv", *QUICK, "--out", "run", "--quiet")
    figures = r"test accuracy \d\.\d{4}, balanced_accuracy \d\.\d{4}, auc \d\.\d{4}, loss \S+"
    assert re.fullmatch(figures + r'; always "rose": accuracy 0\.5000; run\n', text)


def test_early_stopping_says_which_weights_are_kept(folder: Path) -> None:
    arguments = ["--validation", "0.3", "--patience", "2", "--learning-rate", "0.1", "--epochs", "500"]
    text = done("train", "prices.csv", *arguments, "--out", "run")
    match = re.search(r"(\d+) epochs, .* for 2 epochs; the weights are those after epoch (\d+)", text)
    assert match
    assert int(match[1]) == int(match[2]) + 2


def test_a_test_file_is_used(folder: Path) -> None:
    (folder / "more.csv").write_text(flowers(10))
    text = done("train", "flowers.csv", *QUICK, "--test", "more.csv", "--out", "run")
    assert "60 training, 10 test" in text
    text = done("train", "flowers.csv", *QUICK, "--test", "0.5", "--out", "run", "--overwrite")
    assert "30 training, 30 test" in text


def test_runs_of_one_second_do_not_overwrite_each_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for _ in range(3):
        names.append(run_folder.default_folder("flowers.csv.gz"))
        names[-1].mkdir(parents=True)
    assert len(set(names)) == 3
    assert all(name.name.startswith("flowers-2") for name in names)


def test_an_existing_run_is_replaced_only_by_a_finished_one(folder: Path) -> None:
    done("train", "flowers.csv", *QUICK, "--out", "run")
    (folder / "run" / "notes.txt").write_text("mine")
    before = tree(folder)
    for command in ("train", "search"):
        grid = ["--grid", "dropout=0"] if command == "search" else []
        result = invoke(command, "flowers.csv", *grid, "--out", "run")
        assert result.exit_code == 2
        assert "run: holds a run already (model.safetensors)" in result.stderr and "--overwrite" in result.stderr
    diverging = ["--learning-rate", "1e30", "--schedule", "constant", "--out", "run", "--overwrite"]
    assert invoke("train", "prices.csv", *diverging).exit_code == 1
    assert tree(folder) == before
    done("train", "flowers.csv", *QUICK, "--seed", "1", "--out", "run", "--overwrite")
    after = tree(folder)
    assert set(after) == set(before)
    assert after["run/notes.txt"] == b"mine"
    assert all(after[f"run/{name}"] != before[f"run/{name}"] for name in RUN_FILES)


def test_nothing_is_left_where_writing_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise UsageError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(run_folder, "atomic_write", full)
    before = tree(folder)
    result = invoke("train", "flowers.csv", *QUICK, "--out", "run")
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert tree(folder) == before


def test_every_option_reaches_the_training(folder: Path) -> None:
    arguments = """--loss half_squared_error --output-activation identity --init orthogonal --optimizer nesterov
        --learning-rate 0.01 --schedule warmup(step,0.1) --momentum 0.8 --l2 1e-4 --weight-decay 1e-3 --dropout 0.1
        --max-grad-norm 1 --batch-size 16 --update-tolerance 1e9 --precision float64 --target price""".split()
    text = done("train", "prices.csv", *arguments, *QUICK, "--out", "run")
    assert "stopped as no weight or bias moved more than 1e+09" in text
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert (metrics["epochs"], metrics["steps"], metrics["precision"]) == (1, 4, "float64")
    config = metrics["config"]
    assert (config["momentum"], config["l2"], config["dropout"]) == (0.8, 1e-4, 0.1)


def test_the_same_seed_gives_the_same_model(folder: Path) -> None:
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        done("train", "flowers.csv", *QUICK, "--dropout", "0.2", "--seed", seed, "--out", name)
    a, b, c = (Path(name, "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_commands_at_once_have_folders_of_their_own(folder: Path) -> None:
    with run_folder.claimed(None, "prices.csv") as first, run_folder.claimed(None, "prices.csv") as second:
        assert first != second
        (second / "file").touch()
    assert not first.exists() and second.exists()
