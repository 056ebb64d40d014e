"""That `evaluate` knows rows again which a network was trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from typer.testing import CliRunner

import gpubp
from gpubp.checks import SparseRows
from gpubp.cli import training_rows
from gpubp.cli.app import app

QUICK = ["--epochs", "1", "--hidden", "4", "--device", "cpu-reference"]


def invoke(*arguments: Any) -> Any:
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, [str(a) for a in arguments], prog_name="gpubp")


def done(*arguments: Any) -> str:
    """What a command that must succeed prints."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def known(data: str, run: str = "run") -> int | None:
    """How many rows of a file `evaluate` says were training rows."""
    counted: int | None = json.loads(done("evaluate", run, data, "--json"))["training_rows"]
    return counted


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> list[str]:
    """The lines of table.csv in the working directory: 200 different rows of numbers, a category and a target."""
    monkeypatch.chdir(tmp_path)
    a, b = rng.normal(size=(2, 200)).round(4)
    rows = [f"{x},{'red' if x > y else 'blue'},{y},{x - y:.3f}" for x, y in zip(a, b, strict=True)]
    Path("table.csv").write_text("\n".join(["a,colour,b,price", *rows, ""]))
    return rows


OPTIONS = [
    pytest.param([*QUICK, "--validation", "0.25"], id="own"),
    pytest.param(["--epochs", "1"], id="fast", marks=pytest.mark.thorough),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_rows_of_a_table_are_known_and_others_are_not(lines: list[str], options: list[str]) -> None:
    done("train", "table.csv", *options, "--out", "run")
    assert known("table.csv") == 160  # a fifth of the rows was for testing; validation rows count
    said = "160 of 200 rows were trained or validated on"
    assert said in done("evaluate", "run", "table.csv")
    turned = [",".join(np.array(line.split(","))[[3, 1, 0, 2]]) for line in reversed(lines)]
    Path("turned.csv").write_text("\n".join(["price,colour,a,b", *turned, ""]))
    assert known("turned.csv") == 160
    Path("half.csv").write_text("\n".join(["a,colour,b,price", *lines[:100], ""]))
    Path("rest.csv").write_text("\n".join(["a,colour,b,price", *lines[100:], ""]))
    assert known("half.csv") + known("rest.csv") == 160
    new = [line.replace("red", "green").replace("blue", "red") for line in lines]
    Path("new.csv").write_text("\n".join(["a,colour,b,price", *new, ""]))
    assert known("new.csv") == 0
    assert "trained or validated" not in done("evaluate", "run", "new.csv")
    corrected = [line[:-1] + str((int(line[-1]) + 1) % 10) for line in lines]
    Path("corrected.csv").write_text("\n".join(["a,colour,b,price", *corrected, ""]))
    assert known("corrected.csv") == 0  # their targets are others


@pytest.mark.thorough
def test_rows_of_the_networks_of_a_preset(lines: list[str]) -> None:
    done("train", "table.csv", "--preset", "good", "--epochs", "1", "--out", "run")
    assert known("table.csv") == 160


def test_arrays_and_several_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.chdir(tmp_path)
    X = rng.normal(size=(90, 3))
    np.savez("labels.npz", X=X, y=(X > 0).astype(int))
    done("train", "labels.npz", *QUICK, "--test", "0.1", "--out", "run")
    assert known("labels.npz") == 81
    np.savez("codes.npz", X=X[:, :2], y=(X[:, 0] > 0).astype(int) + (X[:, 1] > 0))
    done("train", "codes.npz", *QUICK, "--test", "0", "--out", "codes")
    assert known("codes.npz", "codes") == 90


def test_where_a_run_keeps_none_nothing_is_said(lines: list[str]) -> None:
    done("train", "table.csv", *QUICK, "--out", "run")
    assert known("table.csv", "run/model.safetensors") == 160
    shutil.copy("run/model.safetensors", "model.safetensors")
    assert known("table.csv", "model.safetensors") is None
    done("train", "table.csv", *QUICK, "--seed", "1", "--out", "other")
    shutil.copy("other/model.safetensors", "run/model.safetensors")
    assert known("table.csv") is None  # they are another network's
    Path("other", training_rows.FILE).write_bytes(Path("other", training_rows.FILE).read_bytes()[:-8])
    result = invoke("evaluate", "other", "table.csv")
    assert result.exit_code == 2 and training_rows.FILE in result.stderr


def test_a_run_takes_the_place_of_another_with_its_rows(lines: list[str]) -> None:
    done("train", "table.csv", *QUICK, "--out", "run")
    Path("run/notes.txt").touch()
    done("train", "table.csv", *QUICK, "--test", "0.5", "--out", "run", "--overwrite")
    assert known("table.csv") == 100


def test_of_many_rows_some_are_kept_and_the_count_is_estimated(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_rows, "MOST", 80)
    done("train", "table.csv", *QUICK, "--out", "run")
    assert 130 <= (known("table.csv") or 0) <= 190
    assert "about " in done("evaluate", "run", "table.csv")
    Path("one.csv").write_text("a,colour,b,price\n5,red,3,2\n")
    assert known("one.csv") in (0, None)


def test_a_number_depends_on_values_alone(rng: np.random.Generator) -> None:
    X = rng.choice([0.0, -0.0, 1.0, 2.5, -1.0], (500, 6))
    y = rng.integers(0, 3, 500)
    numbers = training_rows.numbers_of(X, y, {})
    rows = SparseRows(sparse.csr_array(X))
    for same in (X.astype(np.float32), np.asfortranarray(X), rows, X + 0.0):
        np.testing.assert_array_equal(training_rows.numbers_of(same, y, {}), numbers)
    np.testing.assert_array_equal(training_rows.numbers_of(X, y[:, None].astype(float), {}), numbers)
    np.testing.assert_array_equal(training_rows.numbers_of(X[7:9], y[7:9], {}), numbers[7:9])
    different = len(np.unique(np.column_stack([X + 0.0, y]), axis=0))
    assert len(np.unique(numbers)) == different


def test_rows_of_zeros_and_ones_have_numbers_of_their_own() -> None:
    X = (np.arange(2**16)[:, None] >> np.arange(17) & 1).astype(np.float32)
    assert len(np.unique(training_rows.numbers_of(X, np.zeros(len(X)), {}))) == len(X)


def test_rows_that_are_read_in_blocks_are_not_kept(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    done("train", "table.csv", *QUICK, "--memory-limit", "4kB", "--out", "run")
    assert known("table.csv") is None and isinstance(gpubp.load("run").predict("table.csv"), np.ndarray)
