"""A training that writes checkpoint after checkpoint, killed at random moments: ``killed_trainings.py FOLDER KILLS``.

It is forked from this process, so that only the training itself takes time, and goes on from its last checkpoint until
it is killed again. What must hold is counted: every checkpoint can be read, the last is none older than the child knew
to be written, and the hidden files of killed writers are gone once the next has written.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import gpubp
from gpubp import serialization
from gpubp.training.checkpoint import CheckpointFolder, TrainingIdentity, TrainingState

LONGEST = 0.15  # seconds until a kill
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 40)), RNG.integers(0, 2, 60)


def train(epochs: int, **options: Any) -> gpubp.MLP:
    """A network after a training of so many epochs, unless it is ended before."""
    net = gpubp.MLP([40, 300, 2], device="cpu-reference", seed=1)
    gpubp.train(net, X, Y, batch_size=20, epochs=epochs, dropout=0.1, **options)
    return net


def child(folder: Path, epochs: int, known: int) -> None:
    """Train, and tell through a pipe which checkpoints are written; never returns."""
    write = CheckpointFolder.write

    def told(self: CheckpointFolder, state: TrainingState, identity: TrainingIdentity) -> None:
        write(self, state, identity)
        os.write(known, f"{state.step}\n".encode())

    CheckpointFolder.write = told
    where = {"resume" if CheckpointFolder(folder).files() else "checkpoint": folder}
    try:
        train(epochs, **where, checkpoint_every="1steps")
    finally:
        os._exit(0)


def run_until(number: signal.Signals, folder: Path, epochs: int, seconds: float) -> tuple[int, bool]:
    """Train until so many seconds after the first checkpoint: the last that was told, and whether there was litter."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        child(folder, epochs, writing)
    os.close(writing)
    with open(reading, encoding="ascii") as told:
        first = told.readline()
        litter = len(hidden(folder)) > 1  # one is being written
        time.sleep(seconds)
        os.kill(process, number)
        os.waitpid(process, 0)
        return max(int(line) for line in [first, *told.read().split("\n")] if line.strip()), litter


def hidden(folder: Path) -> list[str]:
    """Files of writers."""
    return [name for name in os.listdir(folder) if name.startswith(".")]


def readable(path: Path) -> bool:
    """Whether a checkpoint is what was written."""
    try:
        serialization.load(path)
    except gpubp.DataError as error:
        print(error, file=sys.stderr)
        return False
    return True


def main(folder: Path, kills: int) -> int:
    """Kill and restart a training; 1 where something was lost."""
    draw, epochs = random.Random(0), 40 * kills
    unreadable = older = litter = within = 0
    for _ in range(kills):
        last, left = run_until(signal.SIGKILL, folder, epochs, draw.random() * LONGEST)
        files = CheckpointFolder(folder).files()
        unreadable += sum(not readable(path) for path in files)
        older += int(files[-1].name[5:17]) < last
        litter += left
        within += bool(hidden(folder))
    run_until(signal.SIGTERM, folder, epochs, 0.0)
    litter += bool(hidden(folder))
    tensors, about = serialization.load(CheckpointFolder(folder).files()[-1])
    over = about["checkpoint"]["epoch"]
    assert over < epochs, "the training was over before the last kill"
    net = train(epochs, callbacks=[lambda net, history: history.epochs == over])
    same = np.array_equal(net.theta, tensors["theta"])
    print(
        f"{kills} kills: {unreadable} unreadable, {older} older, {litter} litter after a restart, "
        f"{'same' if same else 'OTHER'} bits; {within} in the middle of a write, {about['checkpoint']['step']} steps"
    )
    return int(bool(unreadable or older or litter) or not same)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
