"""What says how good the tests are counts right: coverage of branches, and mutants."""

from __future__ import annotations

import json
import sqlite3

import pytest

from benchmarks import coverage, mutants, promises


def module(lines: int, covered: int, branches: int, branches_covered: int) -> dict:
    summary = {"num_statements": lines, "covered_lines": covered}
    summary |= {"num_branches": branches, "covered_branches": branches_covered}
    return {"summary": summary, "missing_lines": [7] * (lines - covered), "missing_branches": [[3, 7], [5, -1]]}


REPORT = {
    "files": {
        "gpubp/backprop.py": module(10, 10, 4, 4),
        "gpubp/losses.py": module(1000, 1000, 1000, 999),
        "gpubp/network.py": module(10, 9, 0, 0),
        "gpubp/backends/compiled/loops/order.py": module(50, 1, 0, 0),
    }
}


def test_coverage_counts_lines_and_branches_and_says_what_it_cannot_see():
    said = coverage.counts(REPORT, ["pytest tests"])
    assert said["tests"] == ["pytest tests"]
    assert {name: one["percent"] for name, one in said["modules"].items()} == {
        "gpubp/backprop.py": 100.0,
        "gpubp/losses.py": 99.9,
        "gpubp/network.py": 90.0,
    }
    assert said["percent"] == 99.9 and said["percent_of_branches"] == 99.9
    assert (said["every_branch_asked_for"], said["every_branch_covered"]) == (2, 1)
    assert list(said["unseen"]) == ["gpubp/backends/compiled/loops/order.py"]
    assert "Numba" in said["unseen"]["gpubp/backends/compiled/loops/order.py"]["reason"]


def test_what_no_test_runs_is_listed():
    listed = list(coverage.missing(REPORT, ["gpubp/network.py", "gpubp/cli/app.py"]))
    assert listed == ["gpubp/network.py: 7, 3->7, 5->exit", "gpubp/cli/app.py: everything is covered"]


def test_files_of_tests_are_dealt_to_processes_and_a_single_one_takes_what_its_arguments_say():
    assert coverage.dealt(1) == [[]]
    first, second = coverage.dealt(2)
    assert not set(first) & set(second) and abs(len(first) - len(second)) <= 1
    every = {str(path.relative_to(coverage.ROOT)) for path in coverage.ROOT.glob("tests/**/test_*.py")}
    assert {*first, *second} == every


@pytest.mark.parametrize("patterns, what", [(coverage.UNSEEN, "unseen"), (mutants.TESTS, "tested")])
def test_modules_that_are_named_are_there(patterns, what):
    for pattern in patterns:
        assert list(mutants.ROOT.glob(pattern)), f"{pattern} is {what}, and no module"


def test_mutants_are_counted_and_survivors_keep_their_reasons(tmp_path):
    with sqlite3.connect(tmp_path / "session.sqlite") as database:
        database.execute("CREATE TABLE mutation_specs (job_id, operator_name, start_pos_row, start_pos_col)")
        database.execute("CREATE TABLE work_results (job_id, test_outcome, diff)")
        rows = [("a", "core/NumberReplacer"), ("b", "core/NumberReplacer"), ("c", "core/Not"), ("d", "core/Not")]
        rows.append(("e", "core/ReplaceBinaryOperator_BitOr_Add"))
        database.executemany("INSERT INTO mutation_specs VALUES (?, ?, 1, 1)", rows)
        results = [("a", "KILLED", "x -> y"), ("b", "SURVIVED", "1 -> 2"), ("c", "SURVIVED", "a -> not a")]
        database.executemany("INSERT INTO work_results VALUES (?, ?, ?)", results)
    counts = mutants.summary(tmp_path / "session.sqlite")
    assert counts == {"mutants": 4, "tested": 3, "killed": 1, "survivors": {"1 -> 2": "", "a -> not a": ""}}
    explained = mutants.with_reasons(counts, {"1 -> 2": "any number does", "gone -> killed": "…"})
    assert explained["survivors"] == {"1 -> 2": "any number does", "a -> not a": ""}


def test_promises_say_what_was_measured_and_which_modules_are_below_the_bar(tmp_path, monkeypatch):
    monkeypatch.setattr(promises, "RESULTS", tmp_path)
    survivors = {"mutants": 50, "tested": 10, "killed": 8, "survivors": {}}
    of_all_that_can_be = {**survivors, "survivors": {"x -> y": "equivalent: any order will do", "a -> b": "equivalent"}}
    modules = {"gpubp/a.py": survivors, "gpubp/b.py": {**survivors, "killed": 9}, "gpubp/c.py": of_all_that_can_be}
    (tmp_path / "mutants.json").write_text(json.dumps(modules), encoding="utf-8")
    said = promises._mutants(1.0)
    assert said.startswith(
        "25 of 30 are noticed, a sample of those of 3 modules; 2 cannot be, since they compute what the module does; "
        "below 90 % of those that can be are gpubp/a.py 8 of 10; those that survived are listed"
    )
    (tmp_path / "coverage.json").write_text(json.dumps(coverage.counts(REPORT, ["pytest "])), encoding="utf-8")
    said = promises._coverage(1.0)
    assert said.startswith("1 of the 2 modules where every one was asked for, not gpubp/losses.py; of gpubp 99.9 % of")
    assert "% of branches, by `pytest`; " in said and "the whole suite" not in said
    of_modules = coverage.counts(REPORT, ["pytest tests/test_losses.py"])
    (tmp_path / "coverage.json").write_text(json.dumps(of_modules), encoding="utf-8")
    assert "by the tests of these modules alone: the whole suite" in promises._coverage(1.0)


def test_fuzzing_is_said_to_be_short_of_what_was_asked_for_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(promises, "RESULTS", tmp_path)
    counts = {name: {"executions": 200_000, "failures": 0} for name in ("table.csv", "table.xlsx")}
    (tmp_path / "fuzzing.json").write_text(json.dumps(counts), encoding="utf-8")
    whole = "0 failures in 400,000 executions of 2 formats, by atheris; the fewest 200,000 (table.csv)"
    assert promises._fuzzing(1.0) == whole
    counts["table.xlsx"] = {"executions": 10, "failures": 0, "mended": 3}
    (tmp_path / "fuzzing.json").write_text(json.dumps(counts), encoding="utf-8")
    said = promises._fuzzing(1.0)
    assert said.startswith("0 failures, after 3 mended, in 200,010 executions of 2 formats")
    assert said.endswith("the fewest 10 (table.xlsx); 200,000 each were asked for, and time was short for 1 of them")
