"""Many fits in one process, and several at once: what they leave behind, and whether they have the bits of one."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

import gpubp

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2, 3)  # of the trainings that run at once, each with another order of rows
WAYS = ("one by one", "threads", "forked processes", "joblib with loky", "joblib with multiprocessing")


class Held(NamedTuple):
    """What a process holds, or how much more it does: resident memory in MB, open files, threads."""

    megabytes: float
    files: int
    threads: int


def held() -> Held:
    """What this process holds now."""
    gc.collect()
    try:
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
        return Held(memory, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")))
    except OSError:  # no Linux
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        return Held(memory, 0, threading.active_count())


def growth(fits: int) -> Held:
    """How much more a process holds after so many small fits of four kinds, the first tenth of them left out."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_growth, fits).result()


def _growth(fits: int) -> Held:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 4)), rng.integers(0, 2, 30)
    before = held()
    with tempfile.TemporaryDirectory() as folder:
        kinds = (_fit_on("cpu-reference"), _fit_on("cpu"), _fit_an_estimator, _fit_from_a_file(Path(folder, "net")))
        for number in range(fits):
            if number == fits // 10:
                before = held()
            kinds[number % len(kinds)](X, y, number)
        after = held()
    return Held(*(now - then for now, then in zip(after, before, strict=True)))


def _fit_on(device: str) -> Callable[[np.ndarray, np.ndarray, int], None]:
    def fit(X: np.ndarray, y: np.ndarray, seed: int) -> None:
        net = gpubp.MLP([4, 5, 2], seed=seed, device=device)
        gpubp.train(net, X, y, epochs=1, batch_size=8, validation_data=(X, y), patience=1)

    return fit


def _fit_an_estimator(X: np.ndarray, y: np.ndarray, seed: int) -> None:
    gpubp.MLPClassifier((5,), random_state=seed, device="cpu-reference").partial_fit(X, y, classes=[0, 1]).predict(X)


def _fit_from_a_file(path: Path) -> Callable[[np.ndarray, np.ndarray, int], None]:
    def fit(X: np.ndarray, y: np.ndarray, seed: int) -> None:
        gpubp.MLP([4, 5, 2], seed=seed, device="cpu-reference").save(path)
        net = gpubp.MLP.load(path, device="cpu-reference")
        gpubp.train(net, X, y, epochs=1, batch_size=8)

    return fit


def weights_digest(seed: int) -> str:
    """A digest of the weights after a small training on compiled loops."""
    rng = np.random.default_rng(seed)
    net = gpubp.MLP([6, 16, 3], device="cpu", seed=seed)
    X, y = rng.standard_normal((200, 6)), rng.integers(0, 3, 200)
    gpubp.train(net, X, y, batch_size=16, epochs=5, seed=seed, dropout=0.1)
    return hashlib.sha256(net.theta.tobytes() + net.forward(X).tobytes()).hexdigest()[:16]


def digests(way: str) -> list[str]:
    """The digest of each of SEEDS, computed in this process in one of WAYS."""
    if way == "one by one":
        return [weights_digest(seed) for seed in SEEDS]
    if way.startswith("joblib"):
        from joblib import Parallel, delayed

        return list(Parallel(2, backend=way.split()[-1])(delayed(weights_digest)(seed) for seed in SEEDS))
    if way == "threads":
        pool: Executor = ThreadPoolExecutor(2)
    else:
        weights_digest(0)  # so that this process has compiled loops, and threads of BLAS, when it is forked
        pool = ProcessPoolExecutor(2, multiprocessing.get_context("fork"))
    with pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which is what is tried here
        return list(pool.map(weights_digest, SEEDS))


def differing_bits(ways: Sequence[str] = WAYS) -> dict[str, int]:
    """How many of SEEDS end with other bits than one by one, of each way to run at once.

    Each way, and two processes that know nothing of each other, begin with an empty cache of compiled loops, and go
    through it a second time with a full one.
    """
    expected = _in_new_processes("one by one", 1)[0]
    differing = {}
    for way, processes in [*((way, 1) for way in ways), ("one by one", 2)]:
        runs = _in_new_processes(way, processes)
        name = "two processes at once" if processes > 1 else way
        differing[name] = sum(got != truth for run in runs for got, truth in zip(run, expected, strict=True))
    return differing


def _in_new_processes(way: str, count: int) -> list[list[str]]:
    """What so many processes print that begin at once, twice: with an empty cache, and with what it holds then."""
    printed = []
    with tempfile.TemporaryDirectory() as cache:
        keys = {"XDG_CACHE_HOME": cache, "LOCALAPPDATA": cache, "HOME": cache}
        environment = {**os.environ, **keys, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.load", way]
        for _ in range(2):
            processes = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(count)]
            outputs = [process.communicate(timeout=600)[0].decode() for process in processes]
            if any(process.returncode for process in processes):
                raise RuntimeError(f"{way}: a process ended with {[process.returncode for process in processes]}")
            printed += [output.split() for output in outputs]
    return printed


if __name__ == "__main__":
    print(*digests(sys.argv[1]))
