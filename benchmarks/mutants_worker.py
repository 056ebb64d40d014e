"""The process of ``benchmarks.mutants`` that tests the mutants of one module, in a copy of the checkout.

It imports the libraries, never gpubp, and forks for each mutant: the child imports the mutant and runs the tests, so
that a mutant costs its tests and no imports. A first run under coverage says which tests execute which line: these run,
the shortest first and at most `MOST_TESTS`, and where they are few and none of them fails, the others of their files,
which may share with them what was computed once.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import os
import random
import resource
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import coverage
import pytest
from cosmic_ray.commands import init
from cosmic_ray.mutating import use_mutation
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkResult

LIBRARIES = ("scipy.special", "scipy.stats", "sklearn.pipeline", "sklearn.model_selection", "hypothesis", "duckdb")
MORE_LIBRARIES = ("pandas", "numba", "mpmath", "h5py", "openpyxl", "PIL.Image", "safetensors.numpy")
NEVER_EXECUTED = "core/ReplaceBinaryOperator_BitOr_"
FEW_TESTS, MOST_TESTS = 20, 400
SECONDS_AT_LEAST, ADDRESS_SPACE = 20.0, 16 << 30
OUTPUT = Path("../output.txt")  # of the last run, beside the copy of the checkout
NONE_COLLECTED = 5  # exit status of pytest


class Contexts:
    """Which test executes what in a run under coverage, and how many seconds each test takes."""

    def __init__(self, measurement: coverage.Coverage) -> None:
        self.measurement, self.seconds = measurement, dict[str, float]()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Run a test in a context that has its name."""
        self.measurement.switch_context(item.nodeid)
        start = time.perf_counter()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.perf_counter() - start
            self.measurement.switch_context("")


def in_a_fork(run: Callable[[], int], seconds: float) -> int:
    """The exit status of what a fork of this process runs, or of the signal that ends it; -1 after so many seconds."""
    child = os.fork()
    if not child:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        output = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream, target in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
            os.dup2(target, stream)
        status = 1
        try:
            status = run()
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                child = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        return -1
    finally:
        if child:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)


def pytest_arguments(tests: list[str]) -> list[str]:
    """Arguments of pytest for a run that ends at the first failure and leaves no files behind."""
    imported_before = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return ["-x", "-q", "-p", "no:cacheprovider", *imported_before, *tests]


class Reach:
    """Which tests execute which lines of a module."""

    def __init__(self, module: Path, command: str, folder: Path) -> None:
        sources = sorted([*Path("gpubp").rglob("*.py"), *Path("tests").rglob("*.py")])
        digest = sha256(b"".join(path.read_bytes() for path in sources) + command.encode()).hexdigest()[:12]
        data, times = folder / f"reach-{digest}.coverage", folder / f"reach-{digest}.json"
        if not times.exists():
            status = in_a_fork(lambda: self._measure(shlex.split(command), data, times), 3600)
            if status:
                times.unlink(missing_ok=True)
                sys.exit(f"the tests fail without a mutant, with status {status}: {command}")
        self.seconds: dict[str, float] = json.loads(times.read_text(encoding="utf-8"))
        lines = coverage.CoverageData(str(data))
        lines.read()
        self.contexts = lines.contexts_by_lineno(str(module.resolve()))
        tree = ast.parse(module.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Lambda)]
        self.bodies = [_lines_of_body(node) for node in functions]
        self.statements = [_lines_of_statement(node) for node in ast.walk(tree) if isinstance(node, ast.stmt)]

    @staticmethod
    def _measure(command: list[str], data: Path, times: Path) -> int:
        measurement = coverage.Coverage(data_file=str(data), source=["gpubp"], branch=False, config_file=False)
        recorder = Contexts(measurement)
        measurement.start()
        status = int(pytest.main(pytest_arguments(command), plugins=[recorder]))
        measurement.stop()
        measurement.save()
        times.write_text(json.dumps(recorder.seconds), encoding="utf-8")
        return status

    def tests(self, line: int) -> list[str]:
        """The tests that execute a line in the body of a function, the shortest first; all, for a line elsewhere."""
        reached = self.seconds.keys()
        if any(line in body for body in self.bodies):
            statement = min(
                (lines for lines in self.statements if line in lines), key=len, default=range(line, line + 1)
            )
            reached = {test for each in statement for test in self.contexts.get(each, ())} & reached
        return sorted(reached, key=lambda test: (self.seconds[test], test))


def _lines_of_body(function: ast.FunctionDef | ast.Lambda) -> range:
    body = function.body
    first, last = (body[0], body[-1]) if isinstance(body, list) else (body, body)
    return range(first.lineno, (last.end_lineno or last.lineno) + 1)


def _lines_of_statement(statement: ast.stmt) -> range:
    """The lines of a simple statement, or those of a compound one before its body."""
    body, last = getattr(statement, "body", None), statement.end_lineno or statement.lineno
    return range(statement.lineno, max(statement.lineno + 1, body[0].lineno) if body else last + 1)


def outcome(reach: Reach, mutation: MutationSpec) -> WorkResult:
    """Run the tests on a mutant, and say whether one of them notices."""
    operator = get_operator(mutation.operator_name)(**mutation.operator_args)
    first = reach.tests(mutation.start_pos[0])
    files = {test.partition("::")[0] for test in first} if len(first) < FEW_TESTS else set()
    others = [test for test in reach.seconds if test.partition("::")[0] in files and test not in set(first)]
    noticed = False
    with use_mutation(mutation.module_path, operator, mutation.occurrence) as (original, mutated):
        for tests in (first[:MOST_TESTS], others):
            if tests and not noticed:
                limit = SECONDS_AT_LEAST + 3 * sum(reach.seconds[test] for test in tests)
                status = in_a_fork(lambda tests=tests: int(pytest.main(pytest_arguments(tests))), limit)
                noticed = status not in (0, NONE_COLLECTED)
    before, after = original.splitlines(), mutated.splitlines()
    changed = [pair for pair in zip(before, after, strict=False) if pair[0] != pair[1]]
    where = f"{changed[0][0].strip()} -> {changed[0][1].strip()}" if changed else f"line {mutation.start_pos[0]}"
    return WorkResult(
        worker_outcome=WorkerOutcome.NORMAL,
        test_outcome=TestOutcome.KILLED if noticed else TestOutcome.SURVIVED,
        output=f"{len(first)} tests execute it",
        diff=where,
    )


def main(module: str, command: str, session: str, sample: str, again: str) -> None:
    """Test a sample of the mutants of a module that have not been tested yet, or `again` those that survived too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for name in (*LIBRARIES, *MORE_LIBRARIES):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    database = WorkDB(session, WorkDB.Mode.create)
    if not database.num_work_items:
        init([Path(module)], database, {})
    reach = Reach(Path(module), command, Path(session).parent)
    sys.dont_write_bytecode = True  # that of a mutant could be taken for the module's own
    done = {job for job, result in database.results if not (again and result.test_outcome == TestOutcome.SURVIVED)}
    items: list[Any] = [
        item for item in database.work_items if not item.mutations[0].operator_name.startswith(NEVER_EXECUTED)
    ]
    items.sort(key=lambda item: (item.mutations[0].operator_name, item.mutations[0].occurrence))
    random.Random(module).shuffle(items)
    for item in items[: int(sample)]:
        if item.job_id not in done:
            database.set_result(item.job_id, outcome(reach, item.mutations[0]))


if __name__ == "__main__":
    main(*sys.argv[1:])
