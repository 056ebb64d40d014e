"""The measurements behind docs/promises.md find what they look for, and the page has every promise."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gpubp
from benchmarks import promises
from gpubp.training import loop


def test_the_page_has_a_line_and_a_figure_for_every_promise():
    lines = promises.PAGE.read_text(encoding="utf-8").splitlines()
    for promise in promises.PROMISES:
        (line,) = (line for line in lines if line.startswith(f"| {promise.text} | "))
        figure = line.split(" | ")[1]
        assert figure.startswith(promises.NOT_MEASURED) == (promise.measure is None)
        for name in promise.tests.split(", "):
            assert name in ("none", "this command") or (promises.ROOT / name).is_file()


def test_lines_that_are_not_asked_for_are_kept():
    earlier = promises.PAGE.read_text(encoding="utf-8")
    lines = promises.measured(1.0, ["Losses are right"])
    assert len(lines) == 1
    assert promises.page(lines, earlier.replace(" ulp at most", " ulp, once")) == earlier


def test_bit_flips_are_noticed_and_would_be_counted(monkeypatch):
    assert promises.silent_bit_flips(40) == 0
    monkeypatch.setattr("gpubp.serialization._check_digest", lambda *_: None)
    assert promises.silent_bit_flips(40) > 10


def test_trainings_are_not_silent_and_would_be_counted(monkeypatch):
    assert promises.silent_trainings(30) == 0
    monkeypatch.setattr(loop, "with_finite_outputs", lambda history, *_: history)
    assert promises.silent_trainings(60) > 0


@pytest.mark.thorough
def test_trainings_on_extreme_inputs_are_not_silent():
    silent, count = promises.silent_extremes(0.02)
    assert silent == 0 and count > 20


def test_errors_of_losses_are_of_a_few_ulp_and_would_be_seen(monkeypatch):
    assert promises.largest_error_of_losses()[0] <= 4
    monkeypatch.setattr(np, "log1p", lambda x: np.log(1 + x))
    monkeypatch.setattr(promises, "XP", promises.NumpyNamespace())
    assert promises.largest_error_of_losses()[0] > 1e6


def test_mutants_that_no_test_could_notice_are_counted_apart(tmp_path, monkeypatch):
    survivors = {"a -> b": "equivalent: it is one row", "c -> d": "", "e -> f": "nothing is computed by it"}
    modules = {
        "gpubp/losses.py": {"tested": 12, "killed": 9, "survivors": survivors},
        "gpubp/registry.py": {"tested": 10, "killed": 9, "survivors": {"a -> b": "equivalent"}},
    }
    (tmp_path / "mutants.json").write_text(json.dumps(modules), encoding="utf-8")
    monkeypatch.setattr(promises, "RESULTS", tmp_path)
    figure = promises._mutants(1.0)
    assert figure.startswith("18 of 22 are noticed, a sample of those of 2 modules; 2 cannot be, since ")
    assert "below 90 % of those that can be are gpubp/losses.py 9 of 11; those" in figure
    assert figure.endswith(f"the other {len(promises.TESTS) - 2} modules are not measured")


@pytest.mark.thorough
def test_loading_damaged_files_is_watched():
    assert promises.audited_events(50) == 0
    watch = promises._WATCH
    watch.events, watch.listens = [], True
    __import__("pickle").loads(__import__("pickle").dumps(gpubp.UsageError))
    watch.listens = False
    assert watch.events == ["pickle.find_class"]
