"""Files larger than the memory to use: ``python -m benchmarks.streaming --out DIR --scratch FOLDER``.

For 100-512-512-10 in batches of 1024: the peak of resident memory of ``gpubp train --memory-limit 1GB`` on a Parquet
file and a .npy file of 4 GB each, made for it; and of smaller ones the rows a second of a training that streams beside
one of the same rows in memory, in turns. What is behind the table goes into DIR/streaming.json. The files lie in
FOLDER, as does what the training encodes, 4 GB more, and are removed. ``--dry-run`` does so on small files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import gpubp
from benchmarks.commands import measure_parts, parser_of
from benchmarks.parts import Part
from gpubp.data import open_large, prepare_streamed
from gpubp.data.streamed import WINDOW_SHARE

FILE = "streaming.json"
INPUTS, CLASSES, BATCH, LIMIT = 100, 10, 1024, 10**9
BYTES, ROWS_IN_MEMORY, ROUNDS = 4 * 10**9, 300_000, 7
BLOCK = 100_000  # rows that a file is written by
OPTIONS = f"--hidden 512,512 --batch-size {BATCH} --epochs 1 --preset none --loss cross_entropy".split()


def write_npy(path: Path, rows: int) -> None:
    """Standard normal inputs, and a class that depends on them in the last column, float32."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, INPUTS + 1)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, rows, BLOCK):
            X = rng.standard_normal((min(BLOCK, rows - start), INPUTS + 1), np.float32)
            X[:, INPUTS] = X[:, :CLASSES].argmax(axis=1)
            X.tofile(file)


def write_parquet(path: Path, rows: int) -> None:
    """Uniform inputs, and a class that depends on one of them in the last column, FLOAT and INTEGER."""
    import duckdb

    inputs = ", ".join(f"random()::FLOAT AS x{i}" for i in range(INPUTS))
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT *, (x0 * {CLASSES})::INTEGER % {CLASSES} AS class "
            f"FROM (SELECT {inputs} FROM range({rows}))) TO '{path}' (FORMAT parquet, COMPRESSION uncompressed)"
        )


def trained(path: Path, out: Path, limit: int) -> tuple[float, dict[str, Any]]:
    """The peak of resident memory of ``gpubp train``, in bytes, and its metrics."""
    command = [sys.executable, "-m", "gpubp", "train", str(path), *OPTIONS, "--memory-limit", f"{limit}b"]
    process = subprocess.Popen([*command, "--quiet", "--out", str(out)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"gpubp train ended with exit code {process.returncode}")
    return usage.ru_maxrss * 1024.0, json.loads((out / "metrics.json").read_text())


def rates(path: Path, rows: int, rounds: int) -> list[tuple[float, float]]:
    """Rows a second of a training that streams a file of so many rows, and of one in memory, in turns.

    The windows that are shuffled have the size that they have under the limit of 1 GB.
    """
    data = open_large(path, None, 1000 * rows)  # less than it would take
    assert data is not None
    stream = prepare_streamed(data, loss="cross_entropy", test=0.0).stream
    assert stream is not None
    stream.window = LIMIT // WINDOW_SHARE // (4 * INPUTS)
    X, y = stream.read(0, rows)
    net = gpubp.MLP([INPUTS, 512, 512, CLASSES], seed=0, device="cpu")
    options: dict[str, Any] = {"epochs": 1, "batch_size": BATCH}
    pairs = []
    for _ in range(rounds + 1):
        streamed = gpubp.train(net, batches=stream, **options)
        pairs.append((streamed.samples_per_second, gpubp.train(net, X, y, **options).samples_per_second))
    return pairs[1:]


def memory(part: Part, name: str, folder: Path) -> None:
    """The peak of memory and the time of an epoch of ``gpubp train`` on a file."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path, rows = Path(scratch, name), (4 * 10**6 if part.dry_run else BYTES) // (4 * (INPUTS + 1))
        WRITERS[name](path, rows)
        what = f"{name} of {path.stat().st_size / 1e9:.2f} GB, {rows:,} rows"
        peak, metrics = trained(path, Path(scratch, "run"), LIMIT // (1000 if part.dry_run else 1))
    met = None if part.dry_run else peak <= LIMIT
    part.timed(f"{what}: peak of memory under --memory-limit 1GB", "<= 1 GB", f"{peak / 1e9:.2f} GB", met)
    seconds, accuracy = metrics["seconds"], metrics["test"]["accuracy"]
    part.timed(f"{what}: an epoch over all rows", "", f"{seconds:,.0f} s, test accuracy {accuracy:.3f}", None)
    part.figures.append({"what": what, "load": os.getloadavg(), "peak": peak, "seconds of the epoch": seconds})


def throughput(part: Part, name: str, folder: Path) -> None:
    """Rows a second beside those of a training in memory, of a file of the same form."""
    rows, rounds = (5000, 2) if part.dry_run else (ROWS_IN_MEMORY, ROUNDS)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        WRITERS[name](path := Path(scratch, name), rows)
        pairs = rates(path, rows, rounds)
    streamed, in_memory = np.median(pairs, axis=0)
    low, ratio, high = np.quantile([a / b for a, b in pairs], (0.25, 0.5, 0.75))
    what = f"{name}, {rows:,} rows: streamed over in memory"
    measured = f"{ratio:.2f} ({low:.2f}-{high:.2f}); {streamed:,.0f} over {in_memory:,.0f} rows/s"
    part.timed(what, ">= 0.8", measured, None if part.dry_run else bool(ratio >= 0.8))
    part.figures.append({"what": what, "load": os.getloadavg(), "streamed, in memory": pairs})


WRITERS = {"large.parquet": write_parquet, "large.npy": write_npy}
PARTS: dict[str, Callable[..., None]] = {
    f"{measure.__name__} {name.split('.')[1]}": partial(measure, name=name)
    for measure in (memory, throughput)
    for name in WRITERS
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure some parts."""
    parser = parser_of("streaming", __doc__, FILE, PARTS)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), metavar="FOLDER")
    options = parser.parse_args(arguments)
    os.environ["TMPDIR"] = str(options.scratch)
    parts = {name: partial(part, folder=options.scratch) for name, part in PARTS.items()}
    return measure_parts("streaming", options, FILE, parts)


if __name__ == "__main__":
    sys.exit(main())
