"""What takes part in the step benchmarks: a process of its own, verified before it is timed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import contest
from benchmarks.cases import LARGE, SMALL, Task
from benchmarks.contest import Contest, Times
from benchmarks.parts import Part
from benchmarks.peers import UnavailableError, require
from benchmarks.remote import Remote, RemoteError
from benchmarks.timing import interleaved
from gpubp.bench.steps import Workload, displacements, first_weights

WORKLOAD = Workload((4, 6, 3), 5, 2)


class Troubled:
    """What a peer may do."""

    def add(self, a: int, b: int) -> int:
        return a + b

    def fail(self) -> None:
        raise ValueError("the first line\nthe second")

    def refuse(self) -> None:
        raise UnavailableError("no such library")

    def crash(self) -> None:
        os._exit(3)

    def hang(self) -> None:
        time.sleep(600)

    def variable(self, name: str) -> str | None:
        return os.environ.get(name)


def test_a_remote_object_takes_nobody_along(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GPUBP_TAKEN", "1")
    remote = Remote(Troubled, environment={"GPUBP_GIVEN": "2", "GPUBP_TAKEN": None})
    assert remote.call("add", 1, 2) == 3
    assert [remote.call("variable", name) for name in ("GPUBP_GIVEN", "GPUBP_TAKEN")] == ["2", None]
    assert os.environ["GPUBP_TAKEN"] == "1"
    assert "GPUBP_GIVEN" not in os.environ
    with pytest.raises(RemoteError, match=r"^ValueError: the first line$"):
        remote.call("fail")
    with pytest.raises(UnavailableError, match="no such library"):
        remote.call("refuse")
    assert remote.call("add", 3, 4) == 7
    with pytest.raises(RemoteError, match="exit code 3"):
        remote.call("crash")
    with pytest.raises(RemoteError, match="exit code 3"):
        remote.call("add", 1, 2)
    hanging = Remote(Troubled)
    with pytest.raises(RemoteError, match="no answer within 0 s"):
        hanging.call("hang", timeout=0.1)
    for ended in (remote, hanging):
        ended.close()
    assert "the second" in capfd.readouterr().err


class Scripted:
    """A contender's process whose first steps are off by a factor."""

    def __init__(self, weights: list[Any], factor: float, start: list[Any]) -> None:
        self.weights = [s + factor * (w - s) for w, s in zip(weights, start, strict=True)]

    def send(self, method: str, task: Task) -> None:
        pass

    def receive(self, timeout: float) -> dict[str, str]:
        return {}

    def call(self, method: str, count: int, timeout: float) -> Any:
        return self.weights if method == "weights_after" else 0.001 * count

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("factor", "timed"), [(1.0, True), (1.02, True), (1.1, False), (-1.0, False), (np.nan, False)])
def test_nobody_is_timed_whose_steps_are_wrong(factor: float, timed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(WORKLOAD, "float32", "cpu", dry_run=True)
    start = first_weights(WORKLOAD)
    right = [s + d for s, d in zip(start, displacements(WORKLOAD), strict=True)]
    monkeypatch.setattr(contest, "Remote", lambda *_, **__: Scripted(right, factor, start))
    part = Part("small", dry_run=True)
    with Contest(part, ["gpubp"]) as held:
        times = held.measure(task)
    assert (list(times.seconds) == ["gpubp"]) is timed
    assert timed or "not this network's" in times.missing["gpubp"]
    assert ("failed" in part.figures[0]) is not timed


class Slow(Scripted):
    """A contender's process that is not ready in time; it counts how often it was asked to be."""

    asked = 0

    def send(self, method: str, task: Task) -> None:
        Slow.asked += 1

    def receive(self, timeout: float) -> dict[str, str]:
        time.sleep(timeout)
        raise RemoteError("no answer")


def test_a_peer_that_is_not_ready_in_time_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start = first_weights(WORKLOAD)
    right = [s + d for s, d in zip(start, displacements(WORKLOAD), strict=True)]
    kinds = {"gpubp": Scripted, "torch compile": Slow}
    monkeypatch.setattr(contest, "Remote", lambda _, name, **__: kinds[name](right, 1.0, start))
    monkeypatch.setattr(Slow, "asked", 0)
    task = Task(WORKLOAD, "float32", "cpu", dry_run=True)
    with Contest(Part("small", dry_run=True), ["torch compile", "gpubp"], ready=0.05) as held:
        first, second = held.measure(task), held.measure(task)
    assert list(first.seconds) == list(second.seconds) == ["gpubp"]
    assert first.missing["torch compile"] == "no answer"
    assert "not ready in time for 4-6-3 b5, float32" in second.missing["torch compile"]
    assert Slow.asked == 1


def test_references_that_were_brought_along_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    start, expected = first_weights(WORKLOAD), displacements(WORKLOAD)
    right = [s + d for s, d in zip(start, expected, strict=True)]
    monkeypatch.setattr(contest, "Remote", lambda *_, **__: Scripted(right, 1.0, start))
    monkeypatch.setattr(contest, "displacements", None)  # would be called else
    references = {WORKLOAD.name: [np.float32(tensor) for tensor in expected]}
    with Contest(Part("small", dry_run=True), ["gpubp"], references=references) as held:
        assert list(held.measure(Task(WORKLOAD, "float32", "cpu", dry_run=True)).seconds) == ["gpubp"]


def test_functions_take_turns_and_the_first_rounds_do_not_count() -> None:
    called: list[str] = []
    seconds = interleaved({name: lambda name=name: called.append(name) for name in "ab"}, rounds=3, warm_up=2)
    assert "".join(called) == "ab" * 5
    assert [len(values) for values in seconds.values()] == [3, 3]


def test_ratios_are_of_rounds_in_which_all_took_part() -> None:
    seconds = {"a": np.array([1.0, 2.0, 4.0, 9.0]), "b": np.array([2.0, 6.0, 8.0])}
    times = Times(WORKLOAD, "float32", seconds, {})
    assert times.compared(lambda a, b: b / a, "a", "b") == (2.0, 2.0, 2.5)
    assert times.microseconds("a") == 3e6


def test_networks_are_those_of_the_table() -> None:
    assert [workload.name for workload in (*SMALL, *LARGE)] == [
        "64-64-64-10 b32",
        "64-256-256-10 b128",
        "784-512-512-10 b128",
        "784-1024x3-10 b256",
        "1024-4096x4-1000 b4096",
        "1024-4096x4-1000 b256",
    ]
    assert SMALL[2].parameters == 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10


def test_a_missing_library_is_not_a_broken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnavailableError, match="surely_missing is not installed"):
        require("surely_missing")
    (tmp_path / "half_there.py").write_text("import surely_missing")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_missing"):
        require("half_there")
