"""``python -m benchmarks report [FILE …] [--plots DIR]``: saved figures as tables and plots."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import RESULTS, UnreadableError, plots, read, tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables in Markdown; 2 where a file is none of figures, or the plots cannot be drawn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    report = parser.add_subparsers(required=True, metavar="report").add_parser("report", help="tables and plots")
    report.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="JSON of benchmarks.cpu or benchmarks.gpu, of gpubp bench --json, or of pytest --benchmark-json",
    )
    report.add_argument("--plots", type=Path, metavar="DIR", help="also draw plots there (needs matplotlib)")
    options = parser.parse_args(arguments)
    files = options.files or [path for path in (RESULTS / "cpu.json", RESULTS / "gpu.json") if path.exists()]
    try:
        for path in files:
            figures = read(path)
            print(tables(path.name, figures))
            if options.plots:
                for drawn in plots(options.plots, path.stem, figures):
                    print(f"drew {drawn}")
    except UnreadableError as error:
        print(f"benchmarks report: {error}", file=sys.stderr)
        return 2
    if not files:
        print(f"benchmarks report: {RESULTS} holds no figures yet; name a file", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
