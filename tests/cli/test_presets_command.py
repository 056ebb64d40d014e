"""``gpubp train --preset``, and the other commands on what it leaves behind."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp import checks
from gpubp.cli import run_folder, training_rows
from gpubp.tabular import fitting
from gpubp.tabular.model import TabularModel
from gpubp.tabular.recipes import RECIPES
from support.commands import invoke

SHORT = ["--epochs", "2", "--device", "cpu"]


def done(*arguments: str) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def refused(*arguments: str) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Path:
    """A folder with a table to be regressed and one with classes."""
    monkeypatch.chdir(tmp_path)
    a, b = rng.normal(size=(2, 80))
    colour = rng.choice(["red", "blue"], 80)
    price, kind = 100 + 30 * a - 20 * b, np.where(a > 0, "up", "down")
    for name, target in (("price", [f"{p:.2f}" for p in price]), ("kind", kind)):
        lines = [",".join(map(str, row)) for row in zip(a.round(3), b.round(3), colour, target, strict=True)]
        Path(f"{name}.csv").write_text("\n".join([f"a,b,colour,{name}", *lines, ""]))
    return tmp_path


def test_a_table_is_trained_by_the_preset_fast(folder: Path) -> None:
    text = done("train", "price.csv", *SHORT, "--out", "run")
    assert "preset: fast; more accurate and slower: good, best" in text
    assert "validation: 13 of 64 rows" in text
    config = json.loads(Path("run/metrics.json").read_text())["config"]
    recipe = RECIPES["leaves"]
    expected = {"preset": "fast", "numbers": recipe.numbers, "validation": 0.2, "optimizer": "adamw", "patience": 2}
    assert config.items() >= {**expected, "dropout": recipe.dropout, "activation": recipe.activation}.items()
    assert recipe.numbers in done("inspect", "run")
    done("predict", "run", "price.csv", "--out", "p.csv")
    predicted = np.loadtxt("p.csv", skiprows=1)
    prices = np.loadtxt("price.csv", skiprows=1, delimiter=",", usecols=3)
    assert prices.min() <= predicted.min() and predicted.max() <= prices.max()


def test_the_last_epochs_are_on_all_rows_and_validated_is_what_came_before(folder: Path) -> None:
    long = ["--epochs", "10", "--device", "cpu"]
    text = done("train", "price.csv", *long, "--out", "run")
    assert "more on all 64 rows" in text
    metrics = json.loads(Path("run/metrics.json").read_text())
    expected = {"epochs": 8, "epochs_on_all_rows": 2, "schedule": "cosine(0.1)", "patience": 4}
    assert metrics["config"].items() >= expected.items()
    with open("run/history.csv", newline="") as file:
        least = min(float(epoch["validation_loss"]) for epoch in csv.DictReader(file))
    assert metrics["validation"]["loss"] == pytest.approx(least, rel=1e-4)
    done("train", "kind.csv", *long, "--test", "0", "--out", "untested")
    metrics = json.loads(Path("untested/metrics.json").read_text())
    right = np.trace(metrics["confusion"]) / np.sum(metrics["confusion"])
    assert right == pytest.approx(metrics["validation"]["accuracy"])
    text = done("train", "price.csv", *long, "--validation", "0", "--out", "unvalidated")
    assert "more on all" not in text
    config = json.loads(Path("unvalidated/metrics.json").read_text())["config"]
    assert (config["epochs"], config["schedule"], config["epochs_on_all_rows"]) == (10, "cosine", 0)


@pytest.mark.parametrize("data", ["price", "kind"])
def test_the_command_trains_the_network_of_the_estimator(
    folder: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the seed of its weights they hold out the same rows and train alike: the weights have the same bits."""

    def with_the_seed_of_the_command(*arguments: Any, seed: list[int], **options: Any) -> gpubp.MLP:
        return gpubp.MLP(*arguments, seed=[number - 1 for number in seed], **options)  # folds are counted from 1

    monkeypatch.setattr(fitting, "MLP", with_the_seed_of_the_command)
    text = done("train", f"{data}.csv", "--epochs", "10", "--device", "cpu", "--test", "0", "--seed", "3", "--out", "r")
    assert "more on all 80 rows" in text
    by_command = gpubp.MLP.load(Path("r/model.safetensors"), device="cpu")
    columns = gpubp.data.read(f"{data}.csv").columns
    kind = gpubp.TabularRegressor if data == "price" else gpubp.TabularClassifier
    estimator = kind("fast", epochs=10, random_state=3, device="cpu")
    model = estimator.fit({name: columns[name] for name in ("a", "b", "colour")}, columns[data]).model_
    assert np.array_equal(model.members[0].net.theta, by_command.theta)
    assert by_command.preprocessing is not None
    targets = [preprocessing["target"] for preprocessing in (by_command.preprocessing, model.preprocessing)]
    if data == "price":
        low_and_high = [[*target["low"], *target["high"]] for target in targets]
        assert low_and_high[0] == pytest.approx(low_and_high[1])


def test_values_are_predicted_within_the_range_of_all_rows_that_were_trained_on(folder: Path) -> None:
    done("train", "price.csv", "--epochs", "10", "--device", "cpu", "--test", "0", "--seed", "1", "--out", "run")
    target = gpubp.MLP.load(Path("run/model.safetensors"), device="cpu").preprocessing["target"]
    prices = np.loadtxt("price.csv", skiprows=1, delimiter=",", usecols=3)
    assert [*target["low"], *target["high"]] == pytest.approx([prices.min(), prices.max()])


def test_epochs_on_all_rows_that_fail_leave_the_validated_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["train", "price.csv", "--epochs", "10", "--device", "cpu", "--out"]
    monkeypatch.setattr("gpubp.tabular.epochs.RATE_ON_ALL_ROWS", 1e33)
    assert "not trained on the validation rows as well" in done(*run, "run")
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["train"]["loss"] < 1  # of targets with a variance of 1

    def without_memory(*_: Any) -> Any:
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr("gpubp.checks.stacked_rows", without_memory)
    assert "as well: MemoryError: Unable to allocate 9 GiB" in done(*run, "large")
    assert json.loads(Path("large/metrics.json").read_text())["train"] == metrics["train"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_epochs_on_all_rows_leaves_the_validated_network(
    number: signal.Signals, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("the tests were started so that this signal is ignored")
    stacked_rows = checks.stacked_rows

    def interrupted(X: Any, below: Any) -> Any:
        signal.raise_signal(number)
        return stacked_rows(X, below)

    monkeypatch.setattr(checks, "stacked_rows", interrupted)
    before = signal.getsignal(number)
    result = invoke("train", "price.csv", "--epochs", "10", "--device", "cpu", "--out", "run")
    assert result.exit_code == 128 + number, result.output
    assert "not trained on the validation rows as well: interrupted" in result.stdout
    assert json.loads(Path("run/metrics.json").read_text())["train"]["loss"] < 1
    assert signal.getsignal(number) == before
    assert "Interrupted" not in result.stderr  # there is no checkpoint to go on from


def test_a_training_goes_on_with_its_epochs_on_all_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ["train", "price.csv", "--epochs", "10", "--device", "cpu"]
    done(*run, "--out", "whole")

    def interrupted(X: Any, below: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(checks, "stacked_rows", interrupted)
        result = invoke(*run, "--checkpoint-every", "3epochs", "--out", "run")
    assert "to go on: gpubp train price.csv" in result.stderr and result.stderr.endswith("--resume run\n")
    done(*run, "--resume", "run")
    one, other = (gpubp.MLP.load(Path(name, "model.safetensors"), device="cpu").theta for name in ("whole", "run"))
    assert np.array_equal(one, other)


def test_an_option_on_the_network_makes_it_a_network_of_ones_own(folder: Path) -> None:
    text = done("train", "kind.csv", *SHORT, "--hidden", "4", "--out", "own")
    assert "preset: none, as --hidden is given; --preset fast takes all that is not given from there" in text
    config = json.loads(Path("own/metrics.json").read_text())["config"]
    assert (config["optimizer"], config["dropout"], config["validation"]) == ("adam", 0.0, None)
    done("train", "kind.csv", *SHORT, "--hidden", "4", "--preset", "fast", "--optimizer", "sgd", "--out", "both")
    config = json.loads(Path("both/metrics.json").read_text())["config"]
    assert (config["hidden"], config["optimizer"], config["learning_rate"]) == ("4", "sgd", 1e-3)
    assert config["dropout"] == RECIPES["leaves"].dropout_of_classes
    text = done("train", "kind.csv", *SHORT, "--preset", "none", "--numbers", "robust+piecewise(4)", "--out", "none")
    assert "preset" not in text and "robust+piecewise(bins=4)" in done("inspect", "none")


def test_arrays_have_no_preset(folder: Path) -> None:
    assert "preset" not in done("train", "digits", "--epochs", "1", "--hidden", "4")
    assert "--preset best: digits is no table; leave the preset out" in refused("train", "digits", "--preset", "best")


@pytest.mark.thorough
@pytest.mark.parametrize("data", ["price", "kind"])
def test_networks_of_a_preset_are_one_model_to_all_commands(folder: Path, data: str) -> None:
    text = done("train", f"{data}.csv", *SHORT, "--preset", "best", "--out", "run")
    assert "24 network(s) in 3 stack(s): about" in text and "100%" in text
    assert {path.name for path in Path("run").iterdir()} == {*run_folder.FILES, training_rows.FILE}
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert {"train", "validation", "test"} <= set(metrics) and metrics["preset"] == "best"
    assert sum(metrics["recipe_weights"].values()) == pytest.approx(1)
    assert Path("run/history.csv").read_text().count("forest,") == 2
    assert "preset best:" in done("inspect", "run")
    done("predict", "run", f"{data}.csv", "--out", "p.csv")
    assert len(Path("p.csv").read_text().splitlines()) == 81
    scores = json.loads(done("evaluate", "run", f"{data}.csv", "--json"))
    assert scores["rows"] == 80 and ("accuracy" in scores) == (data == "kind")
    model = TabularModel.load("run/model.safetensors", "cpu")
    (rows, y), parts = model.encode(gpubp.data.read(f"{data}.csv", trained=model.preprocessing)), metrics
    assert y is not None
    assert model.evaluate(rows, y)["loss"] == pytest.approx(scores["loss"])
    assert np.isfinite(parts["test"]["loss"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "bets"], 'unknown preset "bets"; did you mean "best"'),
        (
            ["--preset", "good", "--hidden", "4"],
            "--preset good makes several networks, so --hidden does not go with it",
        ),
        (["--preset", "best", "--validation", "0.1"], "so --validation does not go with it"),
        (["--numbers", "robust+bins"], 'unknown encoding of numbers "bins"'),
        (["--encoding", "robust+piecewise"], "numbers are encoded, --numbers robust+piecewise"),
        (["--time-limit", "0"], "--time-limit 0: give seconds, more than 0"),
        (["--preset", "good", "--time-limit", "1e-9"], "time limit 1e-09 s: is too short for one epoch"),
    ],
)
def test_what_does_not_go_together_is_refused(folder: Path, arguments: list[str], message: str) -> None:
    assert message in refused("train", "price.csv", *arguments)
    assert not Path("runs").exists()


def test_one_network_keeps_to_its_time(folder: Path) -> None:
    text = done("train", "price.csv", "--time-limit", "0.2", "--epochs", "100000", "--out", "run")
    assert "time limit: stopped after" in text


def test_a_test_file_is_measured_by_all_networks(folder: Path) -> None:
    done("train", "kind.csv", *SHORT, "--preset", "good", "--test", "kind.csv", "--out", "run")
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["test"] == metrics["train"] and metrics["networks"] == 8
