"""Correctness and speed on a GPU: ``python -m benchmarks.gpu --part PART --out DIR``.

Each part takes less than six minutes, prints a short table last and puts everything behind it into
DIR/gpu.json, beside the other parts. ``--dry-run`` runs the same program without a GPU, on tiny networks: the
kernels on the host, peers on the CPU; its figures mean nothing, are marked, and never stand beside measured ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.devices import open_backend
from benchmarks.gpu import kernels, parity, sanitizer, stacks, step_times
from benchmarks.gpu.hardware import machine
from benchmarks.parts import FILE, MixedError, Part, kind, line, load, saving
from benchmarks.peers import UnavailableError

PARTS = ("parity", "kernels", "small", "large", "stacks", "sanitizer")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a part; 1 if something that was asked for was not met, 2 if nothing can be measured here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--part", required=True, choices=PARTS)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help=f"folder of {FILE}")
    parser.add_argument("--mnist", metavar="FOLDER", help="with MNIST's IDX files; without it, data of their shape")
    parser.add_argument("--dry-run", action="store_true", help="on the host, to see that everything runs")
    options = parser.parse_args(arguments)
    parts: dict[str, Callable[[Part], None]] = {
        "parity": parity.parity,
        "kernels": kernels.kernels,
        "small": lambda part: step_times.small(part, options.mnist),
        "large": step_times.large,
        "stacks": stacks.stacks,
        "sanitizer": sanitizer.sanitizer,
    }
    part = Part(options.part, options.dry_run)
    try:
        load(options.out, part.dry_run)
        open_backend("cuda", "float32", part.dry_run)
        about = machine(part.dry_run)
    except (MixedError, UnavailableError) as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    with saving(part, options.out, about):
        parts[part.name](part)
    print(f"\n{part.name}, {kind(part.dry_run)}: " + "; ".join(f"{subject} {text}" for subject, text in about.items()))
    for row in part.rows:
        print(line(row))
    return 1 if any(row.met is False for row in part.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
