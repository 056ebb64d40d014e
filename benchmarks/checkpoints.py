"""Checkpoints: ``python -m benchmarks.checkpoints --out DIR``.

How long it takes until a checkpoint of ten million parameters with Adam is on the disk, beside a bare write of as many
bytes and an fsync, in turns; how long to remove the one that it takes the place of; and for how long the training
stands still for it: while its state is copied in memory. What is behind the table goes into DIR/checkpoints.json. The
checkpoints themselves lie under DIR, whose disk is what is measured, and are removed. ``--dry-run`` does so with a
small network.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import gpubp
from benchmarks.commands import measure_parts, parser_of
from benchmarks.parts import Part
from gpubp import serialization
from gpubp.training.checkpoint import KEPT, CheckpointFolder, TrainingState, newest

FILE = "checkpoints.json"
LAYERS, ROUNDS, ROWS, BATCH = (784, 2048, 2048, 2048, 10), 41, 256, 64


def checkpoint_of(layers: Sequence[int], folder: Path) -> Path:
    """The file of a checkpoint that is written within an epoch of Adam."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((ROWS, layers[0])), rng.integers(0, layers[-1], ROWS)
    where = {"checkpoint": folder, "checkpoint_every": "3steps"}
    gpubp.train(gpubp.MLP(layers, device="cpu"), X, y, epochs=1, batch_size=BATCH, **where)
    return newest(folder)


def seconds(call: Callable[[], Any]) -> float:
    """That a call takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def bare_write(path: Path, data: bytes) -> None:
    """A new file and an fsync."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def cost(part: Part, out: Path) -> None:
    """A checkpoint written, the same bytes written, an older one removed, and the state copied, in turns."""
    layers, rounds = ((20, 30, 2), 2) if part.dry_run else (LAYERS, ROUNDS)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as name:
        folder, bare = CheckpointFolder(Path(name, "written")), Path(name, "bare")
        path = checkpoint_of(layers, Path(name, "trained"))
        data = path.read_bytes()
        tensors, metadata = serialization.load(path)
        about = metadata["checkpoint"]
        identity: Any = SimpleNamespace(described=about["training"], machine=about["machine"])
        times = []
        for step in range(rounds):
            state = TrainingState(0, 3, step, 0.0, tensors, about["state"])
            checkpoint = seconds(lambda state=state: folder.write(state, identity))
            same_bytes = seconds(lambda: bare_write(bare, data))
            bare.unlink()
            copied = seconds(lambda: [np.array(tensor) for tensor in tensors.values()])
            times.append((checkpoint, same_bytes, seconds(folder.remove_older), copied))
    ours, bytes_alone, _, copied = np.median(times, axis=0)
    removed = np.median([times[step][2] for step in range(KEPT, rounds)]) if rounds > KEPT else 0.0  # there is none yet
    low, ratio, high = np.quantile([checkpoint / same_bytes for checkpoint, same_bytes, *_ in times], (0.25, 0.5, 0.75))
    parameters = sum((n_in + 1) * n_out for n_in, n_out in zip(layers, layers[1:], strict=False))
    what = f"{parameters:,} parameters with Adam, {len(data) / 1e6:,.1f} MB"
    busy = os.getloadavg()
    measured = f"{ratio:.2f} ({low:.2f}-{high:.2f}); {ours:.3f} s over {bytes_alone:.3f} s, load {busy[0]:.1f}"
    part.timed(f"{what}: a checkpoint over a bare write", "<= 1.3", measured, bool(ratio <= 1.3))
    part.timed(f"{what}: an older one removed, afterwards", "", f"{removed:.3f} s", None)
    part.timed(f"{what}: copied, while the training stands", "", f"{copied:.3f} s", None)
    part.figures.append({"what": what, "load": busy, "checkpoint, bare, removed, copied": times})


PARTS: dict[str, Callable[..., None]] = {"cost": cost}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure."""
    options = parser_of("checkpoints", __doc__, FILE, PARTS).parse_args(arguments)
    return measure_parts(
        "checkpoints", options, FILE, {name: partial(part, out=options.out) for name, part in PARTS.items()}
    )


if __name__ == "__main__":
    sys.exit(main())
