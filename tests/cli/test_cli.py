"""The command line, as its users meet it: predictions, measures, help, and the program as a process."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

import gpubp
from gpubp.activations import ACTIVATIONS
from gpubp.cli import display
from gpubp.cli.parsing import parse_hidden, parse_list, parse_test
from gpubp.initializers import INITIALIZERS
from gpubp.losses import LOSSES
from gpubp.optimizers import OPTIMIZERS
from gpubp.schedules import SCHEDULES
from support.commands import QUICK, RUN, RUN_FILES, done, environment, flowers, read_csv

# -- predict, evaluate, inspect ------------------------------------------------------------------------


def test_predict_takes_raw_rows_in_any_order_of_columns(trained: Path, folder: Path) -> None:
    rows = list(csv.DictReader(flowers().splitlines()))
    with Path("rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["colour", "width", "height"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    text = done("predict", str(trained), "rows.csv", "--out", "sub/found.csv")
    assert "wrote 60 predictions to sub/found.csv" in text
    found = read_csv("sub/found.csv")
    assert list(found[0]) == ["prediction", "probability_rose", "probability_tulip"]
    right = np.mean([f["prediction"] == r["kind"] for f, r in zip(found, rows, strict=True)])
    assert right > 0.9
    assert all(abs(float(f["probability_rose"]) + float(f["probability_tulip"]) - 1) < 1e-5 for f in found)
    accuracy = json.loads(done("evaluate", str(trained), "flowers.csv", "--json"))["accuracy"]
    assert accuracy == pytest.approx(right)


def test_evaluate_shows_a_table(trained: Path, folder: Path) -> None:
    text = done("evaluate", str(trained / "model.safetensors"), "flowers.csv")
    assert re.search(r"flowers.csv, 60 rows\s+\S+\s+\d\.\d{4}", text)


def test_data_with_a_test_part_of_its_own_is_evaluated_on_it(folder: Path, rng: np.random.Generator) -> None:
    X, y = rng.normal(size=(50, 3)), np.arange(50) % 2
    np.savez("arrays.npz", X=X, y=y, X_test=X[:8], y_test=y[:8])
    done("train", "arrays.npz", *QUICK, "--out", "run")
    assert "using the 8 rows that the data set keeps for testing" in done("evaluate", "run", "arrays.npz")
    assert "wrote 8 predictions" in done("predict", "run", "arrays.npz")


def test_inspect_shows_what_the_file_holds(trained: Path, folder: Path) -> None:
    text = done("inspect", str(trained))
    net = gpubp.MLP.load(trained / "model.safetensors")
    assert f"-8-2, {net.parameters} parameters" in text
    assert f"{np.linalg.norm(net.weights[0]):.4g}" in text
    assert "2 numbers, standardized: height, width" in text
    assert "1 indicator of missing numbers" in text
    assert '"colour", one-hot: red, white' in text
    assert 'predicts "kind": 2 classes: rose, tulip' in text


def test_inspect_takes_a_network_from_python(folder: Path) -> None:
    gpubp.MLP([3, 2, 1], loss="huber(0.5)", models=4).save("stack.safetensors")
    text = done("inspect", "stack.safetensors")
    assert "3-2-1, 11 parameters, a stack of 4" in text
    assert "huber(delta=0.5)" in text
    assert "no preprocessing" in text


# -- help ----------------------------------------------------------------------------------------------


def test_the_version_is_said() -> None:
    assert done("--version") == f"gpubp {gpubp.__version__}\n"


def test_help_lists_the_commands_that_exist() -> None:
    text = done("--help")
    for command in ("train", "predict", "evaluate", "search", "doctor", "bench", "inspect"):
        assert f" {command} " in text
    assert "resume" in done("train", "--help")


def test_help_lists_the_registries() -> None:
    text = done("train", "--help")
    for registry in (ACTIVATIONS, LOSSES, OPTIMIZERS, INITIALIZERS, SCHEDULES):
        assert all(re.search(rf"\b{name}\b", text) for name in registry)


# -- as a process --------------------------------------------------------------------------------------


@pytest.mark.backends  # by default, README.md's commands are processes: test_docs.py
def test_a_process_trains_and_fails_like_a_program(folder: Path) -> None:
    command = [*RUN, "train", "flowers.csv", *QUICK, "--out", "run"]
    good = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    assert {p.name for p in Path("run").iterdir()} == RUN_FILES
    command = [*RUN, "train", "prices.csv", "--learning-rate", "1e30", "--schedule", "constant"]
    bad = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60, check=False)
    assert bad.returncode == 1
    assert bad.stderr.startswith("Error: training diverged at step ")
    assert len(bad.stderr.splitlines()) == 1
    assert not Path("runs").exists()


# -- small things --------------------------------------------------------------------------------------


def test_a_list_keeps_arguments_together() -> None:
    assert parse_list("relu") == ["relu"]
    assert parse_list("relu, elu(0.5) ,x(1, b=2)") == ["relu", "elu(0.5)", "x(1, b=2)"]


def test_hidden_sizes() -> None:
    assert parse_hidden("512, 256") == [512, 256]
    assert parse_hidden("None") == []


def test_a_number_is_a_fraction_and_anything_else_a_place() -> None:
    assert parse_test(None) is None
    assert parse_test("0.25") == 0.25
    assert parse_test("0.25.csv") == "0.25.csv"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("accuracy", 1.0, "1.0000"), ("loss", 0.123456, "0.1235"), ("rmse", 52137.44, "52,137.4"), ("r2", None, "-")],
)
def test_figures(name: str, value: float | None, text: str) -> None:
    assert display.figure(name, value) == text


@pytest.mark.parametrize(("n_bytes", "text"), [(0, "0 B"), (999, "999 B"), (3_400_000, "3.4 MB"), (5e12, "5000.0 GB")])
def test_sizes(n_bytes: float, text: str) -> None:
    assert display.size(n_bytes) == text
