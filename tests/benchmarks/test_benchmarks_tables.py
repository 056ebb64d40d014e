"""``python -m benchmarks.tables``: what it computes, and a run on a small table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.table_contenders import CONTENDERS
from benchmarks.tables import bars, compare, geometric_mean, main, measure, summary

pytest.importorskip("pandas")


@pytest.fixture
def table(tmp_path: Path, rng: np.random.Generator) -> Path:
    x, kind = rng.normal(size=80), rng.choice(["a", "b"], 80)
    lines = [f"{value:.3f},{letter},{value + (letter == 'a'):.3f}" for value, letter in zip(x, kind, strict=True)]
    path = tmp_path / "small.csv"
    path.write_text("\n".join(["x,kind,y", *lines, ""]))
    return path


def figures() -> list[dict[str, object]]:
    errors = {"gpubp fast": (1.0, 2.0), "HGB": (2.0, 1.0), "gpubp best": (1.0, 0.5)}
    return [
        {"table": "t", "split": split, "contender": who, "error": error, "seconds": 1.0}
        for who, of_splits in errors.items()
        for split, error in enumerate(of_splits)
    ]


def test_errors_are_compared_case_by_case() -> None:
    assert compare(figures(), "gpubp fast", "HGB") == [0.5, 2.0]
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1)
    text = "\n".join(summary(figures()))
    assert "| HGB | 1.000, 1 of 2 | 0.500, 2 of 2 |" in text and "| t | 1.5000 | **0.7500** | 1.5000 |" in text
    rows = bars(figures())
    assert "| gpubp best: lower error than HGB, part | >= 0.8 | 1.000 | 2 | yes |" in rows
    assert any("RealMLP-TD" in row and row.endswith("not measured |") for row in rows)


@pytest.mark.thorough
@pytest.mark.parametrize("contender", ["gpubp none", "gpubp fast", "HGB", "scikit-learn MLP"])
@pytest.mark.parametrize("target", ["y", "kind"])
def test_a_contender_predicts_values_and_classes(table: Path, contender: str, target: str) -> None:
    figure = measure(table, contender, 0, False, target)
    assert 0 < figure["error"] < 3 and ("accuracy" in figure) == (target == "kind")


@pytest.mark.thorough
def test_a_run_measures_what_is_not_there_yet(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tables", str(table.parent), "--out", str(table.parent), "--contenders", "HGB", "--splits", "0"]
    assert main(arguments) == 0
    (figure,) = json.loads((table.parent / "tables.json").read_text())["figures"]
    assert figure["contender"] == "HGB" and "small 0 HGB" in capsys.readouterr().out
    assert (table.parent / "tables.png").is_file()
    assert main(arguments) == 0
    assert "small 0 HGB" not in capsys.readouterr().out
    assert set(CONTENDERS) > {"HGB"}
