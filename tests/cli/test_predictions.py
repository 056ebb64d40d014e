"""Where predictions go: what is there is neither lost nor changed in kind, and nothing is guessed."""

from __future__ import annotations

import csv
import gzip
import io
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from typer.testing import CliRunner

import gpubp
from gpubp.cli import predictions
from gpubp.cli.app import app
from gpubp.errors import UsageError

TABLE = "a,b,kind\n" + "".join(f"{i % 5},{i % 3},{'xy'[i % 2]}\n" for i in range(40))
RUN = [sys.executable, "-m", "gpubp"]
PROCESS: dict[str, Any] = {
    "env": {**os.environ, "PYTHONPATH": str(Path(gpubp.__file__).resolve().parents[1])},
    "timeout": 60,
}


def invoke(*arguments: Any, stdin: str | None = None) -> Any:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, prog_name="gpubp")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a network trained on TABLE."""
    place = tmp_path_factory.mktemp("trained")
    (place / "table.csv").write_text(TABLE)
    result = invoke("train", place / "table.csv", "--epochs", "2", "--hidden", "4", "--out", place / "run", "--quiet")
    assert result.exit_code == 0, result.output
    return place / "run"


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with rows to predict in rows.csv."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text(TABLE)
    return tmp_path


@pytest.fixture
def expected(trained: Path, rows: Path) -> str:
    """What is predicted of the rows, as CSV."""
    assert invoke("predict", trained, "rows.csv", "--out", "expected.csv").exit_code == 0
    return (rows / "expected.csv").read_text()


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_the_data_are_never_overwritten(trained: Path, rows: Path, link: Any) -> None:
    link("rows.csv", "link.csv")
    for out in ("rows.csv", "./rows.csv", "link.csv"):
        result = invoke("predict", trained, "rows.csv", "--out", out)
        assert result.exit_code == 2 and "choose another --out" in result.stderr
    assert Path("rows.csv").read_text() == TABLE


@pytest.mark.parametrize("out", ["p", "p.txt", "p.xlsx", "p.parquet.gz", "new/p.json"])
def test_unknown_endings_are_refused_before_anything_is_computed(rows: Path, out: str) -> None:
    result = invoke("predict", "no-model", "rows.csv", "--out", out)
    assert result.exit_code == 2
    assert ".csv, .csv.gz, .parquet" in result.stderr
    assert not Path(out).parent.joinpath("p").exists() and not Path("new").exists()


def test_links_are_written_through(trained: Path, rows: Path, expected: str) -> None:
    Path("real").mkdir()
    Path("link.csv").symlink_to("real/found.csv")
    for _ in range(2):  # at first it leads nowhere
        assert invoke("predict", trained, "rows.csv", "--out", "link.csv").exit_code == 0
        assert Path("link.csv").is_symlink()
        assert Path("real/found.csv").read_text() == expected


def test_a_file_keeps_its_permissions(trained: Path, rows: Path, expected: str) -> None:
    Path("shared.csv").write_text("old")
    Path("shared.csv").chmod(0o640)
    assert invoke("predict", trained, "rows.csv", "--out", "shared.csv").exit_code == 0
    assert stat.S_IMODE(Path("shared.csv").stat().st_mode) == 0o640
    assert Path("shared.csv").read_text() == expected
    assert [p.name for p in rows.iterdir() if p.name.startswith(".")] == []


def test_pipes_and_devices_are_written_to(trained: Path, rows: Path, expected: str) -> None:
    os.mkfifo("pipe")
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(Path("pipe").read_text()))
    reader.start()
    assert invoke("predict", trained, "rows.csv", "--out", "pipe").exit_code == 0
    reader.join(timeout=20)
    assert received == [expected]
    assert stat.S_ISFIFO(Path("pipe").stat().st_mode)
    assert invoke("predict", trained, "rows.csv", "--out", "/dev/null").exit_code == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_dash_is_standard_output_and_standard_input(trained: Path, rows: Path, expected: str) -> None:
    result = invoke("predict", trained, "-", "--out", "-", stdin=TABLE)
    assert result.exit_code == 0
    assert result.stdout == expected
    assert "wrote 40 predictions to -" in result.stderr
    assert sorted(p.name for p in rows.iterdir()) == ["expected.csv", "rows.csv"]


def test_standard_input_is_named_with_its_lines(trained: Path, rows: Path) -> None:
    bad = TABLE.replace("\n3,", "\nthree,", 1)
    result = invoke("evaluate", trained, "-", stdin=bad)
    assert result.exit_code == 2
    assert "standard input, line 5" in result.stderr and '"three"' in result.stderr
    result = invoke("train", "-", "--epochs", "2", "--out", "run", stdin=TABLE)
    assert result.exit_code == 0
    assert "standard input: classification into 2 classes" in result.stdout


@pytest.mark.parametrize("out", ["-", "/dev/stdout", "/dev/fd/1"])
def test_a_process_prints_predictions_alone(trained: Path, rows: Path, expected: str, out: str) -> None:
    command = [*RUN, "predict", str(trained), "rows.csv", "--out", out]
    piped = subprocess.run(command, capture_output=True, text=True, check=True, **PROCESS)
    assert piped.stdout == expected
    with open("redirected.csv", "w") as file:
        subprocess.run(command, stdout=file, stderr=subprocess.DEVNULL, check=True, **PROCESS)
    assert Path("redirected.csv").read_text() == expected


def test_a_reader_that_has_read_enough_is_no_error(trained: Path, rows: Path) -> None:
    Path("many.csv").write_text(TABLE + TABLE.partition("\n")[2] * 200)
    command = [*RUN, "predict", str(trained), "many.csv", "--out", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=PROCESS["env"]) as p:
        assert p.stdout is not None and p.stderr is not None
        assert p.stdout.readline().startswith("prediction,")
        p.stdout.close()
        assert "Traceback" not in p.stderr.read()
        assert p.wait(timeout=60) == 0


def test_formats_hold_the_same_columns(trained: Path, rows: Path, expected: str) -> None:
    for out in ("p.csv.gz", "P.PARQUET"):
        assert invoke("predict", trained, "rows.csv", "--out", out).exit_code == 0
    assert gzip.decompress(Path("p.csv.gz").read_bytes()).decode() == expected
    relation = duckdb.sql("SELECT * FROM 'P.PARQUET'")
    assert relation.columns == ["prediction", "probability_x", "probability_y"]
    assert [str(t) for t in relation.types] == ["VARCHAR", "FLOAT", "FLOAT"]
    in_csv = list(csv.DictReader(io.StringIO(expected)))
    for row, line in zip(relation.fetchall(), in_csv, strict=True):
        assert row[0] == line["prediction"]
        assert [np.float32(line[name]) for name in relation.columns[1:]] == list(row[1:])


def test_names_that_parquet_would_change_are_refused(tmp_path: Path) -> None:
    columns = {"probability_a": np.ones(2), "probability_A": np.ones(2)}
    with pytest.raises(UsageError, match='"probability_a", "probability_A" differ in case alone.*write .csv'):
        predictions.write(tmp_path / "p.parquet", columns)
    assert list(tmp_path.iterdir()) == []
