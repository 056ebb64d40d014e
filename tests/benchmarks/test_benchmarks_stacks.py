"""``python -m benchmarks.stacks``: its dry run, and that its checks can fail; so are those of a GPU's stacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import contest, stack_cases, stack_equality, stacks
from benchmarks.cases import Task
from benchmarks.parts import Part
from benchmarks.stack_cases import StackContest, StackWorkload, checked, references, worst
from benchmarks.stack_memory import memory_row
from gpubp.backends import get_backend
from gpubp.bench.steps import displacements, first_weights, sample
from support.package import REPOSITORY

WORKLOAD = StackWorkload((4, 6, 3), 5, 2, models=3)


def parts_in(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["parts"]
    return found


# -- dry runs -----------------------------------------------------------------------------------------------


@pytest.mark.backends
def test_a_dry_run_on_the_cpu_judges_what_it_computes_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without peers: the GPU's stages run them."""
    monkeypatch.setattr(stacks, "PEERS", ())
    assert stacks.main(["--dry-run", "--out", str(tmp_path)]) == 0
    parts = parts_in(tmp_path / stacks.FILE)
    assert list(parts) == list(stacks.PARTS)
    assert {part["kind"] for part in parts.values()} == {"dry run"}
    judged = {name: [(row["asked"], row["met"]) for row in part["rows"]] for name, part in parts.items()}
    assert judged["equality"][:2] == [("all", True), ("<= 1e-12", True)]
    assert judged["search"] == [("<= 0.01", True), (">= 3.0", None), ("the same", True)]
    assert judged["training"] == [(">= 1.5", None), ("", None), ("", None)]
    assert judged["memory"] == [("<= 100 MB", True)]
    (ours,) = parts["peers"]["figures"]
    assert 0 < ours["error after two steps"] < 1e-2
    assert ours["microseconds"] > 0


def test_openblas_may_not_be_pinned_where_something_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert stacks.main(["--out", str(tmp_path)]) == 2
    assert "OPENBLAS_CORETYPE holds OpenBLAS to slower kernels; unset it" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_ctrl_c_keeps_the_rows_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(part: Part) -> None:
        part.timed("a search", ">= 3.0", "4.0", True)
        raise KeyboardInterrupt

    monkeypatch.setitem(stacks.PARTS, "search", interrupted)
    assert stacks.main(["--dry-run", "--part", "search", "memory", "--out", str(tmp_path)]) == 130
    assert "interrupted: the rows until then are saved" in capsys.readouterr().out
    parts = parts_in(tmp_path / stacks.FILE)
    assert list(parts) == ["search"]
    assert [row["what"] for row in parts["search"]["rows"]] == ["a search"]


def test_the_readme_of_results_names_the_parts() -> None:
    text = (REPOSITORY / "benchmarks" / "results" / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in stacks.PARTS)


# -- checks that can fail -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [None, 3])
def test_equality_finds_one_network_that_is_trained_otherwise(wrong: int | None, monkeypatch: Any) -> None:
    setting_of = stack_equality._of_network

    def faulty(value: Any, k: int) -> Any:
        """One network alone has another's optimizer options."""
        return setting_of(value, 0 if k == wrong and isinstance(value, dict) else k)

    monkeypatch.setattr(stack_equality, "_of_network", faulty)
    part = Part("equality", dry_run=True)
    stack_equality.bits(part)
    stack_equality.one_step(part, get_backend("cpu", "float64"))
    assert [row.met for row in part.rows] == [wrong is None] * 2
    assert f"{4 if wrong is None else 3} of 4" in part.rows[0].measured


def test_members_of_a_stack_differ_and_are_its_slices() -> None:
    X, y, orders = WORKLOAD.rows
    for k, member in enumerate(WORKLOAD.members):
        for (W, b), (stacked_W, stacked_b) in zip(member.weights, WORKLOAD.weights, strict=True):
            np.testing.assert_array_equal(stacked_W[k], W)
            np.testing.assert_array_equal(stacked_b[k], b)
        for mine, shared in zip(member.rows, (X, y, orders[k]), strict=True):
            np.testing.assert_array_equal(mine, shared)
    assert len({W.tobytes() for W in WORKLOAD.weights[0][0]}) == len({order.tobytes() for order in orders}) == 3
    assert WORKLOAD.name == "3 of 4-6-3 b5"


def test_of_very_many_networks_evenly_spread_ones_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_cases, "CHECKED", 2)
    many = StackWorkload((4, 6, 3), 5, 2, models=5)
    assert [member.number for member in checked(many).members] == [0, 2]
    weights, expected = [], references(many)
    for k, member in enumerate(many.members):
        moved = expected[k // 2] if k in (0, 2) else [0.0] * 4
        weights += [s + d for s, d in zip(first_weights(member), moved, strict=True)]
    assert worst(many, weights, expected)[0] < 1e-6
    weights[8] = weights[8] + 1.0
    assert worst(many, weights, expected)[1] == 2


def test_references_are_those_of_the_networks_by_themselves() -> None:
    for member, of_member in zip(WORKLOAD.members, references(WORKLOAD), strict=True):
        for found, expected in zip(of_member, displacements(member), strict=True):
            np.testing.assert_array_equal(found, expected)


class Scripted:
    """A contender's process whose network 1 did only a part of its steps."""

    def __init__(self, share: float) -> None:
        moved = references(WORKLOAD)
        self.weights = []
        for k, member in enumerate(WORKLOAD.members):
            first = [tensor for layer in member.weights for tensor in layer]
            factor = share if k == 1 else 1.0
            self.weights += [sample(s) + factor * d for s, d in zip(first, moved[k], strict=True)]

    def send(self, method: str, task: Task) -> None:
        pass

    def receive(self, timeout: float) -> dict[str, str]:
        return {}

    def call(self, method: str, count: int, timeout: float) -> Any:
        return self.weights if method == "weights_after" else 0.001 * count

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("share", "timed"), [(1.0, True), (0.9, False), (0.0, False), (np.nan, False)])
def test_nobody_is_timed_one_of_whose_networks_is_wrong(
    share: float, timed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = Scripted(share)
    found, who = worst(WORKLOAD, scripted.weights, references(WORKLOAD))
    assert (found < 1e-6) is timed
    assert timed or who == 1
    monkeypatch.setattr(contest, "Remote", lambda *_, **__: scripted)
    with StackContest(Part("peers", dry_run=True), ["gpubp stack"]) as held:
        times = held.measure(Task(WORKLOAD, "float32", "cpu", dry_run=True))
    assert (list(times.seconds) == ["gpubp stack"]) is timed
    assert timed or "number 1 is off" in times.missing["gpubp stack"]


@pytest.mark.parametrize(("peak", "met"), [(103e6, True), (104e6, False)])
def test_memory_beyond_what_is_planned_is_seen(peak: float, met: bool) -> None:
    part = Part("memory", dry_run=True)
    memory_row(part, WORKLOAD, {"peak": peak, "stack": 2e6, "data": 1.5e6}, "peak")
    assert [row.met for row in part.rows] == [met]
