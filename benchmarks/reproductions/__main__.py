"""Published results, trained again: ``python -m benchmarks.reproductions [NAME …] --out DIR``.

Each NAME is one reproduction; without any, all are run. What was published, what was measured, and the difference go
into DIR/reproductions.json, a plot for each name beside it. The data (MNIST in IDX format, the cats' HDF5 files) are
looked for in ``--data``. ``--dry-run`` does so on a few made-up rows.

`ciresan-1000-500` and `ciresan-largest` are trained in full, for ``--seconds`` each, and need a GPU. Where there is
none they are left out, which is said, and what DIR has of them stays. ``--merge FILE`` puts into DIR/reproductions.json
what another machine measured; each part has the machine that it is of.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.gpu.hardware import machine
from benchmarks.machine import described
from benchmarks.parts import SECONDS, MixedError, Part, kind, load, saving, write
from benchmarks.peers import UnavailableError
from benchmarks.reproductions import cats, deformed_digits, deformed_on_gpu, nielsen
from benchmarks.reproductions.comparison import FILE, table

PARTS: dict[str, Callable[[Part, Path, Path], None]] = {
    **dict.fromkeys(nielsen.EXPERIMENTS, nielsen.reproduce),
    "cats": cats.reproduce,
    "ciresan-short": deformed_digits.reproduce,
    **dict.fromkeys(deformed_on_gpu.EXPERIMENTS, deformed_on_gpu.reproduce),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train some of them; 1 if a bar was not met, 2 if nothing can be measured here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproductions", description=__doc__)
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--data", type=Path, default=default, help="folder with mnist/ and cats/")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help=f"folder of {FILE} and the plots")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="that each network on a GPU may take: %(default)s"
    )
    parser.add_argument("--merge", type=Path, metavar="FILE", help="measure nothing: add the parts of another FILE")
    parser.add_argument("--dry-run", action="store_true", help="a few made-up rows, to see that everything runs")
    options = parser.parse_args(arguments)
    names = options.names or list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"there is no {unknown[0]!r}; the names are {', '.join(PARTS)}")
    if options.merge and not options.merge.is_file():
        parser.error(f"there is no file {options.merge}")
    try:
        parts = load(options.out, options.dry_run, FILE)
        if options.merge:
            write(options.out / FILE, parts | load(options.merge.parent, options.dry_run, options.merge.name))
            return 0
    except MixedError as error:
        print(f"benchmarks.reproductions: {error}", file=sys.stderr)
        return 2
    done = []
    for name in names:
        part = Part(name, options.dry_run, FILE, options.seconds)
        try:
            about = machine(options.dry_run) if name in deformed_on_gpu.EXPERIMENTS else described()
            with saving(part, options.out, about):
                PARTS[name](part, options.data, options.out)
        except UnavailableError as error:
            print(f"{name}: skipped, {error}", flush=True)
        else:
            done.append(part)
    if not done:
        return 2
    print("\n".join([f"\n{kind(options.dry_run)}:", *table({"figures": part.figures} for part in done)]))
    return 1 if any(row.met is False for part in done for row in part.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
