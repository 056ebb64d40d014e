"""What the user says about a table on the command line, and that predict, evaluate and search follow it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gpubp.cli.app import app
from gpubp.cli.parsing import parse_table_options
from gpubp.errors import UsageError

OPTIONS = {"ignore": None, "kind": None, "missing": None, "decimal": None, "delimiter": None, "encoding": None}


def run(*arguments: str | Path) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table without a header: a zip code, an age or -999, a name, a comma before decimals, and the target."""
    rows = [
        f"{9000 + i % 4};{-999 if i % 5 == 0 else 20 + i % 7};name {i};{i % 9},5;{i % 4 + i % 9}" for i in range(80)
    ]
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n", encoding="cp1252")
    return tmp_path / "table.csv"


SAID = ("--no-header", "--ignore", "3", "--kind", "1=category", "--missing", "-999", "--decimal", ",")


def test_train_predict_and_evaluate_read_a_table_as_the_user_said(table: Path, tmp_path: Path) -> None:
    fast = ("--epochs", "2", "--hidden", "4", "--device", "cpu-reference", "--loss", "half_squared_error")
    run("train", table, "--out", tmp_path / "run", *SAID, *fast)
    config = json.loads((tmp_path / "run" / "metrics.json").read_text())["config"]
    assert (config["ignore"], config["kind"], config["no_header"]) == ("3", "1=category", True)
    assert config["target"] == "5"
    run("predict", tmp_path / "run", table, "--out", tmp_path / "predictions.csv")
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 81
    assert "80 rows" in run("evaluate", tmp_path / "run", table)


@pytest.mark.parametrize(("trained", "given"), [(".", ","), (",", ".")])
def test_rows_to_predict_may_have_another_sign_before_decimals(tmp_path: Path, trained: str, given: str) -> None:
    """Thousands are separated by what does not stand before decimals."""
    rows = [(1000 + 40.25 * i, i % 7 + 0.125, 5000 + 321.5 * (i % 9)) for i in range(60)]

    def written(name: str, decimal: str) -> Path:
        swapped = str.maketrans(",.", ".," if decimal == "," else ",.")
        lines = [f"{a:,.2f};{b:.3f};{c:,.1f}".translate(swapped) for a, b, c in rows]
        (tmp_path / name).write_text("\n".join(["a;b;c", *lines, ""]))
        return tmp_path / name

    alike, other = written("alike.csv", trained), written("other.csv", given)
    model, decimal = tmp_path / "run", ("--decimal", given)
    run("train", alike, "--out", model, "--epochs", "3", "--hidden", "4", "--device", "cpu-reference")
    run("predict", model, alike, "--out", tmp_path / "alike.out.csv")
    run("predict", model, other, *decimal, "--out", tmp_path / "other.out.csv")
    assert (tmp_path / "alike.out.csv").read_bytes() == (tmp_path / "other.out.csv").read_bytes()
    scores = json.loads(run("evaluate", model, alike, "--json"))
    assert json.loads(run("evaluate", model, other, *decimal, "--json")) == scores
    failed = CliRunner().invoke(app, ["predict", str(model), str(other), "--out", str(tmp_path / "p.csv")])
    assert failed.exit_code == 2 and f'if "{given}" stands before decimals, --decimal {given}' in failed.stderr


def test_a_sign_before_decimals_that_does_not_suit_is_refused(table: Path, tmp_path: Path) -> None:
    quick = ("--epochs", "1", "--hidden", "2", "--device", "cpu-reference")
    run("train", "digits", "--out", tmp_path / "digits", *quick)
    run("train", table, "--out", tmp_path / "run", *SAID, *quick)
    for model, data, decimal, message in (
        ("digits", "digits", ",", "--decimal ,: the network was not trained on a table; leave it out"),
        ("run", table, "x", '--decimal "x": decimals stand behind "." or ","'),
    ):
        result = CliRunner().invoke(app, ["evaluate", str(tmp_path / model), str(data), "--decimal", decimal])
        assert result.exit_code == 2 and message in result.stderr, result.stderr


def test_search_takes_the_same_options(table: Path, tmp_path: Path) -> None:
    grid = ("--grid", "hidden=2,4", "--seeds", "1", "--epochs", "2", "--device", "cpu-reference")
    output = run("search", table, "--out", tmp_path / "run", *SAID, *grid, "--loss", "half_squared_error")
    assert "regression of 1 value from 7 inputs" in output  # age, its indicator, a number, four codes


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ({"ignore": "a, b"}, {"ignore": ["a", "b"]}),
        ({"ignore": '"a, b",c'}, {"ignore": ["a, b", "c"]}),
        ({"kind": "zip=category,x=y=number"}, {"kinds": {"zip": "category", "x=y": "number"}}),
        ({"missing": "-999,unknown"}, {"missing": ["-999", "unknown"]}),
        ({"delimiter": "tab"}, {"delimiter": "\t"}),
        ({"no_header": True}, {"header": False}),
    ],
)
def test_lists_with_commas(typed: dict[str, Any], expected: dict[str, Any]) -> None:
    parsed = parse_table_options({**OPTIONS, "no_header": False, **typed})
    assert {name: parsed[name] for name in expected} == expected


def test_a_kind_without_a_column_is_refused() -> None:
    with pytest.raises(UsageError, match='--kind "number": not COLUMN=KIND'):
        parse_table_options({**OPTIONS, "no_header": False, "kind": "number"})
