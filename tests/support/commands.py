"""Commands as tests run them, the tables that they are given, and what they leave."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

import gpubp
from gpubp.cli.app import app

PACKAGE = Path(gpubp.__file__).resolve().parent
RUN = [sys.executable, "-m", "gpubp"]
RUN_FILES = {"model.safetensors", "metrics.json", "history.csv", "training_rows.safetensors"}
QUICK = ["--epochs", "3", "--hidden", "4"]


def invoke(*arguments: str) -> Any:
    """Run a command in this process, on a terminal 100 columns wide."""
    return CliRunner(env={"COLUMNS": "100"}).invoke(app, [str(a) for a in arguments], prog_name="gpubp")


def done(*arguments: str) -> str:
    """What a command that must succeed prints."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return str(result.stdout)


def flowers(rows: int = 60, kinds: tuple[str, ...] = ("rose", "tulip")) -> str:
    """A table of two numbers, one of them sometimes missing, a category and a class that follows from them."""
    rng = np.random.default_rng(0)
    lines = ["height,width,colour,kind"]
    for i in range(rows):
        kind = kinds[i % len(kinds)]
        height, width = rng.normal(2 * (i % len(kinds)), 0.3), rng.normal()
        lines.append(f"{height:.3f},{'' if i % 20 == 7 else f'{width:.3f}'},{rng.choice(['red', 'white'])},{kind}")
    return "\n".join(lines) + "\n"


def prices() -> str:
    """A table to be regressed: price = 1000 + 300 a − 200 b."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 80))
    lines = [f"{x:.4f},{y:.4f},{1000 + 300 * x - 200 * y:.2f}" for x, y in zip(a, b, strict=True)]
    return "\n".join(["a,b,price", *lines]) + "\n"


def read_csv(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def tree(place: Path) -> dict[str, bytes]:
    """Every file under a folder with its contents, hidden ones too, and every folder."""
    return {str(p.relative_to(place)): p.read_bytes() if p.is_file() else b"" for p in place.rglob("*")}


def check_failure(folder: Path, command: list[str], code: int, words: list[str]) -> None:
    """One clear message, the right exit code, no traceback, nothing written."""
    before = tree(folder)
    result = invoke(*command)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    *usage, message = result.stderr.splitlines()
    assert message.startswith("Error: ")
    assert all(line.startswith(("Usage: ", "Try ")) or not line for line in usage)
    assert "Traceback" not in result.output
    for word in words:
        assert word in message
    assert tree(folder) == before


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
