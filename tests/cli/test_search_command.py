"""``gpubp search``: what it trains, what it finds, what it keeps, and what it says."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import gpubp
from gpubp.cli import metrics, run_folder, training_rows
from gpubp.cli.options import OPTIONS
from gpubp.cli.search import display as search_display
from gpubp.cli.search import trials
from gpubp.cli.search.grid import parse_grid, shown
from gpubp.cli.search.results import Results
from gpubp.cli.search.trials import Search
from gpubp.cli.settings import Settings
from gpubp.data import encode, prepare, read
from gpubp.data.folds import Fold, cut
from gpubp.errors import UsageError
from gpubp.training import packing
from support.commands import check_failure, done, flowers, invoke, read_csv, tree
from support.machines import by_tier

DEFAULTS = Settings({name: option.command_default for name, option in OPTIONS.items()})
SETTINGS = DEFAULTS.changed({"hidden": "4", "batch_size": 16, "epochs": 3})
QUICK = ["--epochs", "3", "--hidden", "4", "--seeds", "1", "--device", "cpu-reference"]
FILES = {*run_folder.FILES, training_rows.FILE, "results.csv"}


def folds_of(name: str, **changes: Any) -> list[Fold]:
    data = read(name)
    loss = prepare(data).loss
    options = {"test": None, "folds": 3, "validation": 0.2, "seed": 0, "dtype": np.float64, **changes}
    return cut(data, loss=loss, **options)[0]


def run(candidates: list[Settings], folds: list[Fold], loss: str, n_outputs: int, seeds: Any = (0,)) -> Search:
    """A search that has gone to its end."""
    found = Search(candidates, folds, seeds, n_outputs, loss, "cpu-reference", "float64")
    for stack in found.stacks:
        found.train(stack, lambda stack, history: None)
    return found


# -- folds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 5])
def test_folds_cover_the_training_rows(number: int) -> None:
    """Each is validated on once, and those of one split are those of ``gpubp train --validation``."""
    ready = prepare(read("iris"), validation=0.2 if number == 1 else None, dtype=np.float64)
    folds = folds_of("iris", folds=number)
    assert [fold.number for fold in folds] == list(range(1, number + 1))
    rows = len(ready.train[0]) + (len(ready.validation[0]) if ready.validation else 0)
    for fold in folds:
        both = np.concatenate([fold.train, fold.validation]) % rows
        np.testing.assert_array_equal(np.sort(both), np.arange(rows))
        counts = np.bincount(fold.y[fold.train])
        assert counts.max() - counts.min() <= 1
    if number == 1:
        assert ready.validation is not None
        np.testing.assert_array_equal(folds[0].X[folds[0].train], ready.train[0])
        np.testing.assert_array_equal(folds[0].X[folds[0].validation], ready.validation[0])
        np.testing.assert_array_equal(folds[0].y[folds[0].validation], ready.validation[1])
    else:
        validated = np.concatenate([fold.validation % rows for fold in folds])
        np.testing.assert_array_equal(np.sort(validated), np.arange(rows))


@pytest.mark.parametrize("name", ["prices.csv", "flowers.csv"])
def test_what_a_fold_is_validated_on_leaves_no_trace_in_its_training_rows(folder: Path, name: str) -> None:
    """A value that is changed everywhere but in a fold's own training rows changes nothing of them."""
    before = folds_of(name, test=0.0)
    data = read(name)
    for fold, number in zip(before, range(3), strict=True):
        fitted = {column: values.copy() for column, values in data.columns.items()}
        rows = fold.validation % data.rows
        for values in fitted.values():
            if values.dtype != object:
                values[rows] = np.where(np.isnan(values[rows]), np.nan, 1e6)
        spoiled = replace(data, columns=fitted)
        split = {"test": 0.0, "folds": 3, "validation": 0.2, "seed": 0, "dtype": np.float64}
        after = cut(spoiled, loss=prepare(data).loss, **split)[0][number]
        np.testing.assert_array_equal(after.train % data.rows, fold.train % data.rows)
        np.testing.assert_array_equal(after.X[after.train], fold.X[fold.train])
        np.testing.assert_array_equal(after.y[after.train], fold.y[fold.train])
        assert after.preprocessing == fold.preprocessing


def test_folds_whose_columns_differ_are_as_wide_as_their_own_training_rows_make_them(folder: Path) -> None:
    """A category of one row is a column of the folds that train on it."""
    lines = flowers().splitlines()
    lines[5] = lines[5].replace("red", "blue").replace("white", "blue")
    Path("rare.csv").write_text("\n".join(lines) + "\n")
    data, folds = read("rare.csv"), folds_of("rare.csv", test=0.0)
    widths = [fold.X.shape[1] for fold in folds]
    assert len(set(widths)) == 2
    for fold in folds:
        X, y = encode(fold.preprocessing, data, dtype=np.float64)
        assert y is not None
        for rows in (fold.train, fold.validation):
            np.testing.assert_array_equal(fold.X[rows], X[rows % data.rows])
            np.testing.assert_array_equal(fold.y[rows], y[rows % data.rows])
        assert ("blue" in str(fold.preprocessing)) == (fold.X.shape[1] == max(widths))


def test_images_are_held_once_for_all_folds(folder: Path, rng: np.random.Generator) -> None:
    X, y = rng.integers(0, 256, (30, 4), dtype=np.uint8), np.arange(30) % 3
    np.savez("images.npz", X=X, y=y, X_test=X[:9], y_test=y[:9])
    folds = folds_of("images.npz")
    assert folds[0].X.shape == (30, 4)
    assert all(fold.X is folds[0].X for fold in folds)


# -- training ------------------------------------------------------------------------------------------


CHANGES = [
    {"learning_rate": 1e-2},
    {"learning_rate": 3e-2, "dropout": 0.3, "l2": 1e-3, "weight_decay": 0.1, "max_grad_norm": 0.5},
    {"schedule": "warmup(exponential, 0.2)", "epochs": 5, "beta1": 0.8},
    {"patience": 1, "epochs": 30, "learning_rate": 0.1, "schedule": "constant"},
    {"patience": 2, "epochs": 20, "learning_rate": 0.05},
    {"hidden": "5,3", "activation": "tanh,silu", "batch_size": 7},
    {"optimizer": "nesterov", "momentum": 0.5, "init": "orthogonal"},
    {"optimizer": "nesterov", "learning_rate": 1e-2},
    {"update_tolerance": 1e-2, "hidden": "none", "epochs": 20},
]


@pytest.mark.parametrize(
    ("name", "metric"), by_tier([("iris", "accuracy"), ("diabetes", "rmse")], lambda case: case[0] == "iris")
)
def test_each_network_is_trained_as_by_itself(name: str, metric: str) -> None:
    """To the last bit, on the reference backend, for settings and folds of every kind."""
    ready, folds, seeds = prepare(read(name)), folds_of(name), (3, 8)
    settings = [SETTINGS.changed(values) for values in CHANGES]
    found = run(settings, folds, ready.loss, ready.n_outputs, seeds)
    assert len(found.trials) == len(settings) * len(folds) * len(seeds)
    assert len(found.stacks) == 6  # by shape, first weights, optimizer, batch size, and what ends them
    for trial in found.trials:
        candidate, fold = settings[trial.candidate], trial.fold
        net = candidate.network(fold.X.shape[1], ready.n_outputs, ready.loss, trial.seed, "cpu-reference", "float64")
        net.preprocessing = fold.preprocessing
        validation = fold.X[fold.validation], fold.y[fold.validation]
        arguments = candidate.train_arguments()
        history = gpubp.train(
            net, fold.X[fold.train], fold.y[fold.train], validation_data=validation, seed=trial.seed, **arguments
        )
        alone = metrics.score(net, *validation)
        assert trial.state == "done"
        assert (trial.loss, trial.metric) == (alone["loss"], alone[metric])
        assert trial.epochs == (history.epochs if candidate["patience"] is None else history.best_epoch + 1)


def test_a_search_in_many_stacks_finds_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["search", "prices.csv", "--grid", "learning-rate=1e-3,1e-2,1e-1", *QUICK, "--seeds", "2"]
    assert "30 networks (3 candidates x 5 folds x 2 seeds) in 1 stack, " in done(*command, "--out", "one")
    monkeypatch.setattr(packing, "memory_for_stacks", lambda backend: 100_000.0)
    text = done(*command, "--out", "many")
    assert re.search(r"in \d+ stacks, (up to )?[\d.]+ kB each, beside [\d.]+ kB of data", text)
    assert all(Path("one", name).read_bytes() == Path("many", name).read_bytes() for name in ("results.csv",))


def test_what_a_search_takes_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many networks in a stack as there is room for, of whole candidates first, by fold within."""
    folds = folds_of("iris")
    candidates = [SETTINGS.changed({"learning_rate": rate}) for rate in (1e-3, 1e-2, 1e-1, 1.0)]
    whole = Search(candidates, folds, (0,), 3, "cross_entropy", "cpu-reference", "float64")
    (stack,) = whole.stacks
    each = stack.bytes // len(stack.trials)
    assert [trial.fold.number for trial in stack.trials] == [1] * 4 + [2] * 4 + [3] * 4
    room = whole.data_bytes + 6.5 * each
    monkeypatch.setattr(packing, "memory_for_stacks", lambda backend: room)
    cut_up = Search(candidates, folds, (0,), 3, "cross_entropy", "cpu-reference", "float64")
    assert [stack.bytes for stack in cut_up.stacks] == [6 * each, 6 * each]
    assert [{trial.candidate for trial in stack.trials} for stack in cut_up.stacks] == [{0, 1}, {2, 3}]


# -- the command ---------------------------------------------------------------------------------------


def test_a_search_says_everything_and_keeps_the_winner(folder: Path) -> None:
    grid = "learning-rate=1e-4,0.05;hidden=4,4-3"
    text = done("search", "flowers.csv", "--grid", grid, "--epochs", "80", "--seeds", "2", "--seed", "7")
    assert "folds: 5 of 48 training rows, drawn with seed 7, in each class alike" in text
    assert "40 networks (4 candidates x 5 folds x 2 seeds) in 2 stacks, up to " in text
    assert "best: learning-rate=0.05, hidden=4" in text
    assert "training it on all 48 training rows\n" in text
    (place,) = (folder / "runs").iterdir()
    assert re.fullmatch(r"search-flowers-\d{8}-\d{6}", place.name)
    assert {p.name for p in place.iterdir()} == FILES
    metrics = json.loads((place / "metrics.json").read_text())
    assert (metrics["config"]["learning_rate"], metrics["config"]["grid"]) == (0.05, [grid])
    done("predict", str(place), "flowers.csv")
    found = read_csv("predictions.csv")
    rows = read_csv("flowers.csv")
    assert np.mean([f["prediction"] == r["kind"] for f, r in zip(found, rows, strict=True)]) > 0.9


def test_the_winner_is_the_network_that_train_makes(folder: Path) -> None:
    fixed = ["--device", "cpu-reference", "--epochs", "4", "--seed", "5", "--test", "0.3"]
    grid = "learning-rate=0.05;hidden=5-4;activation=relu-elu(0.5);dropout=0.2;schedule=warmup(cosine,0.1)"
    done("search", "prices.csv", "--grid", grid, *fixed, "--folds", "2", "--out", "searched")
    own = ["--hidden", "5,4", "--activation", "relu,elu(0.5)", "--dropout", "0.2", "--schedule", "warmup(cosine,0.1)"]
    done("train", "prices.csv", "--learning-rate", "0.05", *own, *fixed, "--out", "trained")
    models = [Path(place, "model.safetensors").read_bytes() for place in ("searched", "trained")]
    assert models[0] == models[1]
    searched, trained = (json.loads(Path(place, "metrics.json").read_text()) for place in ("searched", "trained"))
    assert list(searched) == list(trained)
    for key in set(trained) - {"seconds", "config"}:
        assert searched[key] == trained[key], key
    assert searched["config"].items() >= trained["config"].items()
    assert set(searched["config"]) - set(trained["config"]) == {"grid", "folds", "seeds", "rank_by"}


def test_classes_weigh_in_a_search_as_in_train(folder: Path) -> None:
    fixed = ["--device", "cpu-reference", "--epochs", "3", "--hidden", "4", "--class-weight", "setosa=5,virginica=0.5"]
    done("search", "iris", "--grid", "learning-rate=0.05", *fixed, "--folds", "2", "--seeds", "1", "--out", "searched")
    done("train", "iris", "--learning-rate", "0.05", *fixed, "--out", "trained")
    models = [Path(place, "model.safetensors").read_bytes() for place in ("searched", "trained")]
    assert models[0] == models[1]
    without = ["search", "iris", "--grid", "learning-rate=0.05", *fixed[:-2], "--folds", "2", "--seeds", "1"]
    done(*without, "--out", "without")
    losses = [read_csv(f"{place}/results.csv")[0]["loss_mean"] for place in ("searched", "without")]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(("data", "metric"), [("iris", "accuracy"), ("diabetes", "rmse")])
def test_a_single_split_is_scored_as_train_scores_its_validation(folder: Path, data: str, metric: str) -> None:
    own = ["--validation", "0.3", "--epochs", "4", "--device", "cpu-reference", "--precision", "float64"]
    done("search", data, "--grid", "learning-rate=0.01", *own, "--seeds", "1", "--out", "searched")
    done("train", data, "--learning-rate", "0.01", *own, "--out", "trained")
    (row,) = read_csv("searched/results.csv")
    expected = json.loads(Path("trained/metrics.json").read_text())["validation"]
    for name in ("loss", metric):
        assert float(row[f"{name}_mean"]) == pytest.approx(expected[name], rel=1e-8)
        assert row[f"{name}_fold1"] == row[f"{name}_mean"]
        assert float(row[f"{name}_std"]) == 0


def test_results_hold_every_candidate_and_every_score(folder: Path) -> None:
    grid = ["--grid", "learning-rate=1e-3,0.1;weight-decay=none,0.5", "--grid", "optimizer=sgd,adamw;beta2=0.9"]
    result = invoke("search", "iris", *grid, *QUICK)
    assert result.exit_code == 2  # sgd has no beta2
    assert 'optimizer "sgd" has no option "beta2"' in result.stderr
    grid[-1] = "optimizer=adamw;beta2=0.9,0.99"
    done("search", "iris", *grid, *QUICK, "--folds", "3", "--seeds", "2", "--out", "run")
    rows = read_csv("run/results.csv")
    assert [row["rank"] for row in rows] == [str(i + 1) for i in range(6)]
    assert {(r["learning-rate"], r["weight-decay"], r["optimizer"], r["beta2"]) for r in rows} == {
        ("0.001", "none", "adam", "none"),
        ("0.001", "0.5", "adam", "none"),
        ("0.1", "none", "adam", "none"),
        ("0.1", "0.5", "adam", "none"),
        ("0.001", "none", "adamw", "0.9"),
        ("0.001", "none", "adamw", "0.99"),
    }
    for row in rows:
        assert (row["status"], row["after_epoch"]) == ("done", "3")
        for name in ("loss", "accuracy"):
            each = [float(row[f"{name}_fold{fold}_seed{seed}"]) for fold in (1, 2, 3) for seed in (0, 1)]
            assert float(row[f"{name}_mean"]) == pytest.approx(np.mean(each))
            assert float(row[f"{name}_std"]) == pytest.approx(np.std(each), abs=1e-8)
    losses = [float(row["loss_mean"]) for row in rows]
    assert losses == sorted(losses)
    done("search", "iris", *grid, *QUICK, "--folds", "3", "--rank-by", "metric", "--out", "run", "--overwrite")
    scores = [(-float(row["accuracy_mean"]), float(row["loss_mean"])) for row in read_csv("run/results.csv")]
    assert scores == sorted(scores)


def test_values_are_ranked_by_their_loss(folder: Path) -> None:
    done("search", "prices.csv", "--grid", "learning-rate=1e-3,0.1,1e-2", *QUICK, "--out", "run")
    rows = read_csv("run/results.csv")
    assert [row["learning-rate"] for row in rows] == ["0.1", "0.01", "0.001"]
    losses = [float(row["loss_mean"]) for row in rows]
    assert losses == sorted(losses)
    assert all(100 < float(row["rmse_mean"]) < 1000 for row in rows), "in the units of the prices"


def test_with_patience_the_winner_is_trained_for_as_long_as_its_networks_took_to_their_best(folder: Path) -> None:
    command = ["search", "prices.csv", "--grid", "learning-rate=0.1;patience=2", "--hidden", "16", "--epochs", "300"]
    text = done(*command, "--schedule", "constant", "--out", "run")
    (row,) = read_csv("run/results.csv")
    epochs = int(row["after_epoch"])
    assert 0 < epochs < 298
    assert f"for {epochs} epochs, the mean of what its networks took to their best" in text
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["epochs"] == metrics["config"]["epochs"] == epochs
    assert metrics["config"]["patience"] is None


def test_epochs_that_are_not_given_suit_the_data(folder: Path) -> None:
    text = done(
        "search", "flowers.csv", "--grid", "batch-size=8,48", "--hidden", "none", "--folds", "2", "--out", "run"
    )
    assert "epochs: 167 to 1000, the data being small, for 1,000 steps; else --epochs" in text
    assert {row["batch-size"]: row["after_epoch"] for row in read_csv("run/results.csv")} == {"8": "167", "48": "1000"}


def test_quiet_prints_the_result_alone(folder: Path) -> None:
    text = done("search", "flowers.csv", "--grid", "dropout=0,0.2", *QUICK, "--out", "run", "--quiet")
    best, kept = text.splitlines()
    assert re.fullmatch(r"best: dropout=0(.2)?: accuracy 0\.\d{4} ± 0\.\d{4}, loss \S+ ± \S+", best)
    assert re.fullmatch(
        r'test accuracy \d\.\d{4}, .*auc \d\.\d{4}, loss \S+; always "rose": accuracy 0\.5000; run', kept
    )


@pytest.mark.parametrize("labels", [True, False])
def test_several_targets_and_a_test_part_of_its_own(folder: Path, rng: np.random.Generator, labels: bool) -> None:
    X = rng.normal(size=(50, 3))
    y = (X[:, :2] > 0).astype(int) if labels else X[:, :2] * [1.0, 1000.0]
    np.savez("several.npz", X=X, y=y, X_test=X[:8], y_test=y[:8])
    text = done("search", "several.npz", "--grid", "learning-rate=0.01,0.1", *QUICK, "--out", "run")
    assert "folds: 5 of 50 training rows, drawn with seed 0\n" in text
    metric = "label_accuracy" if labels else "rmse"
    rows = read_csv("run/results.csv")
    assert [row["learning-rate"] for row in rows] == ["0.1", "0.01"]
    best = float(rows[0][f"{metric}_mean"])
    assert 0.5 < best <= 1 if labels else 100 < best < 500
    done("search", "flowers.csv", "--grid", "dropout=0", *QUICK, "--test", "flowers.csv", "--out", "other")
    assert len(read_csv("other/results.csv")) == 1


def test_rare_classes_are_said_and_survived(folder: Path) -> None:
    lines = [*flowers(56).splitlines(), *(f"{height},1,red,lily" for height in (7.1, 7.2, 7.3, 7.4))]
    Path("lilies.csv").write_text("\n".join(lines) + "\n")
    text = done("search", "lilies.csv", "--grid", "dropout=0", *QUICK, "--folds", "5", "--out", "run")
    assert 'class "lily": 3 training rows; not every fold is validated on it' in text
    Path("two.csv").write_text(flowers(30, ("rose",)) + "9,1,red,lily\n8,1,red,lily\n")
    binary = ["--loss", "binary_cross_entropy", "--test", "0"]
    text = done("search", "two.csv", "--grid", "dropout=0", *QUICK, *binary, "--out", "two")
    assert 'class "lily": 2 training rows; not every fold is validated on it' in text
    result = invoke("search", "lilies.csv", "--grid", "dropout=0", *QUICK, "--folds", "40", "--out", "forty")
    assert result.exit_code == 2
    assert re.search(r"--folds 40: no class of lilies.csv has so many training rows; use --folds \d+", result.stderr)


def test_a_search_on_a_terminal_shows_the_leaders(folder: Path) -> None:
    folds = folds_of("iris")
    grid = parse_grid(["learning-rate=1e-3,1e-2"], SETTINGS)
    found = Search(grid.candidates, folds, (0,), 3, "cross_entropy", "cpu-reference", "float64")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, markup=False, highlight=False, color_system=None)
    with search_display.SearchProgress(console, Results(found, grid.names, "accuracy", Path("none"))) as progress:
        for stack in found.stacks:
            found.train(stack, progress)
    text = screen.getvalue()
    assert " 33%  stack 1/1, epoch 1/3" in text
    assert re.search(r"2 +0\.0\d+ +0\.\d{4} ± 0\.\d{4} +\S+ ± \S+ +1 +unfinished", text)


# -- what goes wrong -----------------------------------------------------------------------------------


DIVERGING = ["--optimizer", "sgd", "--schedule", "constant", "--batch-size", "16", *QUICK]


def test_a_candidate_that_diverges_is_last_and_the_others_go_on(folder: Path) -> None:
    text = done("search", "prices.csv", "--grid", "learning-rate=1e30,0.01,0.02", *DIVERGING, "--out", "run")
    rows = read_csv("run/results.csv")
    assert [row["learning-rate"] for row in rows] == ["0.02", "0.01", "1e+30"]
    assert rows[2]["status"] == "diverged at step 0 to 3, epoch 1, learning rate 1e+30 (fold 1, seed 0)"
    assert rows[2]["loss_mean"] == rows[2]["rmse_fold1"] == ""
    assert "diverged" in text
    done("search", "prices.csv", "--grid", "learning-rate=0.01,0.02", *DIVERGING, "--out", "without")
    assert read_csv("without/results.csv") == rows[:2]


def test_where_all_diverge_there_is_no_winner(folder: Path) -> None:
    result = invoke("search", "prices.csv", "--grid", "learning-rate=1e30,1e31", *DIVERGING, "--out", "run")
    assert result.exit_code == 1
    assert "Error: every candidate diverged; run/results.csv says when" in result.stderr
    assert {p.name for p in Path("run").iterdir()} == {"results.csv"}
    assert all(row["status"].startswith("diverged at step 0 to 3") for row in read_csv("run/results.csv"))


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Have Ctrl-C pressed after an epoch of a stack."""

    def at(number: int, epoch: int) -> None:
        shows = search_display.SearchProgress.__call__

        def press(self: Any, stack: Any, history: Any) -> None:
            shows(self, stack, history)
            if (self.results.search.stacks.index(stack), history.epochs) == (number, epoch):
                raise KeyboardInterrupt

        monkeypatch.setattr(search_display.SearchProgress, "__call__", press)

    return at


def test_ctrl_c_keeps_what_is_done_and_the_best_of_it(folder: Path, interrupt: Callable[[int, int], None]) -> None:
    """The second of three stacks has one candidate that is done and one that is not."""
    interrupt(1, 3)
    command = ["search", "iris", "--grid", "hidden=2,3,4;epochs=3,6", "--device", "cpu-reference"]
    result = invoke(*command, "--out", "run")
    assert result.exit_code == 130
    assert result.stderr == "Interrupted: 3 of 6 candidates are done\n"
    rows = read_csv("run/results.csv")
    states = {(row["hidden"], row["epochs"]): (row["status"], row["after_epoch"]) for row in rows}
    assert states == {
        ("2", "3"): ("done", "3"),
        ("2", "6"): ("done", "6"),
        ("3", "3"): ("done", "3"),
        ("3", "6"): ("unfinished", "3"),
        ("4", "3"): ("not started", ""),
        ("4", "6"): ("not started", ""),
    }
    assert [row["status"] for row in rows] == ["done"] * 3 + ["unfinished"] + ["not started"] * 2
    assert rows[3]["accuracy_mean"] and not rows[4]["accuracy_mean"]
    assert {p.name for p in Path("run").iterdir()} == FILES | {"finished.safetensors"}
    assert json.loads(Path("run/metrics.json").read_text())["config"]["hidden"] == rows[0]["hidden"]
    done("predict", "run", "iris")


def test_a_search_goes_on_after_its_finished_stacks_and_ends_like_an_unbroken_one(
    folder: Path, interrupt: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["search", "iris", "--grid", "hidden=2,3,4;epochs=3,6", "--folds", "2", "--device", "cpu-reference"]
    done(*command, "--out", "whole")
    with monkeypatch.context():
        interrupt(1, 3)
        assert invoke(*command, "--out", "run").exit_code == 130
        monkeypatch.undo()
    monkeypatch.chdir(folder)
    other = invoke(*command, "--seed", "1", "--resume", "run")
    assert other.exit_code == 2 and "belongs to another search: seeds is [0, 1, 2] there and [1, 2, 3]" in other.stderr
    trained, train = [], Search.train
    monkeypatch.setattr(Search, "train", lambda self, stack, then: trained.append(stack) or train(self, stack, then))
    assert "going on in run: 1 of 3 stacks finished" in done(*command, "--resume", "run")
    assert len(trained) == 2
    assert Path("run/results.csv").read_bytes() == Path("whole/results.csv").read_bytes()
    assert {p.name for p in Path("run").iterdir()} == FILES
    again = invoke(*command, "--resume", "run")
    assert again.exit_code == 2 and "run: holds no search to go on with" in again.stderr
    whole, resumed = (gpubp.MLP.load(f"{run}/model.safetensors", device="cpu") for run in ("whole", "run"))
    np.testing.assert_array_equal(resumed.theta, whole.theta)


def test_ctrl_c_before_a_candidate_is_done_keeps_the_scores_so_far(
    folder: Path, interrupt: Callable[[int, int], None]
) -> None:
    interrupt(0, 2)
    result = invoke("search", "prices.csv", "--grid", "dropout=0,0.2", *QUICK, "--out", "run")
    assert result.exit_code == 130
    assert result.stderr.startswith("Interrupted: 0 of 2 candidates are done\n")
    assert "run/results.csv says how far each came; no network was kept" in result.stderr
    assert {p.name for p in Path("run").iterdir()} == {"results.csv"}
    assert [(r["status"], r["after_epoch"]) for r in read_csv("run/results.csv")] == [("unfinished", "2")] * 2


def test_ctrl_c_before_the_first_epoch_writes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trials, "run_training", pressed)
    monkeypatch.setattr(Search, "_try_one_step", lambda self, trials: None)
    before = tree(folder)
    result = invoke("search", "flowers.csv", "--grid", "dropout=0,0.2", *QUICK, "--out", "run")
    assert (result.exit_code, result.stderr) == (130, "Interrupted: nothing was written\n")
    assert tree(folder) == before


def test_ctrl_c_while_the_winner_is_trained_leaves_the_results(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpubp.cli.search.command.fit", pressed)
    result = invoke("search", "flowers.csv", "--grid", "dropout=0,0.2", *QUICK, "--out", "run")
    assert result.exit_code == 130
    assert result.stderr == "Interrupted: run/results.csv was written, and no network\n"
    assert {p.name for p in Path("run").iterdir()} == {"results.csv", "finished.safetensors"}


BAD = [
    ("--grid learning-rat=1", ["learning-rat", 'did you mean "learning-rate"']),
    ("--grid learning-rate", ["learning-rate", "NAME=VALUE"]),
    ("--grid dropout=0;", ['""', "NAME=VALUE"]),
    ("--grid dropout=0;dropout=1", ["dropout", "twice"]),
    ("--grid dropout=0,x", ["dropout", '"x"', "number"]),
    ("--grid dropout=0,none", ["dropout", '"none"', "number"]),
    ("--grid dropout=0,1", ["dropout=1"]),
    ("--grid learning-rate=1e-3,0", ["learning_rate=0"]),
    ("--grid learning-rate=nan", ["learning_rate"]),
    ("--grid batch-size=32,0", ["batch-size", '"0"', "at least 1"]),
    ("--grid epochs=2.5", ["epochs", '"2.5"', "whole"]),
    ("--grid hidden=64-,8", ["hidden", '"64-"', "hidden=none,64,128-64"]),
    ("--grid activation=relu,rleu", ["rleu", '"relu"']),
    ("--grid activation=relu-tanh", ["activations names 2", "1 hidden"]),
    ("--grid optimizer=adam,", ["optimizer", "empty"]),
    ("--grid optimizer=adem", ["adem", '"adam"']),
    ("--grid schedule=cosin", ["cosin", '"cosine"']),
    ("--grid init=he", ["he"]),
    ("--grid momentum=0.9", ["momentum", "adam"]),
    ("--grid beta2=0.9,1", ["beta2=1"]),
    ("--grid device=cpu,cuda", ["device", "whole search", "--device"]),
    ("--grid precision=float32", ["precision", "--precision"]),
    ("--grid test=0.1,0.2", ["test", "--test"]),
    ("--grid out=a,b", ["out", "--out"]),
    ("--grid seed=1,2", ["seed", "--seeds"]),
    ("--grid loss=huber,quantile", ["loss", "compared", "--loss"]),
    ("--grid dropout=0 --dropout 0.1", ["dropout", "--dropout"]),
    ("--grid label-smoothing=0,0.1 --loss half_squared_error --target height", ["label_smoothing"]),
    ("--grid dropout=0 --folds 3 --validation 0.2", ["--validation", "--folds 1"]),
    ("--grid dropout=0 --validation 0", ["--validation 0"]),
    ("--grid dropout=0 --folds 0", ["--folds"]),
    ("--grid dropout=0 --folds 90 --target height", ["--folds 90", "48 training rows"]),
    ("--grid dropout=0 --seeds 0", ["--seeds"]),
    ("--grid dropout=0 --target kin", ["kin", '"kind"']),
    ("--grid dropout=0 --out flowers.csv", ["flowers.csv", "--out"]),
    ("", ["--grid"]),
]


@pytest.mark.parametrize(("options", "words"), BAD, ids=[case[0] for case in BAD])
def test_bad_options(folder: Path, options: str, words: list[str]) -> None:
    """Before anything is trained or written."""
    check_failure(folder, ["search", "flowers.csv", *options.split()], 2, words)


# -- the grid ------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_once() -> None:
    grid = parse_grid(["learning-rate=1e-3,0.001,0.01; hidden=none, 8-4", "learning_rate=0.01;hidden=none"], SETTINGS)
    assert grid.names == ("learning_rate", "hidden")
    assert [(one["learning_rate"], one["hidden"]) for one in grid.candidates] == [
        (0.001, "none"),
        (0.001, "8,4"),
        (0.01, "none"),
        (0.01, "8,4"),
    ]
    assert shown(grid.names, grid.candidates[1]) == {"learning-rate": "0.001", "hidden": "8-4"}


def test_values_keep_their_arguments() -> None:
    grid = parse_grid(["activation=leaky_relu(-0.1)-tanh,elu(alpha=0.5);schedule=warmup(cosine,0.1),step"], SETTINGS)
    assert [(one["activation"], one["schedule"]) for one in grid.candidates] == [
        ("leaky_relu(-0.1),tanh", "warmup(cosine,0.1)"),
        ("leaky_relu(-0.1),tanh", "step"),
        ("elu(alpha=0.5)", "warmup(cosine,0.1)"),
        ("elu(alpha=0.5)", "step"),
    ]
    assert shown(grid.names, grid.candidates[0])["activation"] == "leaky_relu(-0.1)-tanh"


@pytest.mark.parametrize(
    "name", ["momentum", "weight-decay", "max-grad-norm", "patience", "update-tolerance", "epochs"]
)
def test_what_may_be_off_can_be_none(name: str) -> None:
    (candidate,) = parse_grid([f"{name}=none"], SETTINGS).candidates
    assert candidate.get(name.replace("-", "_")) is None


def test_every_setting_but_the_loss_can_be_searched() -> None:
    values = {"hidden": "3", "activation": "tanh", "init": "zeros", "optimizer": "sgd", "schedule": "step"}
    for name in SETTINGS.as_dict():
        if name == "loss":
            with pytest.raises(UsageError, match="loss cannot be searched"):
                parse_grid(["loss=huber"], SETTINGS)
            continue
        (candidate,) = parse_grid([f"{name}={values.get(name, '1')}"], SETTINGS).candidates
        assert str(candidate.get(name)).removesuffix(".0") == values.get(name, "1")
