"""The pictures of a report, each as a data URL embedded in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp import plots
from gpubp.bench.parts import StepParts
from gpubp.cli.report.collect import Run, TestRows
from gpubp.plots import ROWS, finish_curves, new_axes, picture_shape

MOST_UNITS = 8  # drawn per layer
MOST_POINTS = 2000


def rendered(figure: Any, form: str = "svg") -> bytes:
    """A figure as a file's contents."""
    import matplotlib as mpl

    written = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gpubp"}):
        metadata = {"Date": None} if form == "svg" else None
        figure.savefig(written, format=form, dpi=110, metadata=metadata)
    return written.getvalue()


def address(figure: Any, form: str = "svg") -> str:
    """A figure as a data URL."""
    kind = "svg+xml" if form == "svg" else form
    return f"data:image/{kind};base64,{base64.b64encode(rendered(figure, form)).decode()}"


def curves(runs: Sequence[Run], what: str = "loss") -> Any:
    """Losses, or their metric, by epoch for one run, or for two side by side."""
    axes = new_axes()
    for number, run in enumerate(runs):
        style = ("-", "--")[number]
        for place, (recipe, of) in enumerate(run.curves.items()):
            named = "".join(f", {name}" for name in (recipe, run.folder.name if len(runs) > 1 else "") if name)
            for color, (rows, (label, _)) in enumerate(ROWS.items(), start=2 * place):
                if rows + what in of:
                    axes.plot(of["epoch"], of[rows + what], style, color=f"C{color}", label=label + named)
    finish_curves(axes, what)
    return axes


def learning_rate(run: Run) -> Any:
    """The learning rate by epoch."""
    axes = new_axes(figsize=(6.4, 2.0))
    axes.plot(run.curves[""]["epoch"], run.curves[""]["learning_rate"], color="C2")
    axes.set(xlabel="epoch", ylabel="learning rate")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    return axes


def step_time(step: StepParts) -> Any:
    """The parts of a training step by their time."""
    axes = new_axes(figsize=(6.4, 1.8))
    names = list(step.parts)
    bars = axes.barh(names, [1e3 * step.parts[name] for name in names])
    shares = [seconds / sum(step.parts.values()) for seconds in step.parts.values()]
    axes.bar_label(bars, [f"{share:.0%}" for share in shares], padding=3)
    axes.set(xlabel="milliseconds", xmargin=0.12)
    axes.invert_yaxis()
    return axes


def network(layer_sizes: Sequence[int], names: Sequence[str]) -> Any:
    """The layers as columns of units; only the first few are drawn."""
    axes = new_axes(figsize=(6.4, 2.8))
    places = []
    for l, size in enumerate(layer_sizes):
        shown = min(size, MOST_UNITS)
        y = np.linspace(-1, 1, shown + 2)[1:-1]
        places.append(y)
        axes.scatter([l] * shown, y, s=60, color="C0", zorder=2)
        more = "" if size == shown else f"\n{size:,} units"
        label = "inputs" if l == 0 else names[l - 1]
        axes.text(l, -1.15, f"{label}{more or chr(10) + str(size)}", ha="center", va="top", fontsize=8)
    for l, (left, right) in enumerate(zip(places, places[1:], strict=False)):
        for y in left:
            axes.plot(
                [[l] * len(right), [l + 1] * len(right)], [[y] * len(right), right], color="0.8", lw=0.5, zorder=1
            )
    axes.set(xlim=(-0.5, len(layer_sizes) - 0.5), ylim=(-1.6, 1.05))
    axes.set_axis_off()
    return axes


def confusion(test: TestRows, classes: Sequence[str]) -> Any:
    """The number of rows of each class predicted as each class."""
    from sklearn.metrics import confusion_matrix

    matrix = confusion_matrix(true_classes(test), predicted_classes(test), labels=range(len(classes)))
    return plots.confusion(matrix, classes)


def roc(test: TestRows, classes: Sequence[str]) -> Any:
    """The receiver operating characteristic of each class against the others."""
    from sklearn.metrics import roc_auc_score, roc_curve

    axes = new_axes(figsize=(4.2, 4.0))
    truth, probabilities = true_classes(test), class_probabilities(test)
    for index, name in enumerate(classes):
        is_class = truth == index
        if (len(classes) == 2 and index == 0) or is_class.all() or not is_class.any():
            continue
        fall_out, recall, _ = roc_curve(is_class, probabilities[:, index])
        axes.plot(fall_out, recall, label=f"{name} (area {roc_auc_score(is_class, probabilities[:, index]):.3f})")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axes.set(xlabel="false positives", ylabel="true positives", title="ROC")
    axes.legend(fontsize=7)
    return axes


def calibration(test: TestRows) -> Any:
    """How often predictions are right, by confidence."""
    axes = new_axes(figsize=(4.2, 4.0))
    probabilities = class_probabilities(test)
    confidence = probabilities.max(axis=1)
    right = predicted_classes(test) == true_classes(test)
    bins = np.clip((confidence * 10).astype(int), 0, 9)
    filled = [b for b in range(10) if (bins == b).any()]
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axes.plot([confidence[bins == b].mean() for b in filled], [right[bins == b].mean() for b in filled], "o-")
    axes.set(xlabel="probability that is predicted", ylabel="share that is right", title="calibration")
    return axes


def residuals(truth: NDArray[Any], predicted: NDArray[Any], name: str) -> Any:
    """Predictions against true values."""
    axes = new_axes(figsize=(4.6, 4.2))
    some = slice(None, None, -(-len(truth) // MOST_POINTS))
    axes.scatter(truth[some], predicted[some], s=6, alpha=0.5)
    ends = [float(min(truth.min(), predicted.min())), float(max(truth.max(), predicted.max()))]
    axes.plot(ends, ends, color="grey", linestyle=":")
    axes.set(xlabel=f"true {name}", ylabel=f"predicted {name}")
    return axes


def errors(truth: NDArray[Any], predicted: NDArray[Any]) -> Any:
    """The distribution of the errors."""
    axes = new_axes(figsize=(4.6, 4.2))
    axes.hist(predicted - truth, bins=40)
    axes.set(xlabel="predicted − true", ylabel="rows")
    return axes


def picture(pixels: NDArray[Any]) -> Any | None:
    """One picture of an image data set; None if its shape is unknown."""
    shape = picture_shape(pixels.size)
    if shape is None:
        return None
    axes = new_axes(figsize=(1.2, 1.2))
    axes.imshow(np.asarray(pixels).reshape(shape), cmap="gray_r" if len(shape) == 2 else None)
    axes.set_axis_off()
    return axes


# -- classes, whichever way the network has them ---------------------------------------------------------


def class_probabilities(test: TestRows) -> NDArray[np.float64]:
    """(n, classes), also for a network with one output for two classes."""
    outputs = test.outputs.astype(np.float64)
    return np.hstack([1 - outputs, outputs]) if outputs.shape[1] == 1 else outputs


def predicted_classes(test: TestRows) -> NDArray[np.int64]:
    """(n,) class indices."""
    return np.asarray(class_probabilities(test).argmax(axis=1))


def true_classes(test: TestRows) -> NDArray[np.int64]:
    """(n,) class indices."""
    y = test.y
    if y.ndim == 1:
        return y.astype(np.int64)
    return (y[:, 0] > 0.5).astype(np.int64) if y.shape[1] == 1 else np.asarray(y.argmax(axis=1))
