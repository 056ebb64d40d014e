"""Training by several processes: ``python -m benchmarks.ranks --out DIR``.

First whether ranks that ``mpiexec`` starts end, after 50 steps in float64, with the weights of one process, and with
the same bits from run to run. Then samples a second of two ranks with one BLAS thread each beside those of one process
with all cores, in turns, on the same batches of 1024 rows; and of two ranks that add up gradients beside the backward
pass, or after it. Last, how much memory two and four ranks take together to train on a file, beside one process: a page
that several use counts once. What is behind the table goes into DIR/ranks.json. ``--dry-run`` does so with a small
network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gpubp
from benchmarks.commands import measure_parts, parser_of
from benchmarks.parts import Part
from gpubp.cli.processes import joined
from gpubp.data import prepare, read
from gpubp.data.read_once import prepared_once
from gpubp.serialization import digest_of_array
from gpubp.training import data_parallel

FILE = "ranks.json"
BAR, TOLERANCE = 0.75, 1e-12
LARGE, BATCH, ROUNDS = (784, 1024, 1024, 1024, 10), 1024, 9
SMALL = (20, 32, 16, 5)
INPUTS, ROWS = 100, 400_000  # of the file whose rows are held
HERE = Path(sys.executable).with_name("mpiexec")


def train(
    layers: Sequence[int],
    batch_size: int,
    precision: str,
    epochs: int,
    steps: int,
    fewest: int = data_parallel.FEWEST_IN_SLICE,
) -> None:
    """What each process runs: a training; the first prints what came of it."""
    data_parallel.FEWEST_IN_SLICE = fewest
    rng = np.random.default_rng(0)
    rows = steps * batch_size
    X, y = rng.standard_normal((rows, layers[0])), rng.integers(0, layers[-1], rows)
    net = gpubp.MLP(layers, seed=1, device="cpu", precision=precision)
    with joined() as ranks:
        history = gpubp.train(net, X, y, batch_size=batch_size, epochs=epochs, communicator=ranks)
        if ranks.rank == 0:
            outcome = {"steps": history.steps, "seconds": np.diff(history.seconds).tolist()}
            outcome["digest"] = digest_of_array(net.theta)
            if tuple(layers) == SMALL:
                outcome["theta"] = net.theta.tolist()
            print(json.dumps(outcome))


def hold(path: str) -> None:
    """What each process runs: a training on a file; the first prints how much memory all took for it, in bytes."""
    options: dict[str, Any] = {"batch_size": 1000, "epochs": 1}
    gpubp.train(net := gpubp.MLP([INPUTS, 16, 2], device="cpu"), np.zeros((4, INPUTS)), np.arange(4) % 2, **options)
    before, taken = held_bytes(), np.zeros(1)
    with joined() as ranks:

        def measure(net: gpubp.MLP, history: gpubp.History) -> None:
            ranks.meet()  # whoever is later than the others maps what they hold
            taken[0] = held_bytes() - before

        prepared, _ = prepared_once(ranks, path, lambda: (prepare(read(path), test=0.0), {}))
        rows = prepared.training_arguments
        gpubp.train(net, **rows, **options, callbacks=[measure], communicator=ranks)
        ranks.sum(taken)
        if ranks.rank == 0:
            print(json.dumps({"taken": taken[0], "rows": prepared.bytes}))


def held_bytes() -> float:
    """Memory of this process; a page that n processes use counts by an n-th for each."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def trained(ranks: int, *options: Any, by: Callable[..., None] = train) -> dict[str, Any]:
    """What a training by so many processes prints; one alone has all cores, of several each has one BLAS thread."""
    program = f"import json, sys\nfrom benchmarks import ranks\nranks.{by.__name__}(*json.loads(sys.argv[1]))"
    command = [sys.executable, "-c", program, json.dumps(options)]
    environment = dict(os.environ)
    if ranks > 1:
        command = [str(HERE) if HERE.exists() else "mpiexec", "-n", str(ranks), *command]
        environment["OPENBLAS_NUM_THREADS"] = "1"
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def agreement(part: Part) -> None:
    """Weights after 50 steps in float64 beside those of one process, twice."""
    options = SMALL, 100, "float64", 5, 10
    alone = trained(1, *options)
    for ranks in (2, 4):
        first, again = (trained(ranks, *options) for _ in range(2))
        difference = float(np.abs(np.subtract(first["theta"], alone["theta"])).max())
        what = f"{ranks} ranks, {first['steps']} steps in float64: largest difference of a weight from one process's"
        part.computed(what, f"<= {TOLERANCE}", f"{difference:.1e}", difference <= TOLERANCE)
        same = first["digest"] == again["digest"]
        part.computed(f"{ranks} ranks: bits of two runs", "the same", "the same" if same else "others", same)


def throughput(part: Part) -> None:
    """Samples a second, in turns."""
    layers, batch, rounds = (SMALL, 100, 1) if part.dry_run else (LARGE, BATCH, ROUNDS)
    options = layers, batch, "float32", 3, 8
    samples, pairs = 8 * batch, []
    for _ in range(rounds):
        pairs.append([samples / min(trained(ranks, *options)["seconds"]) for ranks in (2, 1)])
        if part.left() < 0:
            break
    two, one = np.median(pairs, axis=0)
    low, ratio, high = np.quantile([a / b for a, b in pairs], (0.25, 0.5, 0.75))
    shape, cores, busy = "-".join(map(str, layers)), os.cpu_count(), os.getloadavg()[0]
    what = f"{shape}, {batch // 2} rows a rank: 2 ranks over one process with {cores} cores"
    measured = f"{ratio:.2f} ({low:.2f}-{high:.2f}); {two:,.0f} over {one:,.0f} samples/s, load {busy:.1f}"
    part.timed(what, f">= {BAR}", measured, bool(ratio >= BAR))
    part.figures.append({"what": what, "load": os.getloadavg(), "two ranks, one process": pairs})


def slices(part: Part) -> None:
    """Samples a second of two ranks that add up gradients beside the backward pass, and after it, in turns."""
    layers, batch, rounds = (SMALL, 100, 1) if part.dry_run else (LARGE, BATCH, ROUNDS)
    least, options, pairs = (1 if part.dry_run else data_parallel.FEWEST_IN_SLICE), (layers, batch, "float32", 3, 8), []
    for _ in range(rounds):
        pairs.append([8 * batch / min(trained(2, *options, fewest)["seconds"]) for fewest in (least, 1 << 40)])
        if part.left() < 0:
            break
    low, ratio, high = np.quantile([a / b for a, b in pairs], (0.25, 0.5, 0.75))
    shape, busy = "-".join(map(str, layers)), os.getloadavg()[0]
    what = f"{shape}, {batch // 2} rows a rank: slices of the gradient beside the backward pass over one sum after it"
    part.timed(what, "", f"{ratio:.2f} ({low:.2f}-{high:.2f}); load {busy:.1f}", None)
    part.figures.append({"what": what, "load": os.getloadavg(), "slices, one sum": pairs})


def memory(part: Part) -> None:
    """Bytes that processes take together for a training on a file, over those of its encoded rows."""
    rows = 4000 if part.dry_run else ROWS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.npy")
        X = np.random.default_rng(0).standard_normal((rows, INPUTS + 1), np.float32)
        X[:, INPUTS] = X[:, 0] > 0
        np.save(path, X)
        del X
        for ranks in (1, 2, 4):
            taken = trained(ranks, str(path), by=hold)
            what = f"{taken['rows'] / 1e6:,.0f} MB of encoded rows, {ranks} process{'es' if ranks > 1 else ''}"
            ratio = taken["taken"] / taken["rows"]
            part.timed(
                f"{what}: memory of all together", "", f"{taken['taken'] / 1e6:,.0f} MB, {ratio:.2f} times", None
            )


PARTS: dict[str, Callable[[Part], None]] = {"agreement": agreement, "throughput": throughput}
PARTS |= {"slices": slices, "memory": memory}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure some parts."""
    options = parser_of("ranks", __doc__, FILE, PARTS).parse_args(arguments)
    return measure_parts("ranks", options, FILE, PARTS)


if __name__ == "__main__":
    sys.exit(main())
