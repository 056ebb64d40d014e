"""Tables read: ``python -m benchmarks.reading --out DIR``.

Processor time of reading wide tables, beside pandas, and the memory of a training on columns of many categories, each
in a process of its own. What is behind the table goes into DIR/reading.json. ``--dry-run`` does so on little data.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.commands import measure_parts, parser_of
from benchmarks.parts import Part

FILE = "reading.json"
ROWS, WIDTHS, ROUNDS = 500, (500, 2000), 7
CATEGORIES, CATEGORY_COLUMNS, LONG_ROWS = 1000, 4, 94_000  # 2.6 MB
SECONDS_OF = """
import sys, time
import pandas, gpubp.data
def ours(path):
    data = gpubp.data.read(path)
    return [data.columns[name] for name in data.columns]
for _ in range(int(sys.argv[2]) + 1):
    for read in (ours, pandas.read_csv):
        started = time.process_time()
        read(sys.argv[1])
        print(time.process_time() - started)
"""
PEAK_OF = """
import sys
import gpubp, gpubp.data
from benchmarks.process import status
ready = gpubp.data.prepare(gpubp.data.read(sys.argv[1]))
net = gpubp.MLP([ready.n_inputs, 128, ready.n_outputs], loss=ready.loss, device="cpu-reference")
gpubp.train(net, *ready.train, validation_data=ready.test, epochs=1)
print(ready.n_inputs, status("VmHWM"))
"""


def run(code: str, *arguments: object) -> list[float]:
    """The numbers that a program prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [float(number) for number in printed.split()]


def time(part: Part) -> None:
    """Processor seconds of reading 500 rows of many columns."""
    medians = {}
    with tempfile.TemporaryDirectory() as folder:
        for width in (5, 20) if part.dry_run else WIDTHS:
            path = Path(folder, "wide.csv")
            numbers = np.random.default_rng(0).normal(size=(ROWS, width))
            rows = [",".join([*(f"{number:.4f}" for number in row), "ab"[i % 2]]) for i, row in enumerate(numbers)]
            path.write_text("\n".join([",".join([*(f"x{j}" for j in range(width)), "class"]), *rows, ""]))
            seconds = np.array(run(SECONDS_OF, path, 1 if part.dry_run else ROUNDS)).reshape(-1, 2)[1:]
            medians[width] = ours, theirs = np.median(seconds, axis=0)
            what = f"{ROWS} rows x {width} columns: processor time over pandas'"
            ratio = float(np.median(seconds[:, 0] / seconds[:, 1]))
            part.timed(what, "<= 3", f"{ratio:.2f}; {ours:.3f} s over {theirs:.3f} s", ratio <= 3)
            part.figures.append({"what": what, "gpubp": seconds[:, 0].tolist(), "pandas": seconds[:, 1].tolist()})
    narrow, wide = medians
    growth = float(medians[wide][0] / medians[narrow][0])
    part.timed(f"processor time, {wide} columns over {narrow}", "<= 5", f"{growth:.2f}", growth <= 5)


def memory(part: Part) -> None:
    """The largest memory of a process that reads a table of many categories, encodes it and trains on it."""
    rows, rng = 2000 if part.dry_run else LONG_ROWS, np.random.default_rng(0)
    codes = rng.integers(0, CATEGORIES, (rows, CATEGORY_COLUMNS))
    lines = [
        ",".join([*(f"{'pqrs'[j]}{code:03x}" for j, code in enumerate(row)), f"{row.sum() / 7:.3f}"]) for row in codes
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "categories.csv")
        path.write_text("\n".join(["a,b,c,d,y", *lines, ""]))
        size = path.stat().st_size
        inputs, peak = run(PEAK_OF, path)
    what = f"{size / 1e6:.1f} MB of CSV, {inputs:.0f} inputs: peak of a training"
    part.timed(what, "<= 300 MB", f"{peak / 1e6:.0f} MB", peak <= 300e6)


PARTS: dict[str, Callable[[Part], None]] = {"time": time, "memory": memory}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure some parts."""
    options = parser_of("reading", __doc__, FILE, PARTS).parse_args(arguments)
    return measure_parts("reading", options, FILE, PARTS)


if __name__ == "__main__":
    sys.exit(main())
