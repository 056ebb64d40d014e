"""Part ``products`` of the figures of a CPU: steps whose small products are loops of gpubp's own, against NumPy's."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.contest import environment
from benchmarks.parts import Part
from benchmarks.peers import UnavailableError
from benchmarks.remote import Remote, RemoteError
from benchmarks.stack_cases import StackWorkload
from gpubp.backends.compiled import CompiledBackend, numba_state
from gpubp.backends.compiled.small_products import widest_register
from gpubp.backends.reference import ReferenceBackend
from gpubp.bench.steps import Steps, Workload
from gpubp.bench.timing import ratio, spread

SMALL = Workload((64, 64, 64, 10), 32, 56)
STACK = StackWorkload((64, 64, 64, 10), 32, 56, models=256)
WORKLOADS = (
    *((SMALL, "float32"), (SMALL, "float64")),
    *((Workload((30, 100, 1), 32, 56), "float32"), (Workload((30, 100, 1), 32, 56), "float64")),
    *((Workload((20, 32, 3), 16, 56), "float32"), (STACK, "float32")),
)
TINY = ((Workload((8, 16, 16, 4), 8, 4), "float32"), (StackWorkload((8, 16, 16, 4), 8, 4, models=3), "float32"))
OVER_NUMPYS_AT_MOST = {(SMALL, "float32"): 0.8}
MICROSECONDS_AT_MOST = {(STACK, "float32"): 10.0}  # of a step of one network, on all cores
ROUNDS, TURN = 201, 0.004  # seconds of a turn: about as long as one program runs where several want the cores


class NumpysProducts(CompiledBackend):
    """All products by NumPy, on memory as NumPy allots it."""

    empty, zeros = ReferenceBackend.empty, ReferenceBackend.zeros


class Comparison:
    """Steps of both ways by turns, in this process."""

    def __init__(self, dry_run: bool) -> None:
        self.rounds, self.turn = (2, 0.0) if dry_run else (ROUNDS, TURN)

    def microseconds(self, workload: Workload, dtype: str) -> dict[str, dict[str, Any]]:
        """Microseconds of a step of one network, round by round: of the processor's time, and on the clock.

        Raises
        ------
        UnavailableError
            Where there is no Numba, or the processor has no registers that the loops know.
        """
        if not numba_state().usable:
            raise UnavailableError(numba_state().summary)
        backends = {"loops": CompiledBackend(dtype), "numpy": NumpysProducts(dtype)}
        backends["loops"].register_bytes, backends["numpy"].register_bytes = widest_register(), 0
        if not widest_register():
            raise UnavailableError("the processor has neither AVX2 nor AVX-512")
        steps = {name: Steps(workload, backend) for name, backend in backends.items()}
        for way in steps.values():
            way.run(workload.batches)  # compiles
        epochs = max(1, round(self.turn / steps["numpy"].seconds(workload.batches)))
        taken = epochs * workload.batches * steps["numpy"].stack.models
        measured: dict[str, dict[str, Any]] = {name: {"processor": [], "clock": []} for name in steps}
        for _ in range(self.rounds):
            for name, way in steps.items():
                before = time.process_time(), time.perf_counter()
                way.run(epochs * workload.batches)
                after = time.process_time(), time.perf_counter()
                for kind, start, end in zip(measured[name], before, after, strict=True):
                    measured[name][kind].append((end - start) / taken * 1e6)
        return measured


def products(part: Part) -> None:
    """The processor's time of a step over its time with NumPy's products, which other programs hardly change."""
    for workload, dtype in TINY if part.dry_run else WORKLOADS:
        what = f"{workload.name} {dtype}: step over step with NumPy's products, processor's time"
        process = Remote(Comparison, part.dry_run, environment=environment(part.dry_run))
        try:
            measured = process.call("microseconds", workload, dtype, timeout=part.left())
        except UnavailableError as error:
            part.skipped(what, str(error))
            continue
        except RemoteError as error:
            part.failed(what, str(error))
            continue
        finally:
            process.close()
        loops, numpys = measured["loops"], measured["numpy"]
        times, bar = ratio(loops["processor"], numpys["processor"]), OVER_NUMPYS_AT_MOST.get((workload, dtype))
        each = " over ".join(f"{np.min(way['processor']):.1f} us" for way in (loops, numpys))
        part.timed(
            what, f"<= {bar}" if bar else "", f"{times}; least {each}", None if bar is None else times.median <= bar
        )
        part.figures.append({"what": what, "microseconds": measured})
        if limit := MICROSECONDS_AT_MOST.get((workload, dtype)):
            clock = spread(loops["clock"])
            before = f"{clock} us; with NumPy's products {spread(numpys['clock'])} us"
            part.timed(f"{workload.name}: a step of one network", f"<= {limit:.0f} us", before, clock.median <= limit)
