"""Stage ``crossover``: a step on the GPU and on the CPU of the same machine, over width and batch."""

from __future__ import annotations

from itertools import islice

from benchmarks.devices import open_backend
from benchmarks.gpu.settings import Settings
from benchmarks.parts import Part
from gpubp.bench.steps import Steps, rounds, workload
from gpubp.bench.timing import ratio, spread

WIDTHS, BATCH_SIZES = (64, 256, 1024, 4096, 16), (128, 8, 1024)
ROUNDS = 3
A_NETWORK = 3.0  # seconds: with less left, none is begun


def crossover(part: Part, settings: Settings) -> None:
    """A row for each width and batch size, for information."""
    widths, batch_sizes = ((8,), (4,)) if part.dry_run else (WIDTHS, BATCH_SIZES)
    backends = {name: open_backend(name, "float32", part.dry_run) for name in ("cuda", "cpu")}
    part.figures.append({"cpu": backends["cpu"].name})
    for batch_size in batch_sizes:
        for width in widths:
            network = workload((64, width, width, 10), batch_size)
            what = f"{network.name} float32: CPU ({backends['cpu'].name}) over GPU"
            if not part.dry_run and part.left() < A_NETWORK:
                part.skipped(what, "no time left in this stage")
                continue
            both = {name: Steps(network, backend) for name, backend in backends.items()}
            seconds = list(islice(rounds(both), settings.rounds or ROUNDS))
            times = {name: [s[name] for s in seconds] for name in both}
            part.figures += [
                {
                    "network": network.name,
                    "precision": "float32",
                    "contender": "gpubp" if name == "cuda" else "gpubp cpu",
                    "microseconds": spread([s * 1e6 for s in of]).median,
                    "width": width,
                    "batch size": batch_size,
                }
                for name, of in times.items()
            ]
            part.timed(what, "", str(ratio(times["cpu"], times["cuda"])), None)
