"""Figures of the foundation: ``python -m benchmarks.foundation [--only NAME …]``.

Every row is measured when it is run; accuracies are means over seeds 0, 1 and 2. The data (MNIST in IDX
format, housing.csv) are looked for in ``--data``. Published results are the business of ``benchmarks.reproductions``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

import gpubp
from benchmarks.data import pixels
from benchmarks.machine import described
from benchmarks.parts import ResultRow
from benchmarks.process import forget_peak, status
from benchmarks.timing import interleaved
from gpubp.activations import ACTIVATIONS
from gpubp.backends import get_backend
from gpubp.bench.steps import BareGemms, Steps, Workload
from gpubp.bench.timing import ratio
from gpubp.diagnostics.health import HealthWatch
from gpubp.serialization import atomic_write

SEEDS = (0, 1, 2)


def _command(data: Path, *options: str) -> list[dict[str, float]]:
    """``metrics.json``'s test part of ``gpubp train DATA options`` for each seed."""
    tested = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, "-m", "gpubp", "train", str(data), *options]
            command += ["--seed", str(seed), "--out", out, "--quiet"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            tested.append(json.loads((Path(out) / "metrics.json").read_text())["test"])
    return tested


def gradients(data: Path) -> list[ResultRow]:
    """Complex-step check of every activation with three losses at depths 1, 2 and 4."""
    worst = 0.0
    rng = np.random.default_rng(0)
    X = rng.standard_normal((7, 4))
    for activation in ACTIVATIONS:
        for loss, y in (
            ("cross_entropy", rng.integers(0, 3, 7)),
            ("binary_cross_entropy", rng.integers(0, 2, (7, 3))),
            ("half_squared_error", rng.standard_normal((7, 3))),
        ):
            for hidden in ([], [5], [5, 4, 4]):
                net = gpubp.MLP([4, *hidden, 3], activation, loss=loss, precision="float64")
                worst = max(worst, *gpubp.check_gradients(net, X, y, l2=0.1).errors.values())
    return [ResultRow("complex-step gradient error, worst", "<= 1e-13", f"{worst:.1e}", worst <= 1e-13)]


def mnist(data: Path) -> list[ResultRow]:
    """The command line on MNIST."""
    rows = []
    for options, bar in (
        (("--hidden", "100", "--epochs", "10"), 0.972),
        (("--hidden", "512,512", "--dropout", "0.2", "--epochs", "15"), 0.984),
    ):
        accuracies = [test["accuracy"] for test in _command(data / "mnist", *options)]
        mean = float(np.mean(accuracies))
        each = ", ".join(f"{a:.2%}" for a in accuracies)
        rows.append(ResultRow(f"MNIST {' '.join(options)}", f">= {bar:.1%}", f"{mean:.2%} ({each})", mean >= bar))
    return rows


def housing(data: Path) -> list[ResultRow]:
    """The command line on the housing table."""
    options = ("--target", "median_house_value", "--hidden", "256,256", "--epochs", "60")
    errors = [test["rmse"] for test in _command(data / "housing.csv", *options)]
    mean = float(np.mean(errors))
    each = ", ".join(f"{e:,.0f}" for e in errors)
    return [ResultRow("housing 256,256, 60 epochs, RMSE", "<= 52,700", f"{mean:,.0f} ({each})", mean <= 52_700)]


def epoch_time(data: Path) -> list[ResultRow]:
    """Seconds per epoch on MNIST against scikit-learn, three epochs each, by turns."""
    from sklearn.neural_network import MLPClassifier

    X, y, _, _ = pixels(data / "mnist")

    def ours() -> None:
        gpubp.train(gpubp.MLP([784, 100, 10], device="cpu"), X, y, batch_size=200, epochs=3)

    def theirs() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            MLPClassifier((100,), batch_size=200, max_iter=3, alpha=0.0, random_state=0).fit(X, y)

    seconds = interleaved({"gpubp": ours, "sklearn": theirs}, rounds=5, warm_up=1)
    times = ratio(seconds["gpubp"], seconds["sklearn"])
    each = " against ".join(f"{np.median(v) / 3:.2f} s" for v in seconds.values())
    return [
        ResultRow(
            "seconds per epoch, (100,), batch 200, over scikit-learn's",
            "<= 1.0",
            f"{times}; {each}",
            times.median <= 1.0,
        )
    ]


def step_time(data: Path) -> list[ResultRow]:
    """A step with plain gradient descent over the bare GEMMs of the same step."""
    rows = []
    for workload, bar in (
        (Workload((784, 512, 512, 10), 128, 8), 1.6),
        (Workload((784, 1024, 1024, 1024, 10), 256, 8), 1.4),
    ):
        backend = get_backend("cpu")
        step, gemms = Steps(workload, backend, "sgd"), BareGemms(workload, backend)
        functions = {"step": partial(step.run, 1), "gemms": partial(gemms.run, 1)}
        seconds = interleaved(functions, rounds=200, warm_up=20)
        times = ratio(seconds["step"], seconds["gemms"])
        each = " over ".join(f"{np.median(v) * 1e3:.2f} ms" for v in seconds.values())
        what = f"sgd step {workload.name} over bare GEMMs"
        rows.append(ResultRow(what, f"<= {bar}", f"{times}; {each}", times.median <= bar))
    return rows


def diagnostics_time(data: Path) -> list[ResultRow]:
    """What a look at the layers adds to an epoch on MNIST, by turns."""
    X, y, _, _ = pixels(data / "mnist")
    net = gpubp.MLP([784, 512, 512, 10], device="cpu")
    history = gpubp.train(net, X[:256], y[:256], epochs=1)
    watch = HealthWatch(net.stack, *net.stack.checked(X, y))
    functions = {
        "look": lambda: watch(net, history),
        "epoch": lambda: gpubp.train(net, X, y, epochs=1),
    }
    seconds = interleaved(functions, rounds=5, warm_up=1)
    share = ratio(seconds["look"], seconds["epoch"])
    each = " of ".join(f"{np.median(v):.3f} s" for v in seconds.values())
    what = "diagnostics, part of an epoch, 784-512-512-10"
    return [ResultRow(what, "<= 3 %", f"{share.median:.2%}; {each}", share.median <= 0.03)]


def memory(data: Path) -> list[ResultRow]:
    """Peak memory of train() above a fresh process that holds the float32 data."""
    probe = subprocess.run(
        [sys.executable, "-m", "benchmarks.foundation", "--data", str(data), "--probe-memory"],
        check=True,
        capture_output=True,
        text=True,
    )
    megabytes = float(probe.stdout)
    return [ResultRow("peak memory of train, MNIST 784-512-512-10", "<= 60 MB", f"{megabytes:.0f} MB", megabytes <= 60)]


def probe_memory(data: Path) -> float:
    """MB that one epoch adds to this process's resident memory at its peak, once the data are loaded."""
    X, y, _, _ = pixels(data / "mnist")
    gpubp.train(gpubp.MLP([784, 1, 10], device="cpu"), X[:256], y[:256], epochs=1)  # loads what any training needs
    forget_peak()
    before = status("VmRSS")
    gpubp.train(gpubp.MLP([784, 512, 512, 10], device="cpu"), X, y, epochs=1)
    return (status("VmHWM") - before) / 2**20


PARTS: dict[str, Callable[[Path], list[ResultRow]]] = {
    "gradients": gradients,
    "mnist": mnist,
    "housing": housing,
    "epoch": epoch_time,
    "step": step_time,
    "diagnostics": diagnostics_time,
    "memory": memory,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.foundation", description=__doc__)
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default, help="folder with mnist/ and housing.csv")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, help="also keep the rows and the machine in this file")
    parser.add_argument("--probe-memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.probe_memory:
        print(probe_memory(options.data))
        return 0
    about = described()
    print("; ".join(about.values()), flush=True)
    parts: dict[str, list[ResultRow]] = {}
    for name in options.only:
        start = time.perf_counter()
        parts[name] = PARTS[name](options.data)
        for row in parts[name]:
            print(f"{'ok  ' if row.met else 'MISS'} {row.what:<58} {row.asked:<18} {row.measured}", flush=True)
        print(f"     ({name}: {time.perf_counter() - start:.0f} s)", flush=True)
    if options.json:
        _merge(options.json, about, parts)
    return 0 if all(row.met for rows in parts.values() for row in rows) else 1


def _merge(path: Path, about: dict[str, str], parts: dict[str, list[ResultRow]]) -> None:
    """Replace the parts measured now in the file; the others stay, if they are of the same machine."""
    known = json.loads(path.read_text()) if path.is_file() else {}
    others = known["parts"] if known.get("machine") == about else {}
    measured = {name: [asdict(row) for row in rows] for name, rows in parts.items()}
    ordered = {name: rows for name in PARTS if (rows := measured.get(name, others.get(name)))}
    atomic_write(path, (json.dumps({"machine": about, "parts": ordered}, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
