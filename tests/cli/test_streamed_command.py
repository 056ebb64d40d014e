"""``gpubp train`` on a file that is larger than the memory to use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.cli.parsing import parse_size
from gpubp.errors import UsageError
from support.commands import invoke

LIMIT = ["--memory-limit", "100kB"]
QUICK = ["--hidden", "8", "--epochs", "4", "--learning-rate", "0.01"]


def done(*arguments: Any) -> str:
    """What a command that must succeed prints, on one line."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a table of 3,000 rows, in CSV and Parquet."""
    import duckdb

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3000))
    lines = [f"{x:.4f},{y:.4f},{3 * x - 2 * y:.4f},{'up' if x > y else 'down'}" for x, y in zip(a, b, strict=True)]
    (tmp_path / "large.csv").write_text("\n".join(["a,b,value,way", *lines, ""]))
    with duckdb.connect() as connection:
        connection.execute("COPY (SELECT * FROM read_csv('large.csv')) TO 'large.parquet' (FORMAT parquet)")
    return tmp_path


@pytest.mark.parametrize(
    "source, target, score",
    [
        ("large.csv", "way", "accuracy"),
        pytest.param("large.parquet", "value", "r2", marks=pytest.mark.thorough),
        pytest.param("large.parquet", "way", "accuracy", marks=pytest.mark.thorough),
    ],
)
def test_a_large_file_is_read_in_blocks_and_that_is_said(folder, source, target, score):
    other = "value" if target == "way" else "way"
    command = ["train", source, "--target", target, "--ignore", other, *QUICK, "--validation", "0.1", "--out", "run"]
    printed = done(*command, *LIMIT)
    assert "rows: 2,806 training, 97 validation, 97 test" in printed
    assert "read in blocks, since as a whole it would take more memory than 0.1 MB: 3,000 rows, encoded" in printed
    assert "figures of training: of 97 training rows, drawn with seed 0" in printed
    assert "test: 97 rows, drawn with seed 0" in printed
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert metrics["test"][score] > 0.8
    assert metrics["config"]["memory_limit"] == "100kB"
    assert json.loads(done("evaluate", "run", source, "--json"))[score] > 0.8
    done("predict", "run", source, "--out", "predictions.csv")
    assert len((folder / "predictions.csv").read_text().splitlines()) == 3001
    done(*command[:-1], "in_memory")
    assert "memory_limit" not in json.loads((folder / "in_memory" / "metrics.json").read_text())["config"]


@pytest.mark.thorough
def test_a_preset_keeps_its_best_epoch_and_a_test_file_is_read_as_a_whole(folder):
    (folder / "other.csv").write_text("".join((folder / "large.csv").read_text().splitlines(keepends=True)[:101]))
    printed = done(
        "train", "large.csv", "--ignore", "value", *LIMIT, "--test", "other.csv", "--epochs", "3", "--out", "r"
    )
    assert "preset: fast" in printed
    assert "test: the 100 rows of other.csv" in printed
    assert "100 test" in printed


@pytest.mark.thorough
def test_it_is_resumed_with_the_same_bits_and_under_another_limit_refused(folder):
    options = ["train", "large.parquet", "--ignore", "value", *QUICK, "--checkpoint-every", "1epochs"]
    done(*options, *LIMIT, "--out", "whole")
    early = sorted((folder / "whole" / "checkpoints").iterdir())[0]
    (folder / "part" / "checkpoints").mkdir(parents=True)
    shutil.copy(early, folder / "part" / "checkpoints")
    result = invoke(*options, "--memory-limit", "90kB", "--resume", "part")
    assert result.exit_code == 2
    assert "belongs to another training: data.training.X" in " ".join(result.stderr.split())
    assert f"going on from part/checkpoints/{early.name}" in done(*options, *LIMIT, "--resume", "part")
    whole, resumed = (gpubp.MLP.load(f"{run}/model.safetensors", device="cpu") for run in ("whole", "part"))
    np.testing.assert_array_equal(resumed.theta, whole.theta)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--preset", "good"], "--preset good needs all rows of large.csv in memory"),
        (["--class-weight", "balanced"], "--class-weight needs all rows of large.csv in memory"),
        (["--memory-limit", "much"], '--memory-limit "much": no size; write it with its unit, as 4GB or 500MB'),
        (["--test", "1.5"], "test=1.5 is no fraction"),
    ],
)
def test_what_does_not_go_with_it_is_refused_and_nothing_is_written(folder, options, message):
    result = invoke("train", "large.csv", *LIMIT, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (folder / "runs").exists()


@pytest.mark.thorough
def test_a_run_that_is_there_stays_where_a_row_is_wrong(folder):
    done("train", "large.csv", "--ignore", "value", *QUICK, "--out", "run")
    before = {path.name: path.read_bytes() for path in (folder / "run").iterdir() if path.is_file()}
    text = (folder / "large.csv").read_text().split("\n")
    text[2500] = "oops,1,2,up"
    (folder / "large.csv").write_text("\n".join(text))
    result = invoke("train", "large.csv", "--ignore", "value", *QUICK, *LIMIT, "--out", "run", "--overwrite")
    assert result.exit_code == 2
    assert 'large.csv, line 2501, column "a": "oops" is not a number' in " ".join(result.stderr.split())
    assert {path.name: path.read_bytes() for path in (folder / "run").iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    "text, size",
    [("4GB", 4 * 10**9), ("500 mb", 5 * 10**8), ("1.5GiB", 3 * 2**29), ("2000b", 2000), ("64K", 64000), (None, None)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "4", "GB", "-1GB", "4 apples", "1e9", "4GBB"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="no size"):
        parse_size(text)


def test_a_report_knows_no_test_rows_of_a_training_in_blocks(folder: Path):
    """It would draw others from the whole file, among them rows that were trained on."""
    done("train", "large.csv", "--target", "value", *LIMIT, *QUICK, "--ignore", "way", "--out", "run")
    assert json.loads((folder / "run" / "metrics.json").read_text())["streamed"] is True
    from gpubp.cli.report.collect import collect

    assert any("read its file in blocks" in text for text in collect(folder / "run", None).missing)
