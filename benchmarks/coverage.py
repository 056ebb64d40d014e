"""Coverage of lines and branches by the tests: ``python -m benchmarks.coverage --out DIR``.

Needs coverage (extra ``coverage``). Runs pytest on the default tier, or with the arguments after ``--``, and writes
what each module has to ``benchmarks/results/coverage.json``; with ``--only gpubp/serialization.py`` it lists the lines
and branches of these modules that no test ran, and writes nothing. Runs with ``--add`` count together with the ones
before in DIR, so that the tiers can be measured one by one: ``--add -- -m thorough`` is the next.

Processes that tests start are measured where coverage is installed in the environment itself: on PYTHONPATH alone it
does not hear of them. So are those of ``-n 2``, but one that takes more than ten seconds to end after its last test is
killed by pytest-xdist, and all that it measured is lost: ``--processes 2`` deals the files of tests to two runs of
pytest instead, which end by themselves.

What coverage cannot see is left out by name, with the reason: `UNSEEN`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks.mutants import TESTS
from gpubp.serialization import atomic_write

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "coverage.json"
WHOLE = tuple(TESTS)  # modules of which every branch is to be covered
UNSEEN = {"gpubp/backends/compiled/loops/*": "Numba compiles these loops, and no machine code is traced"}
RUNS = "runs.txt"  # the commands whose coverage DIR has
CONFIG = """[run]
branch = true
source = gpubp
parallel = true
data_file = {data}
concurrency = thread, multiprocessing
patch = subprocess, _exit
[report]
exclude_also =
    if TYPE_CHECKING:
    @overload
    ^\\s*\\.\\.\\.$
"""


def report_of(out: Path, arguments: list[str], add: bool, processes: int) -> dict[str, Any]:
    """Run pytest under coverage, in so many processes, and return the report of coverage on all runs in `out`.

    Raises
    ------
    SystemExit
        If a test failed.
    """
    config, report = out / "coverage.ini", out / "report.json"
    config.write_text(CONFIG.format(data=out / "data"), encoding="utf-8")
    command, options = [sys.executable, "-m", "coverage"], [f"--rcfile={config}"]
    if not add:
        subprocess.run([*command, "erase", *options], check=True, cwd=ROOT)
        (out / RUNS).unlink(missing_ok=True)
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": _first_of_path(ROOT)}
    pytest = [*command, "run", *options, "-m", "pytest", "-q", *arguments]
    runs = [subprocess.Popen([*pytest, *files], cwd=ROOT, env=environment) for files in dealt(processes)]
    statuses = [run.wait() for run in runs]
    subprocess.run([*command, "combine", "--append", "-q", *options], check=True, cwd=ROOT)
    subprocess.run([*command, "json", "-q", *options, "-o", str(report)], check=True, cwd=ROOT)
    if any(statuses):
        sys.exit(f"the tests failed; the report is in {report}, and {RESULT} is as it was")
    with (out / RUNS).open("a", encoding="utf-8") as commands:
        print("pytest", shlex.join(arguments), file=commands)
    return json.loads(report.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def dealt(processes: int) -> list[list[str]]:
    """The files of tests for each of so many runs of pytest; for a single one none, so that its arguments may say."""
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))
    return [files[first::processes] if processes > 1 else [] for first in range(processes)]


def _first_of_path(folder: Path) -> str:
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", str(folder))]
    return os.pathsep.join([str(folder), *others])


def counts(report: Mapping[str, Any], commands: list[str]) -> dict[str, Any]:
    """What the result holds: of every module, and of all that can be seen, lines and branches, and those covered."""
    modules, unseen = {}, {}
    for name, module in report["files"].items():
        summary = module["summary"]
        reason = next((reason for pattern, reason in UNSEEN.items() if fnmatch(name, pattern)), None)
        if reason is not None:
            unseen[name] = {"lines": summary["num_statements"], "reason": reason}
            continue
        modules[name] = {
            "lines": summary["num_statements"],
            "lines_covered": summary["covered_lines"],
            "branches": summary["num_branches"],
            "branches_covered": summary["covered_branches"],
            "percent": percent([summary["covered_lines"] + summary["covered_branches"]],
                               [summary["num_statements"] + summary["num_branches"]]),
        }  # fmt: skip
    parts = modules.values()
    covered = [part["lines_covered"] + part["branches_covered"] for part in parts]
    whole = [name for name in WHOLE if name in modules]
    return {
        "tests": commands,
        "percent": percent(covered, [part["lines"] + part["branches"] for part in parts]),
        "percent_of_branches": percent(
            [part["branches_covered"] for part in parts], [part["branches"] for part in parts]
        ),
        "every_branch_asked_for": len(whole),
        "every_branch_covered": sum(modules[name]["percent"] == 100 for name in whole),
        "modules": modules,
        "unseen": unseen,
    }


def percent(covered: Iterable[int], of: Iterable[int]) -> float:
    """Per cent, rounded down, so that 100 is all."""
    total = sum(of)
    return 100.0 if not total else 1000 * sum(covered) // total / 10


def missing(report: Mapping[str, Any], modules: Iterable[str]) -> Iterable[str]:
    """What no test ran of each of these modules: lines, and branches as line -> line."""
    for name in modules:
        module = report["files"].get(name, {"missing_lines": [], "missing_branches": []})
        branches = [f"{start}->{'exit' if end < 0 else end}" for start, end in module["missing_branches"]]
        lines = [str(line) for line in module["missing_lines"]]
        yield f"{name}: " + (", ".join([*lines, *branches]) or "everything is covered")


def main() -> None:
    """Run the tests, and write or list what is covered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--add", action="store_true", help="count runs before in DIR too")
    parser.add_argument("--processes", type=int, default=1, help="that share the files of tests")
    parser.add_argument("--only", nargs="+", default=(), metavar="MODULE", help="list what is not covered of these")
    parser.add_argument("arguments", nargs="*", help="of pytest, after --")
    asked = parser.parse_args()
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    report = report_of(out, asked.arguments, asked.add, asked.processes)
    for line in missing(report, asked.only or WHOLE):
        print(line)
    if not asked.only:
        result = counts(report, (out / RUNS).read_text(encoding="utf-8").splitlines())
        print(f"{result['percent']} % of lines and branches, {result['percent_of_branches']} % of branches")
        atomic_write(RESULT, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
