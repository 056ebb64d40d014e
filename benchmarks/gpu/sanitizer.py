"""Part ``sanitizer``: NVIDIA's compute-sanitizer over the tests of the kernels on the device."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys

from benchmarks.devices import REPOSITORY
from benchmarks.parts import Part

# memcheck: accesses outside of allocations; racecheck: of shared memory without a barrier between; initcheck: of
# device memory that nobody wrote.
TOOLS = ("memcheck", "racecheck", "initcheck")
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (.*)")
FOUND_ERRORS = 66  # the exit code that the sanitizer is asked for
NONE_COLLECTED = 5  # pytest's
LINES = 15  # of a failure, kept


def sanitizer(part: Part) -> None:
    """A row for each tool."""
    program = shutil.which("compute-sanitizer")
    tests = sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "tests").rglob("test_kernels*.py"))
    for position, tool in enumerate(TOOLS):
        what = f"compute-sanitizer {tool}"
        if program is None:
            part.skipped(what, "compute-sanitizer is not on the PATH; it comes with the CUDA toolkit")
            continue
        command = [program, "--tool", tool, "--error-exitcode", str(FOUND_ERRORS), sys.executable, "-m", "pytest"]
        # CuPy's pool hands out parts of larger allocations, inside which nothing counts as out of bounds.
        command += ["-m", "gpu", "-q", "-p", "benchmarks.gpu.without_pool", *tests]
        command += ["--collect-only"] if part.dry_run else ["--require-gpu"]
        _judge(part, what, *_run(command, part.left() / (len(TOOLS) - position)))


def _run(command: list[str], seconds: float) -> tuple[int | None, str]:
    """Exit code, None if it had to be ended, and output."""
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the sanitizer and what it watches
        output, _ = process.communicate()
        return None, output
    return process.returncode, output


def _judge(part: Part, what: str, code: int | None, output: str) -> None:
    summaries = SUMMARY.findall(output)
    tests = next((line for line in reversed(output.splitlines()) if re.search(r"\d+ (passed|failed|tests)", line)), "")
    last = output.splitlines()[-LINES:]
    part.figures.append(
        {"tool": what, "exit code": code, "summary": summaries, "tests": tests.strip("= "), "last": last}
    )
    if code is None:
        part.failed(what, "no end within its share of the part's time")
    elif code == NONE_COLLECTED:
        part.skipped(what, "no test of the kernels is marked gpu")
    elif not summaries:
        part.failed(what, f"exit code {code} and no summary; {last[-1] if last else 'no output'}")
    else:
        clean = code == 0 and all(re.match(r"0 (errors|hazards)", summary) for summary in summaries)
        part.computed(what, "0 errors", f"{'; '.join(summaries)} ({tests.strip('= ')})", clean)
