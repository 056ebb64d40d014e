"""``python -m benchmarks.cpu`` and ``python -m benchmarks report``: a dry run, the peers' steps, saved figures read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cpu, report
from benchmarks.__main__ import main
from benchmarks.cases import Task
from benchmarks.peers import ON_A_CPU, Contender, UnavailableError
from gpubp.bench.steps import TOLERANCE, Workload, displacements, error
from support.machines import by_tier

WORKLOAD = Workload((6, 8, 3), 5, 3)


@pytest.mark.parametrize("activation", by_tier(["relu", "gelu"], "relu".__eq__))
@pytest.mark.parametrize("name", [name for name in ON_A_CPU if not name.startswith(("torch", "jax"))])
@pytest.mark.filterwarnings("default")  # of other libraries
def test_contenders_take_the_same_steps(name: str, activation: str) -> None:
    """But for those whose libraries take long to import: a dry run of the benchmarks runs them."""
    workload = Workload((6, 8, 3), 5, 3, activation)
    contender = Contender(name)
    try:
        contender.prepare(Task(workload, "float32", "cpu", dry_run=True))
    except UnavailableError as reason:
        pytest.skip(f"{name}: {reason}")
    weights = contender.weights_after(2)
    assert not weights if "GEMMs" in name else error(workload, weights, displacements(workload)) <= TOLERANCE["float32"]
    assert contender.seconds(4) > 0  # over the end of the data


@pytest.mark.thorough
def test_a_dry_run_measures_everything_and_judges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "ON_A_CPU", ("gpubp cpu", "gpubp cpu-reference", "scikit-learn", "bare GEMMs cpu"))
    assert cpu.main(["--dry-run", "--part", "steps", "training", "products", "--out", str(tmp_path)]) == 0
    parts = json.loads((tmp_path / cpu.FILE).read_text(encoding="utf-8"))["parts"]
    assert set(parts) == {"steps", "training", "products"}
    for part in parts.values():
        assert part["kind"] == "dry run"
        assert {"processor", "BLAS", "numpy"} <= part["machine"].keys()
        assert all(row["met"] is None for row in part["rows"])
    asked = [row["asked"] for part in parts.values() for row in part["rows"]]
    assert asked == [">= 1.0", "", ">= 1.0", ">= 1.45", ">= 2.5", ">= 1.5", "<= 1.03", "<= 1.15", "<= 1.25", "", ""]
    assert main(["report", str(tmp_path / cpu.FILE)]) == 2


def test_ctrl_c_keeps_the_rows_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(part: Any) -> None:
        part.timed("a step", "<= 1.0", "0.9", True)
        raise KeyboardInterrupt

    monkeypatch.setattr(cpu, "steps", interrupted)
    assert cpu.main(["--dry-run", "--out", str(tmp_path)]) == 130
    assert "interrupted: the rows until then are saved" in capsys.readouterr().out
    parts = json.loads((tmp_path / cpu.FILE).read_text(encoding="utf-8"))["parts"]
    assert list(parts) == ["steps"]
    assert parts["steps"]["broken off"].startswith("KeyboardInterrupt")
    assert [row["what"] for row in parts["steps"]["rows"]] == ["a step"]


# -- the report ---------------------------------------------------------------------------------------------

PARTS = {
    "parts": {
        "steps": {
            "kind": "measured",
            "figures": [
                {"network": "8-4 b2", "precision": "float32", "contender": "gpubp cpu", "microseconds": 40.0},
                {"network": "8-4 b2", "precision": "float32", "contender": "bare GEMMs cpu", "microseconds": 30.0},
                {"network": "8-4 b2", "precision": "float32", "contender": "thinc", "skipped": "not installed"},
            ],
        }
    }
}
SUITES = {
    "benchmarks": [
        {"group": "gather", "params": {"backend": "compiled"}, "extra_info": {}, "stats": {"median": 2e-6}},
        *(
            {
                "group": "step by width",
                "params": None,
                "extra_info": {"contender": "cuda", "value": width},
                "stats": {"median": width * 1e-3},
            }
            for width in (64, 16)
        ),
        {
            "group": "memory",
            "params": None,
            "extra_info": {"contender": "compiled", "MB": 12.5},
            "stats": {"median": 1.0},
        },
    ]
}
BENCH = {
    "network": "8-4 b2",
    "rows": [
        {"backend": "cuda", "precision": "tf32", "skipped": "no GPU"},
        {"backend": "compiled", "precision": "float32", "ms per step": [2, 1, 3], "of the bare GEMMs": [0.5, 0.4, 0.6]},
    ],
}


def written(folder: Path, content: Any) -> Path:
    path = folder / "figures.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_tables_of_every_kind_of_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for content in (PARTS, SUITES, BENCH):
        assert main(["report", str(written(tmp_path, content))]) == 0
        said.append(capsys.readouterr().out)
    assert "| us | gpubp cpu | bare GEMMs cpu |\n|---|---:|---:|\n| 8-4 b2, float32 | 40 | 30 |" in said[0]
    assert "| us | compiled |\n|---|---:|\n| gather | 2 |" in said[1]
    assert "| MB | compiled |\n|---|---:|\n| memory | 12.5 |" in said[1]
    assert "| step by width, us | cuda |\n|---|---:|\n| 16 | 16,000 |\n| 64 | 64,000 |" in said[1]
    assert "| 8-4 b2, float32 | 2,000 | 1,000 |" in said[2]


@pytest.mark.filterwarnings("default")  # of matplotlib, when it is imported
def test_plots_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = [path.name for path in report.plots(tmp_path / "a", "x", report.read(written(tmp_path, PARTS)))]
    found += [path.name for path in report.plots(tmp_path / "a", "y", report.read(written(tmp_path, SUITES)))]
    assert found == ["x-steps.png", "x-floor.png", "y-steps.png", "y-step-by-width.png"]
    assert {path.name for path in (tmp_path / "a").iterdir()} == set(found)


def test_the_floors_part_is_of_the_fastest_floor() -> None:
    times = {("a", "gpubp cpu"): 4.0, ("a", "thinc"): 9.0, ("a", "bare GEMMs x"): 3.0, ("a", "bare GEMMs y"): 2.0}
    assert dict(report._of_floor(times)) == {("a", "gpubp cpu"): 0.5}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"parts": {"a": {}}}', '{"benchmarks": [3]}'])
def test_a_file_without_figures_is_named(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(written(tmp_path, content))]) == 2
    assert "figures.json is no file of figures" in capsys.readouterr().err


def test_a_missing_file_and_a_missing_library_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path / "none.json")]) == 2
    assert "none.json cannot be read: No such file" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", str(written(tmp_path, PARTS)), "--plots", str(tmp_path)]) == 2
    assert "matplotlib is not installed; pip install 'gpubp[plot]'" in capsys.readouterr().err
