"""Pictures of a training and of a network, with Matplotlib (extra ``plot``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpubp.errors import UsageError

if TYPE_CHECKING:
    from gpubp.diagnostics.health import Health
    from gpubp.network import MLP

HEALTH = {  # measure of a layer -> its label, and whether its scale is logarithmic
    "gradient_norm": ("norm of ∂C/∂W", True),
    "activation_std": ("standard deviation of a", False),
    "change": ("‖ΔW‖/‖W‖ in an epoch", True),
    "saturated": ("share of a where σ′ is near 0", False),
    "dead": ("share of units that never fire", False),
}
SHARES = ("saturated", "dead")  # between 0 and 1
ROWS = {  # prefix of a curve's name -> its label and colour
    "": ("training", "C0"),
    "validation_": ("validation", "C1"),
    "watched_test_": ("test, only watched", "C2"),
}
STEEP = 20  # ratio of the largest loss to the smallest from which the scale is logarithmic
MOST_CLASSES = 20  # in a confusion matrix that shows its numbers


def new_axes(axes: Any = None, **figure: Any) -> Any:
    """`axes`, or those of a new figure.

    Raises
    ------
    UsageError
        If Matplotlib is missing.
    """
    if axes is not None:
        return axes
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("pictures need Matplotlib, which is not here: pip install 'gpubp[plot]'") from None
    return Figure(**{"figsize": (6.4, 3.6), "layout": "constrained", **figure}).add_subplot()


def curves(history: Any, axes: Any = None, what: str = "loss") -> Any:
    """Draw the losses by epoch, with those on watched test rows; for a stack, a thin line for each network.

    Parameters
    ----------
    history : History
    axes : matplotlib Axes, optional
        Where to draw; on a new figure if not given.
    what : str
        "loss", or "metric" for the accuracy or whichever metric goes with the loss.

    Returns
    -------
    matplotlib Axes
        ``.figure.savefig("curves.png")`` writes them.

    Raises
    ------
    UsageError
        If Matplotlib is missing, or `what` is something else.

    Examples
    --------
    >>> import gpubp
    >>> net = gpubp.MLP([1, 1], loss="half_squared_error", device="cpu-reference")
    >>> history = gpubp.train(net, [[0.0], [1.0]], [1.0, 3.0], learning_rate=0.1, epochs=3)
    >>> axes = gpubp.plots.curves(history)
    >>> axes.get_xlabel(), len(axes.lines)
    ('epoch', 1)
    """
    if what not in ("loss", "metric"):
        raise UsageError(f'what="{what}" is not drawn; choose loss or metric')
    axes = new_axes(axes)
    epochs = np.arange(1, history.epochs + 1)
    width = 1.5 if history.models == 1 else 0.6
    for rows, (label, color) in ROWS.items():
        curve = history.curve(rows + what)
        if len(curve):
            axes.plot(epochs, curve[:, 0], color=color, linewidth=width, label=label)
            axes.plot(epochs, curve[:, 1:], color=color, linewidth=width)
    finish_curves(axes, what.replace("metric", history.metric_name))
    if history.models == 1 and history.best_epoch is not None:
        axes.axvline(history.best_epoch + 1, color="grey", linestyle=":", label="best")
        axes.legend()
    return axes


def finish_curves(axes: Any, what: str) -> None:
    """Give axes with lines over epochs their labels, grid and legend, and the scale that suits losses and errors."""
    values = np.concatenate([[], *(np.asarray(line.get_ydata(), np.float64) for line in axes.lines)])
    if not what.endswith("accuracy") and is_steep(values[np.isfinite(values)]):
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel=what)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if axes.lines:
        axes.legend()
    axes.grid(alpha=0.3)


def is_steep(losses: NDArray[np.float64]) -> bool:
    """Whether to draw these finite losses on a logarithmic scale."""
    return bool(len(losses) and losses.min() > 0 and losses.max() > STEEP * losses.min())


def health(record: Health, what: str = "gradient_norm", axes: Any = None) -> Any:
    """Draw how each layer fared over the epochs, from ``history.health``.

    Parameters
    ----------
    record : Health
    what : str
        "gradient_norm", "activation_std", "change", "saturated" or "dead".
    axes : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    _check_measure(what)
    axes = new_axes(axes)
    label, logarithmic = HEALTH[what]
    for layer, values in zip(record.looks[0], record.measured(what), strict=True):
        axes.plot(record.epochs, values, label=f"layer {layer.number}, {layer.activation}")
    if logarithmic:
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel=label)
    axes.legend()
    axes.grid(alpha=0.3)
    return axes


def health_map(record: Health, what: str = "gradient_norm", axes: Any = None) -> Any:
    """Draw how each layer fared over the epochs as a map: a row for each layer, a column for each epoch.

    Parameters
    ----------
    record : Health
    what : str
        As for `health`.
    axes : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    UsageError
        If Matplotlib is missing, or `what` is not one of these.

    Examples
    --------
    >>> import gpubp
    >>> net = gpubp.MLP([1, 3, 1], loss="half_squared_error", device="cpu-reference")
    >>> history = gpubp.train(net, [[0.0], [1.0]], [1.0, 3.0], epochs=2, diagnostics=True)
    >>> axes = gpubp.plots.health_map(history.health, "change")
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['1, relu', '2, identity']
    """
    _check_measure(what)
    axes = new_axes(axes, figsize=(6.4, 1.2 + 0.3 * len(record.looks[0])))
    from matplotlib.colors import LogNorm, Normalize

    label, logarithmic = HEALTH[what]
    values = record.measured(what)
    values = np.ma.masked_where(~np.isfinite(values) | (logarithmic & (values <= 0)), values)
    norm = LogNorm() if logarithmic else Normalize(0, 1 if what in SHARES else None)
    between = (np.array(record.epochs[1:]) + record.epochs[:-1]) / 2
    columns = [record.epochs[0] - 0.5, *between, record.epochs[-1] + 0.5]
    rows = np.arange(len(values) + 1) + 0.5
    axes.set_facecolor("0.85")  # where there is no number
    drawn = axes.pcolormesh(columns, rows, values, norm=norm, cmap="viridis", rasterized=True)
    axes.invert_yaxis()
    axes.set_yticks(rows[:-1] + 0.5, [f"{layer.number}, {layer.activation}" for layer in record.looks[0]])
    axes.set(xlabel="epoch", title=label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if values.count():
        axes.figure.colorbar(drawn, ax=axes)
    return axes


def health_maps(record: Health) -> Any:
    """Draw every measure of the layers as a map, one below the other.

    Parameters
    ----------
    record : Health

    Returns
    -------
    matplotlib Figure
    """
    height = len(HEALTH) * (1.0 + 0.25 * len(record.looks[0]))
    figure = new_axes(figsize=(6.4, height)).figure
    figure.clear()
    panels = figure.subplots(len(HEALTH), sharex=True)
    for axes, what in zip(panels, HEALTH, strict=True):
        health_map(record, what, axes)
        axes.label_outer()
    return figure


def _check_measure(what: str) -> None:
    if what not in HEALTH:
        raise UsageError(f'what="{what}" is not drawn; choose {", ".join(HEALTH)}')


def confusion(matrix: Any, classes: Sequence[Any], axes: Any = None) -> Any:
    """Draw how many rows of each class were predicted as which class.

    Parameters
    ----------
    matrix : (k, k) array of int
        A row for each true class, a column for each predicted one, as in scikit-learn's ``confusion_matrix``.
    classes : sequence
        Their names.
    axes : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import gpubp
    >>> axes = gpubp.plots.confusion([[8, 2], [1, 9]], ["cat", "dog"])
    >>> axes.get_xlabel(), axes.get_ylabel()
    ('Predicted label', 'True label')
    """
    few = len(classes) <= MOST_CLASSES
    side = min(8.0, 2.5 + 0.45 * len(classes))
    axes = new_axes(axes, figsize=(side, side))  # raises if Matplotlib is missing
    from sklearn.metrics import ConfusionMatrixDisplay

    display = ConfusionMatrixDisplay(np.asarray(matrix), display_labels=classes)
    display.plot(ax=axes, include_values=few, cmap="Blues", colorbar=False, xticks_rotation="vertical" if few else None)
    if not few:
        axes.set(xticks=[], yticks=[])
    return axes


def weights(net: MLP, shape: tuple[int, ...] | None = None, most: int = 32, axes: Any = None) -> Any:
    """Draw what the units of the first layer look for: a picture of the weights of each.

    Parameters
    ----------
    net : MLP
        A single network.
    shape : (height, width) or (height, width, 3), optional
        The shape of the input pictures, grey or in colour; by default square, where that fits.
    most : int
        The number of units to draw.
    axes : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    UsageError
        For a stack, or if the inputs are not such pictures.
    """
    _check_single(net)
    n_inputs = net.layer_sizes[0]
    shape = shape or picture_shape(n_inputs)
    if shape is None:
        raise UsageError(f"{n_inputs} inputs are no square picture; give its shape")
    if np.prod(shape) != n_inputs:
        raise UsageError(f"{n_inputs} inputs are no picture of {' x '.join(map(str, shape))}; give its shape")
    units = _weights_of(net, 0)[:, :most].T
    columns = min(8, len(units))
    rows = -(-len(units) // columns)
    height, width, *colours = shape
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, *colours), np.nan)
    for unit, values in enumerate(units):
        top, left = (unit // columns) * (height + 1), (unit % columns) * (width + 1)
        canvas[top : top + height, left : left + width] = (values / (np.abs(values).max() or 1)).reshape(shape)
    axes = new_axes(axes, figsize=(columns, rows))
    if colours:
        canvas = np.nan_to_num((canvas + 1) / 2, nan=1.0)  # white between the pictures
    axes.imshow(canvas, cmap=None if colours else "RdBu", vmin=-1, vmax=1)
    axes.set_axis_off()
    return axes


def weight_histograms(net: MLP) -> Any:
    """Draw the distribution of the weights of each layer.

    Parameters
    ----------
    net : MLP
        A single network.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    UsageError
        For a stack, or if Matplotlib is missing.

    Examples
    --------
    >>> import gpubp
    >>> figure = gpubp.plots.weight_histograms(gpubp.MLP([4, 8, 3], device="cpu-reference"))
    >>> [axes.get_title() for axes in figure.axes]
    ['layer 1: 4 x 8', 'layer 2: 8 x 3']
    """
    _check_single(net)
    layers = len(net.weights)
    figure = new_axes(figsize=(6.4, 1.0 + 1.4 * layers)).figure
    figure.clear()
    for l, axes in enumerate(figure.subplots(layers, squeeze=False)[:, 0]):
        W = _weights_of(net, l)
        axes.hist(W.ravel(), bins=60)
        axes.set(title=f"layer {l + 1}: {W.shape[0]} x {W.shape[1]}", ylabel="weights")
    axes.set(xlabel="value")
    return figure


def picture_shape(size: int) -> tuple[int, ...] | None:
    """The shape of square pictures of `size` numbers, grey or in colour; None if there is none."""
    for channels in (1, 3):
        side = round((size / channels) ** 0.5)
        if side * side * channels == size:
            return (side, side) if channels == 1 else (side, side, 3)
    return None


def _check_single(net: MLP) -> None:
    if net.models > 1:
        raise UsageError(f"this draws the weights of a single network, and here is a stack of {net.models}")


def _weights_of(net: MLP, l: int) -> NDArray[np.float64]:
    """A copy of the weights of a layer on the host, (n_in, n_out)."""
    return np.array(net.stack.backend.to_host(net.weights[l]), np.float64)
