"""What a training leaves behind: its curves, and how it ended."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import Any

from gpubp._typing import Array

CURVES = ("loss", "metric", "validation_loss", "validation_metric", "learning_rate", "seconds")


@dataclass
class History:
    """Curves with one entry per epoch: numbers, or arrays (K,) for a stack (NaN once a network has stopped).

    Attributes
    ----------
    loss, metric : list
        Weighted means over the epoch's batches while the weights move, with dropout: the price of one
        pass over the data. `metric` is what `metric_name` says. The loss is without the l2 penalty.
    validation_loss, validation_metric : list
        On the validation set after the epoch, without dropout; empty where there is none.
    learning_rate : list
        That of the epoch's last step.
    seconds : list of float
        From the start of the training to the end of the epoch.
    metric_name : str
        "accuracy" or "rmse".
    steps : int
        Training steps taken.
    overflows : int or (K,) array
        Steps that precision "float16" skipped, as their gradients overflowed; its loss scale then halves.
    stopped : str or list of str
        Why each network ended: "epochs", "patience", "update_tolerance", "callback" or "diverged".
    best_epoch : int, (K,) array or None
        The epoch, counted from 0, of the least validation loss, with `patience` that of the weights kept.
    samples_per_second : float
        Rows trained on per second and network, validation included.
    """

    metric_name: str
    loss: list[Any] = field(default_factory=list)
    metric: list[Any] = field(default_factory=list)
    validation_loss: list[Any] = field(default_factory=list)
    validation_metric: list[Any] = field(default_factory=list)
    learning_rate: list[Any] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    steps: int = 0
    overflows: Any = 0
    stopped: Any = "epochs"
    best_epoch: Any = None
    samples_per_second: float = 0.0

    @property
    def epochs(self) -> int:
        """Epochs trained."""
        return len(self.loss)

    def append(self, models: int, **entries: Array) -> None:
        """One epoch's entries, (K,) arrays; kept as numbers for a single network."""
        for name, value in entries.items():
            getattr(self, name).append(float(value[0]) if models == 1 and hasattr(value, "__len__") else value)

    def to_csv(self) -> str:
        """A header and a line per epoch; for a stack, a line per epoch and network."""
        curves = [name for name in CURVES if getattr(self, name)]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        stack = bool(self.loss) and hasattr(self.loss[0], "__len__")
        writer.writerow(["epoch", *(["network"] if stack else []), *self._headers(curves)])
        for epoch in range(self.epochs):
            row = [getattr(self, name)[epoch] for name in curves]
            for k in range(len(self.loss[0]) if stack else 1):
                picked = [v[k] if hasattr(v, "__len__") else v for v in row]
                writer.writerow([epoch + 1, *([k] if stack else []), *(f"{v:.9g}" for v in picked)])
        return out.getvalue()

    def _headers(self, curves: list[str]) -> list[str]:
        return [name.replace("metric", self.metric_name) for name in curves]
