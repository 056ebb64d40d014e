"""``gpubp explain``, and ``gpubp inspect`` with data: what is seen of a trained network."""

from __future__ import annotations

import re
from math import exp
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpubp.cli.app import app
from gpubp.cli.explain import DEMO_BIASES, DEMO_SAMPLE, DEMO_WEIGHTS


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner(env={"COLUMNS": "100"}).invoke(app, ["explain", *arguments], prog_name="gpubp")
    return result.exit_code, result.stdout, result.stderr


def shown(text: str, name: str) -> list[float]:
    """The numbers beside a name, of the first line of its matrix."""
    line = next(line for line in text.splitlines() if line.strip().startswith(name))
    return [float(number) for number in re.findall(r"(?<=\s)-?\d+\.?\d*(?:e-?\d+)?", line[34:])]


def test_the_demonstration_is_what_paper_gives():
    code, text, _ = run("--demo")
    assert code == 0
    (x,), ((y,),) = DEMO_SAMPLE
    (W1, W2), (b1, (b2,)) = DEMO_WEIGHTS, DEMO_BIASES
    z1 = [x[0] * W1[0][k] + x[1] * W1[1][k] + b1[k] for k in (0, 1)]
    a1 = [1 / (1 + exp(-z)) for z in z1]
    a2 = 1 / (1 + exp(-(a1[0] * W2[0][0] + a1[1] * W2[1][0] + b2)))
    delta2 = (a2 - y) * a2 * (1 - a2)
    delta1 = [delta2 * W2[j][0] * a1[j] * (1 - a1[j]) for j in (0, 1)]
    for name, values in {
        "z¹ =": z1,
        "a¹ =": a1,
        "a² =": [a2],
        "C ": [0.5 * (a2 - y) ** 2],
        "BP1  δ²": [delta2],
        "BP2  δ¹": delta1,
        "BP3  ∂C/∂b¹": delta1,
        "BP4  ∂C/∂W¹": [x[0] * delta1[0], x[0] * delta1[1]],
        "BP4  ∂C/∂W²": [a1[0] * delta2],
    }.items():
        assert shown(text, name) == pytest.approx(values, rel=1e-5), name


def test_a_row_of_a_trained_network(tmp_path: Path):
    table = tmp_path / "points.csv"
    table.write_text("left,right,side\n" + "".join(f"{i % 7},{i % 5},{'ab'[i % 2]}\n" for i in range(40)))
    runner = CliRunner(env={"COLUMNS": "100"})
    trained = runner.invoke(
        app, ["train", str(table), "--hidden", "2", "--epochs", "2", "--out", str(tmp_path / "run"), "--quiet"]
    )
    assert trained.exit_code == 0, trained.output
    code, text, _ = run(str(tmp_path / "run"), str(table), "--row", "3")
    assert code == 0
    assert text.startswith("points.csv, line 4: left 2, right 2, side a")
    assert "BP2  δ¹" in text and "\nprediction " in text and "probability_b" in text
    code, _, error = run(str(tmp_path / "run"), str(table), "--row", "41")
    assert code == 2 and "--row 41: points.csv has 40 rows" in error
    inspected = runner.invoke(app, ["inspect", str(tmp_path / "run"), str(table)])
    assert inspected.exit_code == 0, inspected.output
    assert "saturated" in inspected.stdout and "norm of ∂C/∂W" in inspected.stdout
    bare = tmp_path / "bare.csv"
    bare.write_text("left,right\n1,2\n")
    code, _, error = run(str(tmp_path / "run"), str(bare))
    assert code == 2 and "has no target" in error
    inspected = runner.invoke(app, ["inspect", str(tmp_path / "run"), str(bare)])
    assert inspected.exit_code == 2 and "bare.csv: has no target" in inspected.stderr


@pytest.mark.parametrize("others", [["run"], ["run", "iris"], ["--row", "3"]], ids=" ".join)
def test_the_demonstration_takes_nothing_of_the_users(others: list[str]):
    code, text, error = run("--demo", *others)
    assert (code, text) == (2, "") and "--demo shows a network and a row of its own" in error


def test_what_is_missing_is_named():
    code, _, error = run()
    assert code == 2 and "give a MODEL_DIR and DATA" in error and "--demo" in error
