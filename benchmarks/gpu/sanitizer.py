"""Stages ``memcheck`` and ``racecheck``: NVIDIA's compute-sanitizer over trainings that launch every kernel."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.devices import REPOSITORY
from benchmarks.gpu.settings import Settings
from benchmarks.parts import Part

TOOLKIT = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")  # where it lies, if not on the PATH
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (.*)")
LAUNCHED = re.compile(r"^launched \d+ kernels", re.MULTILINE)
FOUND_ERRORS = 66  # the exit code that the sanitizer is asked for
LINES = 15  # of a failure, kept


def memcheck(part: Part, settings: Settings) -> None:
    """Accesses outside of allocations."""
    sanitizer(part, ("memcheck",))


def racecheck(part: Part, settings: Settings) -> None:
    """Reads of device memory that nobody wrote, then, in what time is left, races in shared memory."""
    sanitizer(part, ("initcheck", "racecheck"))


def sanitizer(part: Part, tools: Sequence[str]) -> None:
    """A row for each tool."""
    program = shutil.which("compute-sanitizer", path=os.pathsep.join((os.environ.get("PATH", os.defpath), *TOOLKIT)))
    for position, tool in enumerate(tools):
        what = f"compute-sanitizer {tool}"
        if program is None:
            reason = "there is no compute-sanitizer; it comes with the CUDA toolkit"
            part.skipped(what, reason, "sanitizer")
            continue
        command = [program, "--tool", tool, "--error-exitcode", str(FOUND_ERRORS)]
        command += [sys.executable, "-m", "benchmarks.gpu.sanitized", *(["--dry-run"] if part.dry_run else [])]
        _judge(part, what, *_run(command, part.left() / (len(tools) - position)))


def _run(command: list[str], seconds: float) -> tuple[int | None, str]:
    """Exit code, None if it had to be ended, and output."""
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
    )
    try:
        output, _ = process.communicate(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the sanitizer and what it watches
        output, _ = process.communicate()
        print(output)
        return None, output
    print(output)
    return process.returncode, output


def _judge(part: Part, what: str, code: int | None, output: str) -> None:
    summaries, lines = SUMMARY.findall(output), output.splitlines()
    launched = next((line for line in lines if LAUNCHED.match(line)), "")
    last = lines[-LINES:]
    part.figures.append({"tool": what, "exit code": code, "summary": summaries, "launched": launched, "last": last})
    if code is None:
        part.failed(what, f"no end within its time; {last[-1] if last else 'no output'}", "sanitizer")
    elif not summaries or not launched:
        missing = "no summary" if launched else "did not get to its end"
        part.failed(what, f"exit code {code}, {missing}; {last[-1] if last else 'no output'}", "sanitizer")
    else:
        clean = code == 0 and all(re.match(r"0 (errors|hazards)", summary) for summary in summaries)
        part.computed(what, "0 errors", f"{'; '.join(summaries)} ({launched.partition(':')[0]})", clean, "sanitizer")
