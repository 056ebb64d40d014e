"""What a training leaves behind: its curves, and how it ended."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpubp import plots
from gpubp.errors import UsageError

if TYPE_CHECKING:
    from gpubp.diagnostics.health import Health

WATCHED = ("watched_test_loss", "watched_test_metric")  # curves on which nothing in a training depends
CURVES = ("loss", "metric", "validation_loss", "validation_metric", *WATCHED, "learning_rate")
MOST_NETWORKS = 8  # of a stack, up to which each is shown


class History:
    """Curves with one entry per epoch: numbers, or arrays (K,) for a stack (NaN once a network has stopped).

    Attributes
    ----------
    loss, metric : list
        Weighted means over the epoch's batches while the weights change, with dropout, from a single pass over the
        data. `metric` is the one that `metric_name` names. The loss excludes the l2 penalty.
    validation_loss, validation_metric : list
        On the validation set after the epoch, without dropout; empty where there is none.
    watched_test_loss, watched_test_metric : list
        With ``watch_test=(X, y)``, on these rows after the epoch, without dropout: they are only watched, and choose no
        weights, epoch or network. Otherwise empty.
    learning_rate : list
        The rate of the epoch's last step.
    seconds : list of float
        From the start of the training to the end of the epoch.
    metric_name : str
        "accuracy", "label_accuracy" where a row has several labels, or "rmse".
    models : int
        K.
    steps : int
        Training steps taken.
    overflows : int or (K,) array
        Steps that precision "float16" skipped because their gradients overflowed; its loss scale then halves.
    stopped : str or list of str
        Why each network ended: "epochs", "patience", "update_tolerance", "callback", "diverged" or "interrupted".
    best_epoch : int, (K,) array or None
        The epoch, counted from 0, with the lowest validation loss; with `patience`, the one whose weights were kept.
    samples_per_second : float
        Rows trained on per second and network, validation included.
    health : Health or None
        With ``diagnostics=True``, how each layer fared.

    Examples
    --------
    >>> import gpubp
    >>> net = gpubp.MLP([1, 1], loss="half_squared_error", device="cpu-reference")
    >>> history = gpubp.train(net, [[0.0], [1.0]], [1.0, 3.0], learning_rate=0.1, epochs=3)
    >>> history.epochs, history.stopped, len(history.loss), history.metric_name
    (3, 'epochs', 3, 'rmse')
    >>> print(history.to_csv().splitlines()[0])
    epoch,loss,rmse,learning_rate,seconds
    """

    def __init__(self, metric_name: str, models: int = 1) -> None:
        self.metric_name, self.models = metric_name, models
        self.loss: list[Any] = []
        self.metric: list[Any] = []
        self.validation_loss: list[Any] = []
        self.validation_metric: list[Any] = []
        self.watched_test_loss: list[Any] = []
        self.watched_test_metric: list[Any] = []
        self.learning_rate: list[Any] = []
        self.seconds: list[float] = []
        self.steps = 0
        self.samples_per_second = 0.0
        self.health: Health | None = None
        # Of all K networks; the properties below show a single network's without the leading axis.
        self.overflows_by_network: NDArray[np.int64] = np.zeros(models, np.int64)
        self.stopped_by_network: NDArray[np.object_] = np.full(models, "epochs", dtype=object)
        self.best_epoch_by_network: NDArray[np.int64] | None = None

    @property
    def epochs(self) -> int:
        """Epochs trained."""
        return len(self.loss)

    @property
    def overflows(self) -> Any:
        """Steps that float16 skipped."""
        return int(self.overflows_by_network[0]) if self.models == 1 else self.overflows_by_network

    @property
    def stopped(self) -> Any:
        """Why each network ended."""
        return self.stopped_by_network[0] if self.models == 1 else self.stopped_by_network.tolist()

    @property
    def best_epoch(self) -> Any:
        """The epoch with the lowest validation loss."""
        best = self.best_epoch_by_network
        return best if best is None or self.models > 1 else int(best[0])

    def append(self, seconds: float, **entries: NDArray[np.float64]) -> None:
        """Add an epoch: its end in seconds, and (K,) arrays by the names of their curves."""
        self.seconds.append(seconds)
        for name, values in entries.items():
            getattr(self, name).append(float(values[0]) if self.models == 1 else values)

    def count_overflows(self, so_far: NDArray[np.int64]) -> NDArray[np.int64]:
        """Record the steps skipped so far, (K,), 0 for networks that no longer train; returns how many are new."""
        before = self.overflows_by_network
        self.overflows_by_network = np.maximum(before, so_far)
        return self.overflows_by_network - before

    def watch_test(self, loss: NDArray[np.float64], metric: NDArray[np.float64]) -> None:
        """Add (K,) loss and metric on watched test rows after the last epoch; NaN for unwatched epochs."""
        for name, values in zip(WATCHED, (loss, metric), strict=True):
            curve = getattr(self, name)
            unwatched = [np.full(self.models, np.nan)] * (self.epochs - 1 - len(curve))
            curve += [float(entry[0]) if self.models == 1 else entry for entry in (*unwatched, values)]

    def curve(self, name: str) -> NDArray[np.float64]:
        """A curve of all networks, (epochs, K)."""
        values = getattr(self, name)
        curve = np.reshape(values, (len(values), self.models))
        if not len(values) or name not in WATCHED:
            return curve
        return np.vstack([curve, np.full((self.epochs - len(values), self.models), np.nan)])

    def __repr__(self) -> str:
        if not self.epochs:
            return "History(no epoch yet)"
        if self.models > 1:
            return f"History({self.epochs} epochs of {self.models} networks, stopped={self._why_stopped()})"
        figures = f"loss {self.loss[-1]:.4g}, {self.metric_name} {self.metric[-1]:.4g}"
        if self.validation_loss:
            figures += f"; validation loss {self.validation_loss[-1]:.4g}, "
            figures += f"{self.metric_name} {self.validation_metric[-1]:.4g}"
        return f"History({self.epochs} epochs, {self.steps:,} steps: {figures}; stopped={self.stopped!r})"

    def _why_stopped(self) -> Any:
        """Why each network stopped; for many networks, how many for each reason."""
        if self.models <= MOST_NETWORKS:
            return self.stopped
        return {str(why): int(count) for why, count in zip(*np.unique(self.stopped, return_counts=True), strict=True)}

    def _repr_html_(self) -> str:
        """In a notebook: a small picture of the losses if Matplotlib is installed, the outcome, a small table."""
        words = f"<p>{html.escape(repr(self))}</p>{self._html_table()}"
        try:
            axes = self.plot(plots.new_axes(figsize=(4.8, 2.7)))
        except UsageError:  # without Matplotlib
            return words
        picture = io.BytesIO()
        axes.figure.savefig(picture, format="png", dpi=80)
        return f'<img src="data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}">{words}'

    def _html_table(self) -> str:
        """The curves at the first, the best and the last epoch; for a stack, of some networks at the last."""
        columns = {self._header(name): self.curve(name) for name in CURVES if getattr(self, name)}
        if not columns:
            return ""
        if self.models == 1:
            best = [] if self.best_epoch is None else [self.best_epoch]
            rows = [(epoch + 1, epoch, 0) for epoch in sorted({0, *best, self.epochs - 1})]
        else:
            rows = [(k, self.epochs - 1, k) for k in range(min(self.models, MOST_NETWORKS))]
        head = "".join(
            f"<th>{html.escape(name)}</th>" for name in ("epoch" if self.models == 1 else "network", *columns)
        )
        body = "".join(
            f"<tr><td>{label}</td>" + "".join(f"<td>{curve[epoch, k]:.4g}</td>" for curve in columns.values()) + "</tr>"
            for label, epoch, k in rows
        )
        return f"<table><tr>{head}</tr>{body}</table>"

    def _header(self, name: str) -> str:
        """The name of a curve in tables."""
        return name.replace("metric", self.metric_name)

    def plot(self, axes: Any = None, what: str = "loss") -> Any:
        """Draw the losses by epoch, or with ``what="metric"`` their metric; see `gpubp.plots.curves`."""
        return plots.curves(self, axes, what)

    def to_dataframe(self) -> Any:
        """The curves as a pandas DataFrame: a row per epoch; for a stack, a row per epoch and network."""
        import pandas as pd

        return pd.read_csv(io.StringIO(self.to_csv()))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Everything recorded of finished epochs as arrays, by name; `restore` takes back all but those of health."""
        curves = {name: self.curve(name) for name in CURVES if getattr(self, name)}
        health = {} if self.health is None else self.health.tensors()
        return {**curves, **health, "seconds": np.array(self.seconds), "overflows": self.overflows_by_network.copy()}

    def restore(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Replace what is recorded here by the `tensors` of another history."""
        curves = [name for name in CURVES if name in tensors]
        for epoch, seconds in enumerate(tensors["seconds"].tolist()):
            self.append(seconds, **{name: tensors[name][epoch] for name in curves})
        self.overflows_by_network = tensors["overflows"]

    def to_csv(self) -> str:
        """A header and a line per epoch; for a stack, a line per epoch and network."""
        curves = [name for name in CURVES if getattr(self, name)]
        stack = self.models > 1
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        headers = [self._header(name) for name in [*curves, "seconds"] if self.seconds]
        writer.writerow(["epoch", *(["network"] if stack else []), *headers])
        columns = {name: self.curve(name) for name in curves}
        for epoch in range(self.epochs):
            for k in range(self.models):
                row = [*(columns[name][epoch, k] for name in curves), self.seconds[epoch]]
                writer.writerow([epoch + 1, *([k] if stack else []), *(f"{v:.9g}" for v in row)])
        return out.getvalue()
