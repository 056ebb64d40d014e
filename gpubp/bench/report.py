"""The results of ``gpubp bench``, as printed and saved."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpubp.bench.steps import Workload
from gpubp.bench.timing import Spread, ratio, spread
from gpubp.serialization import atomic_write


@dataclass
class BackendRow:
    """One backend in one precision.

    Attributes
    ----------
    backend, precision : str
    reason : str
        Why it has no measurements, in one line; empty if it has.
    way : str
        How the backend takes steps: "calls", "program", "graph" or "on-chip".
    seconds, floor : list of float
        Seconds of a step, and of its bare matrix products on the same device, one value per round.
    memory : int
        Bytes of memory that training takes besides the data.
    error : float
        Relative error of the first steps compared with float64.
    """

    backend: str
    precision: str
    reason: str = ""
    way: str = ""
    seconds: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    memory: int = 0
    error: float = float("nan")

    @property
    def measured(self) -> bool:
        """Whether it has measurements."""
        return bool(self.seconds) and not self.reason

    @property
    def step(self) -> Spread:
        """Seconds of a step."""
        return spread(self.seconds)

    @property
    def of_floor(self) -> Spread:
        """The fraction of a step's time taken by the bare matrix products."""
        return ratio(self.floor, self.seconds)


@dataclass
class Report:
    """The results so far; they are filled in while measuring.

    Attributes
    ----------
    network : Workload
        The network, and the batches of its steps.
    optimizer : str
    machine : dict of str to str
        The machine, as found by `gpubp.bench.doctor`, including warnings.
    rows : list of BackendRow
    advice : list of str
        Sentences on which device to use for this network.
    interrupted : bool
        Whether Ctrl-C ended it early.
    """

    network: Workload
    optimizer: str
    machine: dict[str, str]
    rows: list[BackendRow] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    interrupted: bool = False

    def gflops(self, row: BackendRow) -> float:
        """Rate of the step's matrix products, relative to the time of the whole step."""
        return self.network.flops_per_row * self.network.batch_size / row.step.median / 1e9

    def save(self, path: Path) -> None:
        """Write JSON, whole or not at all."""
        rows: list[dict[str, Any]] = []
        for row in self.rows:
            name = {"backend": row.backend, "precision": row.precision}
            if not row.measured:
                rows.append(name | {"skipped": row.reason or "not reached"})
                continue
            rows.append(
                name
                | {"ms per step": [value * 1e3 for value in row.step], "rounds": len(row.seconds)}
                | {"samples per second": self.network.batch_size / row.step.median, "GFLOP/s": self.gflops(row)}
                | {"of the bare GEMMs": list(row.of_floor), "memory": row.memory}
                | {"error after two steps": row.error, "steps": row.way}
            )
        report = {
            "machine": self.machine,
            "network": self.network.name,
            "layer_sizes": self.network.layer_sizes,
            "batch_size": self.network.batch_size,
            "activation": self.network.activation,
            "optimizer": self.optimizer,
            "rows": rows,
            "advice": self.advice,
            "interrupted": self.interrupted,
        }
        atomic_write(path, (json.dumps(report, indent=1) + "\n").encode())
