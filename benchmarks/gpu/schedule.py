"""The stages of a run: each in a process of its own, with a limit of its own, and all of them within one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.parts import FILE, UNFINISHED, MixedError, kind, load, write

LOG = "log.txt"  # what the stages print, one after the other
CLOSING = 4.0  # seconds at the end, for the report
FEWEST = 4.0  # seconds: with less left, no stage is begun
SMOKE_FAILED = 3  # exit code of a run on a machine on which nothing would work


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes
    ----------
    name : str
    seconds : float
        That are planned for it.
    what : str
        What it measures, in a few words.
    function : str
        "module:function" below `benchmarks.gpu`, which is called with the part and the settings.
    at_most : float
        Seconds that it may take where that leaves less to others; `seconds` if 0.
    """

    name: str
    seconds: float
    what: str
    function: str
    at_most: float = 0.0


MAIN = (
    Stage("smoke", 15, "a kernel, a product, a graph, gpubp doctor; no other stage if it fails", "smoke:smoke", 60),
    Stage("prewarm", 35, "every kernel compiled by 14 processes, peers' libraries loaded", "prewarm:prewarm"),
    Stage("tests", 100, "pytest -n 8 -m gpu of the files on the backend and on training", "device_tests:tests"),
    Stage("parity", 60, "steps against float64 in five precisions, bits of graphs and of 3 processes", "parity:parity"),
    Stage("mnist", 15, "MNIST end to end, in a fresh process and again", "mnist:end_to_end"),
    Stage(
        "small", 60, "three small networks against PyTorch's graph, JAX's scan, the bare products", "step_times:small"
    ),
    Stage("large", 60, "three large networks, likewise", "step_times:large"),
    Stage("stacks", 30, "256 networks against one by one, and their memory", "stacks:stacks"),
    Stage("vmap", 30, "steps of 256 networks against vmap", "stacks:vmap"),
    Stage("kernels", 25, "bytes per second of every kernel, on arrays made on the device", "kernels:kernels"),
    Stage("compiled", 60, "torch.compile and cuda-unfused, two networks", "step_times:compiled"),
    Stage("memcheck", 40, "compute-sanitizer over trainings that launch every kernel", "sanitizer:memcheck"),
)
REST = (
    Stage("precisions", 60, "the networks in the precisions that were left out", "step_times:precisions"),
    Stage("onchip", 60, "small networks on the chip against the graph: results, bits, times, vmap", "onchip:onchip"),
    Stage("stack-sizes", 60, "stacks of 16 to 4,096 networks", "stacks:sizes"),
    Stage("search", 20, "a grid of 32 candidates on 5 folds, from the call to results", "search:search"),
    Stage("small-layers", 40, "kernels for small layers against cuBLASLt's products", "small_layers:small_layers"),
    Stage("nodes", 60, "what each launch of a step takes, by Nsight Compute", "nodes:nodes"),
    Stage(
        "racecheck", 60, "compute-sanitizer: reads of what nobody wrote, shared memory's races", "sanitizer:racecheck"
    ),
    Stage("crossover", 40, "GPU against CPU over width and batch", "crossover:crossover"),
    Stage("processes", 60, "bits of 20 fresh processes with empty caches", "parity:processes"),
    Stage(
        "first-steps", 40, "the first step of a fresh process, with empty and with filled caches", "step_times:first"
    ),
)
STAGES = {stage.name: stage for stage in (*MAIN, *REST)}


def chosen(names: Sequence[str], rest: bool, dry_run: bool = False) -> list[Stage]:
    """The stages to run, in their order: those named, or one of both halves. The smoke test is always first.

    Those of a dry run may take longer, since no device does the work.
    """
    wanted = {"smoke", *(names or (stage.name for stage in (REST if rest else MAIN)))}
    stages = [stage for stage in STAGES.values() if stage.name in wanted]
    return [replace(stage, seconds=4 * stage.seconds) for stage in stages] if dry_run else stages


def plan(stages: Sequence[Stage]) -> str:
    """The stages with the seconds that each begins after and takes."""
    lines, begin = ["begins  seconds  stage"], 0.0
    for stage in stages:
        lines.append(f"{begin:5.0f} s  {stage.seconds:5.0f} s  {stage.name:<12} {stage.what}")
        begin += stage.seconds
    return "\n".join([*lines, f"{begin:5.0f} s  in all"])


class Schedule:
    """Runs stages one after the other.

    Parameters
    ----------
    stages : sequence of Stage
    seconds : float
        That all of them may take together.
    out : Path
        The folder of results.
    dry_run : bool
    command : callable
        ``command(stage, limit)`` is the command line of a stage.
    environment : mapping, optional
        Of the stages' processes; this process's own by default.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        seconds: float,
        out: Path,
        dry_run: bool,
        command: Callable[[Stage, float], list[str]],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.stages, self.out, self.dry_run, self.command = stages, out, dry_run, command
        self.environment = dict(os.environ if environment is None else environment)
        self.end = time.monotonic() + seconds - CLOSING

    def run(self) -> int:
        """Exit code: 0 if every stage ended by itself and met its bars, 1 if not, 3 if the smoke test failed."""
        codes = []
        for position, stage in enumerate(self.stages):
            left = self.end - time.monotonic()
            if left < FEWEST:
                self._note(stage, f"skipped: {max(0.0, left):.0f} s were left", 0.0)
                codes.append(1)
                continue
            codes.append(self._run(stage, _limit(stage, left, self.stages[position + 1 :])))
            if stage.name == "smoke" and codes[-1] != 0:
                return SMOKE_FAILED
        return 1 if any(codes) else 0

    def _run(self, stage: Stage, limit: float) -> int:
        start = time.monotonic()
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / LOG).open("a", encoding="utf-8") as log:
            log.write(f"\n===== {stage.name}, at most {limit:.0f} s\n")
            log.flush()
            code = run_limited(self.command(stage, limit), limit, self.environment, log)
        seconds = time.monotonic() - start
        if code is None:
            self._note(stage, f"ended at its limit of {limit:.0f} s", seconds)
        elif code not in (0, 1):
            self._note(stage, f"its process ended with exit code {code}", seconds)
        else:
            self._note(stage, "", seconds)
        return 1 if code is None else code

    def _note(self, stage: Stage, broken_off: str, seconds: float) -> None:
        """Say how a stage ended, in a line and, where it did not end by itself, in the file."""
        try:
            parts = load(self.out, self.dry_run)
        except MixedError as error:
            print(f"{stage.name:<12} {error}", flush=True)
            return
        part = parts.get(stage.name, {"kind": kind(self.dry_run), "machine": {}, "rows": [], "figures": []})
        if broken_off:
            said = part.get("broken off", "")  # by the stage itself, if it could
            part["broken off"] = broken_off if said in ("", UNFINISHED) else f"{broken_off}; {said}"
            part["seconds"] = round(seconds, 1)
            write(self.out / FILE, {**parts, stage.name: part})
        missed = sum(row["met"] is False for row in part["rows"])
        ended = part.get("broken off") or "done"
        print(
            f"{stage.name:<12} {seconds:5.1f} s  {len(part['rows']):3} rows, {missed} missed; {ended}"[:300], flush=True
        )


def _limit(stage: Stage, left: float, later: Sequence[Stage]) -> float:
    """What is planned for it and what others left over, at most twice as much, and never more than is left."""
    over = left - sum(other.seconds for other in later)
    return min(left, max(stage.seconds, stage.at_most, min(over, 2 * stage.seconds)))


def run_limited(command: Sequence[str], seconds: float, environment: Mapping[str, str], output: object) -> int | None:
    """Exit code of a command; None if it had to be ended, with everything that it started."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,  # type: ignore[call-overload]
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        code: int = process.wait(seconds)
        return code
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end_session(process)
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)


def _end_session(leader: subprocess.Popen[bytes]) -> None:
    """End every process of a session: of those that a stage starts, some lead groups of their own."""
    if leader.poll() is None:
        leader.kill()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError, ValueError):
            # pid (name) state ppid pgrp session …; the name may hold anything, also parentheses
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == leader.pid:
                os.kill(int(path.parent.name), signal.SIGKILL)
