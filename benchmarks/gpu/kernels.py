"""Stage ``kernels``: bytes per second of each kernel, against the device's copy rate and CuPy's own kernels."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.devices import open_backend
from benchmarks.gpu.kernel_cases import Case, Cases
from benchmarks.gpu.settings import Settings
from benchmarks.parts import Part
from benchmarks.peers import UnavailableError
from benchmarks.peers.floors import copied
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.driver import Driver

PRECISIONS = ("float32", "bfloat16")
ROUNDS, LAUNCHES = 20, 20  # turns of everyone; launches in a turn
A_CASE = 0.5  # seconds: with less left, none is begun


def kernels(part: Part, settings: Settings) -> None:
    """A row for each kernel and precision."""
    for precision in settings.chosen_precisions(PRECISIONS):
        backend = open_backend("cuda", precision, part.dry_run)
        assert isinstance(backend, CudaBackend)
        for case in Cases(backend, copied(part.dry_run)):
            if not part.dry_run and part.left() < A_CASE:
                return part.skipped(
                    f"{precision} {case.name} and what follows", "no time left in this stage", "bandwidth"
                )
            _measure(part, precision, backend, case, settings.rounds or ROUNDS)


def _bar_of(case: Case) -> str:
    """Of kernels whose arithmetic is longer than a comparison, less is asked in 16 bits."""
    if not case.asked:
        return ""
    return "bandwidth-activations" if case.name.endswith((" tanh", " gelu")) else "bandwidth"


def _measure(part: Part, precision: str, backend: CudaBackend, case: Case, rounds: int) -> None:
    driver = backend.driver
    source = backend.zeros((copied(part.dry_run) // 4,), np.float32)
    target = backend.zeros(source.shape, np.float32)

    def copy() -> None:
        target[...] = source

    repeats = 1 if part.dry_run else LAUNCHES
    runs = {"copy": repeated(copy, repeats), "kernel": driver.capture(repeated(case.launch, repeats))}
    figure: dict[str, Any] = {"precision": precision, "kernel": case.name, "bytes": case.nbytes}
    if case.rung_of is not None:
        try:
            runs["cupy"] = repeated(_tried(case.rung_of()), repeats)
        except UnavailableError as error:
            figure["cupy skipped"] = str(error)
        except Exception as error:  # CuPy's own kernels may not know a type; ours is measured all the same
            figure["cupy failed"] = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    seconds = by_turns(driver, runs, 1 if part.dry_run else rounds, part.dry_run)
    moved = {"copy": 2 * source.nbytes, "kernel": case.nbytes, "cupy": case.nbytes}
    rates = {name: moved[name] * repeats / values for name, values in seconds.items()}
    middle = {name: float(np.median(rate)) / 1e9 for name, rate in rates.items()}
    low, fraction, high = np.percentile(rates["kernel"] / rates["copy"], [25, 50, 75])
    figure |= {"GB/s": middle, "of the copy rate": [low, fraction, high]}
    part.figures.append(figure)
    rung = f"; CuPy's own {middle['cupy'] / middle['copy']:.0%}" if "cupy" in middle else ""
    part.timed(
        what=f"{precision} {case.name}: of the copy rate",
        asked=f">= {case.asked:.0%}" if case.asked else "",
        measured=f"{fraction:.0%} ({low:.0%}-{high:.0%}; {middle['kernel']:,.0f} GB/s of {middle['copy']:,.0f}){rung}",
        met=fraction >= case.asked if case.asked else None,
        bar=_bar_of(case),
    )


def repeated(run: Callable[[], None], times: int) -> Callable[[], None]:
    """`run` so many times."""

    def several() -> None:
        for _ in range(times):
            run()

    return several


def _tried(run: Callable[[], None]) -> Callable[[], None]:
    """`run`, after a first call of it, in which CuPy compiles."""
    run()
    return run


def by_turns(
    driver: Driver, runs: Mapping[str, Callable[[], None]], rounds: int, dry_run: bool
) -> dict[str, NDArray[np.float64]]:
    """Seconds of each, (rounds,), after three turns that are not measured; a dry run goes without."""
    clock, before = (_on_the_host, 0) if dry_run else (_between_events, 3)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(before + rounds):
        for name, run in runs.items():
            seconds[name].append(clock(driver, run))
    return {name: np.array(values[before:]) for name, values in seconds.items()}


def _between_events(driver: Driver, run: Callable[[], None]) -> float:
    """On the default stream, with which the driver's stream keeps in order."""
    import cupy

    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    driver.synchronize()
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(start, end)) / 1e3


def _on_the_host(driver: Driver, run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    driver.synchronize()
    return time.perf_counter() - start
