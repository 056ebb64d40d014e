"""Commands that measure some parts: their options, what they print, and their exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from benchmarks.machine import described, pinned
from benchmarks.parts import SECONDS, MixedError, Part, kind, line, load, saving


def parser_of(command: str, description: str | None, file: str, parts: Iterable[str]) -> argparse.ArgumentParser:
    """The options ``--part``, ``--out`` and ``--dry-run`` of ``python -m benchmarks.COMMAND``."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{command}", description=description)
    parser.add_argument("--part", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help=f"folder of {file}")
    parser.add_argument("--dry-run", action="store_true", help="little of everything, to see that it runs")
    return parser


def measure_parts(
    command: str,
    options: argparse.Namespace,
    file: str,
    parts: Mapping[str, Callable[[Part], None]],
    *,
    machine: Callable[[], dict[str, str]] = described,
    fast_kernels: bool = False,
    seconds: float = SECONDS,
) -> int:
    """Measure the parts that were asked for, each kept in DIR/`file` after every row, and print all rows at the end.

    Parameters
    ----------
    command : str
        The module of benchmarks/, for messages.
    options : Namespace
        Of `parser_of`.
    file : str
    parts : mapping of str to callable
        What measures each part.
    machine : callable
        Describes what is measured on.
    fast_kernels : bool
        Refuse to measure where a variable holds OpenBLAS to slower kernels.
    seconds : float
        That a part may take.

    Returns
    -------
    int
        The exit code: 1 if a bar was not reached, 2 if nothing can be measured here, 130 after Ctrl-C.
    """
    if fast_kernels and (variable := pinned()) and not options.dry_run:
        return _refused(command, f"{variable} holds OpenBLAS to slower kernels; unset it")
    try:
        load(options.out, options.dry_run, file)
    except MixedError as error:
        return _refused(command, str(error))
    about = machine()
    print("; ".join(f"{subject} {text}" for subject, text in about.items()), flush=True)
    done: list[Part] = []
    interrupted = False
    try:
        for name in options.part:
            done.append(part := Part(name, options.dry_run, file, seconds))
            with saving(part, options.out, about):
                parts[name](part)
    except KeyboardInterrupt:
        interrupted = True
    for part in done:
        print(f"\n{part.name}, {kind(part.dry_run)}:")
        for row in part.rows:
            print(line(row))
    if interrupted:
        print("interrupted: the rows until then are saved")
        return 130
    return 1 if any(row.met is False for part in done for row in part.rows) else 0


def _refused(command: str, reason: str) -> int:
    print(f"benchmarks.{command}: {reason}", file=sys.stderr)
    return 2
