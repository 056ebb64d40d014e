"""The promises of docs/promises.md, measured: ``python -m benchmarks.promises`` writes the page.

Each promise names the tests that hold it. What this command does not measure is printed as such, with the reason.
``--only leak`` measures those whose text has these words, and keeps the page's other lines; what takes longer than some
minutes is measured only so. ``--share 0.01`` measures a hundredth of it, to try.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

import gpubp
from benchmarks import corpora, load
from benchmarks.audit import Watch
from benchmarks.coverage import WHOLE
from benchmarks.mutants import TESTS
from gpubp import GpubpError, serialization
from gpubp.activations import ACTIVATIONS
from gpubp.backends.blas_threads import cpu_count
from gpubp.backends.reference import NumpyNamespace
from gpubp.losses import LOSSES, get_loss
from gpubp.optimizers import OPTIMIZERS
from gpubp.serialization import atomic_write

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "tests")]  # for the corpora and the helpers of the tests, behind what is installed
PAGE = ROOT / "docs" / "promises.md"
RESULTS = ROOT / "benchmarks" / "results"
HEAD = """# Promises

What gpubp promises, the figure that stands behind it, and the tests that hold it. `python -m benchmarks.promises`
measures the figures and writes this page; what it does not measure is said to be so.
"""
XP = NumpyNamespace()
NOT_MEASURED = "not measured"
FUZZED = 200_000  # executions that are asked for of each format
# Of inputs: from 0 and the least subnormal numbers to the largest finite ones.
SIZES = (0.0, -0.0, 5e-324, 2.0**-149, 1e-38, 1e-8, 1e8, 1e20, 3.4e38, 1e160, 1.7976931348623157e308)


@dataclass(frozen=True)
class Promise:
    """What is promised, and how it is known.

    Attributes
    ----------
    text : str
    tests : str
        Where the tests are that hold it.
    measure : callable or None
        Of the share of the full measurement that is asked for: the figure. None for what this command cannot measure.
    why : str
        Why it is not measured.
    long : bool
        Whether it is measured only where it is asked for by ``--only``.
    """

    text: str
    tests: str
    measure: Callable[[float], str] | None
    why: str = ""
    long: bool = False


def silent_bit_flips(count: int, seed: int = 0) -> int:
    """How many flips of one bit of a model file change what is loaded without an error."""
    generator, silent = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.safetensors")
        gpubp.MLP([20, 30, 3], seed=1, device="cpu-reference").save(path)
        whole, (tensors, metadata) = path.read_bytes(), serialization.load(path)
        for _ in range(count):
            damaged, bit = bytearray(whole), generator.randrange(8 * len(whole))
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            try:
                read, about = serialization.load(path)
            except GpubpError:
                continue
            same = about == metadata and read.keys() == tensors.keys()
            silent += not (same and all(np.array_equal(read[name], tensors[name]) for name in tensors))
    return silent


def silent_trainings(count: int, seed: int = 0) -> int:
    """How many random small trainings return outputs that are not finite without a word."""
    rng, silent = np.random.default_rng(seed), 0
    for _ in range(count):
        rows, columns = int(rng.integers(1, 40)), int(rng.integers(1, 6))
        loss = str(rng.choice(list(LOSSES)))
        outputs = int(rng.integers(2, 4)) if loss == "cross_entropy" else int(rng.integers(1, 3))
        X = rng.normal(size=(rows, columns)) * 10.0 ** rng.integers(-6, 7)
        y = _targets(rng, loss, rows, outputs)
        net = gpubp.MLP(
            [columns, *[int(rng.integers(1, 9))] * int(rng.integers(0, 4)), outputs],
            str(rng.choice(list(ACTIVATIONS))),
            loss,
            seed=int(rng.integers(1000)),
            device="cpu-reference",
            precision=str(rng.choice(["float32", "float64"])),
        )
        with np.errstate(all="ignore"):
            try:
                history = gpubp.train(
                    net,
                    X,
                    y,
                    optimizer=str(rng.choice(list(OPTIMIZERS))),
                    learning_rate=10.0 ** float(rng.uniform(-4, 25)),
                    schedule=None,
                    epochs=int(rng.integers(1, 4)),
                    batch_size=int(rng.integers(1, rows + 1)),
                    validation_data=(X, y) if rng.random() < 0.3 else None,
                )
            except GpubpError:
                continue
            said = history.stopped == "diverged"
            silent += not said and not (np.isfinite(net.forward(X)).all() and np.isfinite(net.theta).all())
    return silent


def silent_extremes(share: float, seed: int = 0) -> tuple[int, int]:
    """How many trainings on inputs at the ends of the numbers return what is not finite unsaid, and of how many.

    Every activation, loss and precision has every size of inputs once, each with the next of the optimizers.
    """
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], (12, 3))
    cases = list(product(ACTIVATIONS, LOSSES, ("float32", "float64"), SIZES))[:: max(1, round(1 / share))]
    silent = 0
    for (activation, loss, precision, size), optimizer in zip(cases, cycle(OPTIMIZERS), strict=False):
        outputs = 2 if loss == "cross_entropy" else 1
        net = gpubp.MLP([3, 4, outputs], activation, loss, seed=0, device="cpu-reference", precision=precision)
        y = _targets(rng, loss, len(signs), outputs)
        try:
            gpubp.train(net, signs * size, y, optimizer=optimizer, epochs=2, batch_size=5)
        except GpubpError:
            silent += not np.isfinite(net.theta).all()
        else:
            silent += not (np.isfinite(net.theta).all() and np.isfinite(net.forward(signs * size)).all())
    return silent, len(cases)


def _targets(rng: np.random.Generator, loss: str, rows: int, outputs: int) -> np.ndarray:
    record = get_loss(loss)
    if record.integer_targets:
        return rng.integers(0, outputs, rows)
    if record.classification:
        return rng.integers(0, 2, (rows, outputs)).astype(float)
    return rng.poisson(2.0, (rows, outputs)) * (1.0 if record.targets[0] == 0 else rng.normal())


def mixed_runs_after_kills(kills: int, seed: int = 0) -> tuple[int, int]:
    """How many of so many kills of a process that overwrites a run leave files of two, and what litter is left."""
    from tests.cli.test_run_folder import FILES, runs_in, write

    generator, mixed = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "run")
        write(folder, 0)
        Path(folder, "mine").touch()
        for _ in range(kills):
            writer = os.fork()
            if not writer:
                while True:
                    write(folder, generator.randrange(10**6))
            time.sleep(generator.uniform(0, 0.04))
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
            mixed += len(runs_in(folder)) > 1
        write(folder, 1)
        litter = {path.name for path in folder.iterdir()} - {"mine", *FILES}
        return mixed, len(litter) + len(list(Path(place).iterdir())) - 1


def audited_events(files: int, seed: int = 0) -> int:
    """How many events by which a file could run code are seen while damaged model files are loaded."""
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.safetensors")
        gpubp.MLP([3, 4, 2], device="cpu-reference").save(path)
        gpubp.MLP.load(path, device="cpu-reference")  # which imports what loading needs
        whole = path.read_bytes()
        _WATCH.events, _WATCH.listens = [], True
        sys.addaudithook(_WATCH)
        for _ in range(files):
            damaged = bytearray(whole)
            for _ in range(generator.randrange(1, 9)):
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
            path.write_bytes(damaged)
            with suppress(GpubpError):
                gpubp.MLP.load(path, device="cpu-reference")
        _WATCH.listens = False
    return len(_WATCH.events)


_WATCH = Watch()


def tracebacks_of_metadata(share: float) -> tuple[int, int]:
    """How many changes of the metadata of model files end in another error than a GpubpError, and of how many."""
    from tests.support.damaged_metadata import metadata_of, save_with, variants

    count, wrong = 0, 0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("format-1-price", "format-2-quality", "format-3-price", "format-3-quality"):
            original, damaged = ROOT / f"tests/golden/{name}.safetensors", Path(folder, "m.safetensors")
            for what, metadata in islice(variants(metadata_of(original)), 0, None, max(1, round(1 / share))):
                if not what.startswith("format"):
                    save_with(damaged, original, metadata)
                    count += 1
                    wrong += _ends_in_a_traceback(damaged)
    return wrong, count


def _ends_in_a_traceback(path: Path) -> bool:
    rows = ROOT / "tests" / "golden" / "rows.csv"
    try:
        gpubp.load(path, "cpu-reference").predict(rows)
    except GpubpError:
        return False
    except Exception:
        return True
    return False


def largest_error_of_losses() -> tuple[float, str]:
    """The largest error of a loss in float64, in ulp of the truth at 400 digits, and of which loss."""
    logits = [s * z for z in (0.0, 1e-8, 0.3, 1.0, 16.0, 37.0, 88.0, 104.0, 709.0, 1e4) for s in (1.0, -1.0)]
    worst = (0.0, "")
    with mpmath.workdps(400), np.errstate(all="ignore"):
        for name, truth in _TRUTHS.items():
            for z, t in product(logits, (0.0, 1.0)):
                if name == "poisson" and z > 700:
                    continue
                value, _ = get_loss(name).formula(XP, np.array([[z]]), np.array([[t]]), 0.0)
                worst = max(worst, (_ulps(float(value[0, 0]), truth(mpmath.mpf(z), mpmath.mpf(t))), name))
        for z, c in product(logits, (0, 1)):
            value, _ = get_loss("cross_entropy").formula(XP, np.array([[z, 0.0]]), np.array([c]), 0.0)
            exact = mpmath.log1p(mpmath.exp(mpmath.mpf(-z if c == 0 else z)))
            worst = max(worst, (_ulps(float(value[0]), exact), "cross_entropy"))
    return worst


_TRUTHS: dict[str, Callable[[Any, Any], Any]] = {
    "half_squared_error": lambda z, t: (z - t) ** 2 / 2,
    "absolute_error": lambda z, t: abs(z - t),
    "huber": lambda z, t: (z - t) ** 2 / 2 if abs(z - t) <= 1 else abs(z - t) - mpmath.mpf(0.5),
    "quantile(0.25)": lambda z, t: (z - t) * (mpmath.mpf(0.75) if z > t else mpmath.mpf(-0.25)),
    "poisson": lambda z, t: mpmath.exp(z) - t * z,
    "binary_cross_entropy": lambda z, t: mpmath.log1p(mpmath.exp(z)) - t * z,
}


def _ulps(value: float, truth: Any) -> float:
    """An error in ulp of the truth, where that is a normal number."""
    if abs(truth) < np.finfo(np.float64).tiny:
        return 0.0
    return float(abs(mpmath.mpf(value) - truth) / mpmath.mpf(float(np.spacing(abs(float(truth))))))


def _count(total: int, share: float) -> int:
    return max(2, round(total * share))


def _kills(share: float) -> str:
    kills = _count(1000, share)
    mixed, litter = mixed_runs_after_kills(kills)
    return f"{mixed} of {kills:,} kills left files of two runs, {litter} leftovers after the next write"


def _metadata(share: float) -> str:
    wrong, count = tracebacks_of_metadata(share)
    return f"{wrong} of {count:,} changed entries end in a traceback"


def _growth(share: float) -> str:
    fits = _count(10_000, share)
    more = load.growth(fits)
    return f"{more.megabytes:.1f} MB, {more.files} files and {more.threads} threads more after {fits:,} fits"


def _bits(share: float) -> str:
    differing = load.differing_bits(load.WAYS if share == 1 else load.WAYS[:1])
    return (
        f"{sum(differing.values())} trainings differ, with an empty and a full cache of loops: {', '.join(differing)}"
    )


def _tables(_: float) -> str:
    counts = {outcome: len(tables) for outcome, tables in corpora.tables_read().items()}
    return f"{counts['wrong']} of {sum(counts.values())} silent: {counts['right']} right, {counts['refused']} refused"


def _hostile_files(share: float) -> str:
    said = corpora.hostile_files_read(_count(30, share))
    unpacked, megabytes = "zeros.csv.gz", said["megabytes"]
    most = max(megabytes.keys() - {unpacked}, key=lambda name: megabytes[name])
    return (
        f"of {said['files']} files {len(said['tracebacks'])} end in a traceback, {len(said['events'])} audit events; "
        f"one takes {megabytes[most]:.0f} MB at most ({most}), and {megabytes[unpacked]:.0f} MB the one that unpacks "
        "to 336 MB of text before it is refused"
    )


def _fuzzing(_: float) -> str:
    """The run of ``python -m benchmarks.fuzzing`` that is kept."""
    counts = json.loads((RESULTS / "fuzzing.json").read_text(encoding="utf-8"))
    executions = {name: count["executions"] for name, count in counts.items()}
    fewest = min(executions, key=lambda name: executions[name])
    failures, mended = (sum(count.get(what, 0) for count in counts.values()) for what in ("failures", "mended"))
    figure = (
        f"{failures} failures{f', after {mended} mended,' if mended else ''} "
        f"in {sum(executions.values()):,} executions of {len(counts)} formats, by atheris; the fewest "
        f"{executions[fewest]:,} ({fewest})"
    )
    short = [name for name, count in executions.items() if count < FUZZED]
    if short:
        figure += f"; {FUZZED:,} each were asked for, and time was short for {len(short)} of them"
    return figure


def _mutants(_: float) -> str:
    """The runs of ``python -m benchmarks.mutants`` that are kept."""
    modules = json.loads((RESULTS / "mutants.json").read_text(encoding="utf-8"))
    tested = {module: counts for module, counts in modules.items() if counts["tested"]}
    killed, all_tested = (sum(counts[what] for counts in tested.values()) for what in ("killed", "tested"))
    equivalent = {module: _equivalent(counts) for module, counts in tested.items()}
    untested = len(TESTS.keys() - tested.keys())
    below = [
        f"{module} {counts['killed']} of {counts['tested'] - equivalent[module]}"
        for module, counts in tested.items()
        if counts["killed"] < 0.9 * (counts["tested"] - equivalent[module])
    ]
    return (
        f"{killed:,} of {all_tested:,} are noticed, a sample of those of {len(tested)} modules; "
        f"{sum(equivalent.values())} cannot be, since they compute what the module does; below 90 % of those that can "
        f"be are {', '.join(below) or 'none'}; those that survived are listed in benchmarks/results/mutants.json"
        + (f"; the other {untested} modules are not measured" if untested else "")
    )


def _equivalent(counts: Mapping[str, Any]) -> int:
    """How many of the mutants that survived compute what the module does, as was written beside them by hand."""
    return sum(reason.startswith("equivalent") for reason in counts["survivors"].values())


def _coverage(_: float) -> str:
    """The run of ``python -m benchmarks.coverage`` that is kept."""
    said = json.loads((RESULTS / "coverage.json").read_text(encoding="utf-8"))
    unseen = sum(module["lines"] for module in said["unseen"].values())
    missed = [name for name in WHOLE if name in said["modules"] and said["modules"][name]["percent"] < 100]
    figure = (
        f"{said['every_branch_covered']} of the {said['every_branch_asked_for']} modules where every one was asked for"
    )
    figure += f", not {', '.join(missed)}" if missed else ""
    figure += f"; of gpubp {said['percent']} % of lines and branches, {said['percent_of_branches']} % of branches"
    if all(" tests/" in command for command in said["tests"]):
        figure += ", by the tests of these modules alone: the whole suite, of which 95 % are asked, is not measured"
    else:
        figure += f", by {' and '.join(f'`{command.strip()}`' for command in said['tests'])}"
    return f"{figure}; {unseen:,} lines are left out, which Numba compiles"


def _extremes(share: float) -> str:
    silent, count = silent_extremes(share)
    return f"{silent} of {count:,} trainings on subnormal to largest finite inputs return what is not finite unsaid"


def _losses(_: float) -> str:
    error, name = largest_error_of_losses()
    return f"{error:.1f} ulp at most ({name})"


def cost_of_threads(rounds: int) -> float:
    """Seconds of a training as it comes over those with one BLAS thread, by turns, while every core is kept busy."""
    X, y = load_digits(return_X_y=True)

    def seconds(threads: int | None) -> float:
        net = gpubp.MLP([64, 128, 10], device="cpu-reference", seed=0)
        with threadpool_limits(threads, user_api="blas"):
            start = time.perf_counter()
            gpubp.train(net, X / 16, y, batch_size=128, epochs=20)
            return time.perf_counter() - start

    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cpu_count())]
    try:
        ratios = [seconds(None) / seconds(1) for _ in range(rounds)]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return float(np.median(ratios))


PROMISES = (
    Promise(
        "A model file in which a bit has changed is refused",
        "tests/test_serialization.py",
        lambda share: f"{silent_bit_flips(_count(1000, share))} of {_count(1000, share):,} flips are silent",
    ),
    Promise(
        "Metadata that do not fit together are named, and end in no traceback",
        "tests/tabular/test_damaged_metadata.py",
        _metadata,
    ),
    Promise(
        "Loading runs no code",
        "tests/test_model_files.py, tests/test_architecture.py",
        lambda share: f"{audited_events(_count(2000, share))} audit events in {_count(2000, share):,} damaged files",
    ),
    Promise("A run folder holds files of one run, and no litter stays", "tests/cli/test_run_folder.py", _kills),
    Promise(
        "No training returns a network or outputs that are not finite unsaid",
        "tests/training/test_divergence.py",
        lambda share: (
            f"{silent_trainings(_count(10_000, share))} of {_count(10_000, share):,} random trainings "
            "on the reference backend"
        ),
    ),
    Promise(
        "Numbers of every kind and size train as their values, or are refused by name",
        "tests/training/test_numbers.py",
        _extremes,
    ),
    Promise("Losses are right to the last digits in float64", "tests/test_losses.py", _losses),
    Promise(
        "Trainings leave no memory, files or threads behind",
        "tests/training/test_load.py",
        _growth,
        "it takes ten minutes",
        long=True,
    ),
    Promise(
        "A damaged file in the cache of compiled loops is compiled anew",
        "tests/backends/test_compiled.py",
        None,
        "the tests damage every file in four ways",
    ),
    Promise("Tables are read right, or refused by name", "tests/data/test_corpora.py", _tables),
    Promise(
        "Hostile and damaged files are refused by name, run no code and take no memory that they do not declare",
        "tests/data/test_corpora.py",
        _hostile_files,
    ),
    Promise("Readers withstand fuzzing", "tests/data/test_fuzzing.py", _fuzzing),
    Promise("Tests notice mutants", "none", _mutants),
    Promise("Every branch is covered", "none", _coverage),
    Promise(
        "On a CPU, two threads or processes get the bits of one",
        "tests/training/test_load.py, tests/backends/test_compiled.py",
        _bits,
        "it compiles all loops again and again",
        long=True,
    ),
    Promise(
        "On a busy machine the threads of BLAS cost small networks half again at most",
        "tests/backends/test_blas_threads.py",
        lambda share: f"{cost_of_threads(_count(5, share)):.2f} of the time of one thread, digits by `cpu-reference`",
    ),
)


def measured(share: float, only: Sequence[str] = ()) -> dict[str, str]:
    """The lines of the promises that are asked for, by their texts."""
    lines = {}
    for promise in PROMISES:
        if any(words in promise.text for words in only) if only else not promise.long:
            figure = promise.measure(share) if promise.measure else f"{NOT_MEASURED}: {promise.why}"
            print(f"{promise.text}: {figure}", flush=True)
            lines[promise.text] = f"| {promise.text} | {figure} | {promise.tests} |"
    return lines


def page(lines: Mapping[str, str], earlier: str) -> str:
    """The page with these lines, and for all other promises those of an earlier page."""
    kept = {line.split(" | ")[0].removeprefix("| "): line for line in earlier.splitlines() if " | " in line}
    rows = [
        lines.get(
            promise.text,
            kept.get(promise.text, f"| {promise.text} | {NOT_MEASURED}: {promise.why} | {promise.tests} |"),
        )
        for promise in PROMISES
    ]
    return "\n".join([HEAD, "| promise | figure | tests |", "|---|---|---|", *rows]) + "\n"


def main() -> None:
    """Measure, and write the page; with a share below 1, print it alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--only", nargs="+", default=(), metavar="WORDS")
    asked = parser.parse_args()
    lines = measured(asked.share, asked.only)
    if asked.share == 1:
        atomic_write(PAGE, page(lines, PAGE.read_text(encoding="utf-8")).encode())


if __name__ == "__main__":
    main()
