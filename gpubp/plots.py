"""Pictures of a training and of a network, with Matplotlib (extra ``plot``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.errors import UsageError

if TYPE_CHECKING:
    from gpubp.diagnostics.health import Health
    from gpubp.network import MLP

HEALTH = {  # what of a layer is drawn -> how it is called, and whether on a logarithmic scale
    "gradient_norm": ("norm of ∂C/∂W", True),
    "activation_std": ("standard deviation of a", False),
    "change": ("‖ΔW‖/‖W‖ in an epoch", True),
    "saturated": ("share of a where σ′ is near 0", False),
}


def new_axes(axes: Any = None, **figure: Any) -> Any:
    """`axes`, or those of a new figure of its own.

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


def curves(history: Any, axes: Any = None) -> Any:
    """Draw the losses by epoch; of a stack, a thin line for each network.

    Parameters
    ----------
    history : History
    axes : matplotlib Axes, optional
        Where to draw; on a new figure if not given.

    Returns
    -------
    matplotlib Axes
        ``.figure.savefig("curves.png")`` writes them.

    Raises
    ------
    UsageError
        If Matplotlib is missing.

    Examples
    --------
    >>> import gpubp
    >>> net = gpubp.MLP([1, 1], loss="half_squared_error", device="cpu-reference")
    >>> history = gpubp.train(net, [[0.0], [1.0]], [1.0, 3.0], learning_rate=0.1, epochs=3)
    >>> axes = gpubp.plots.curves(history)
    >>> axes.get_xlabel(), len(axes.lines)
    ('epoch', 1)
    """
    axes = new_axes(axes)
    epochs = np.arange(1, history.epochs + 1)
    width = 1.5 if history.models == 1 else 0.6
    for name, label, color in (("loss", "training", "C0"), ("validation_loss", "validation", "C1")):
        curve = history.curve(name)
        if len(curve):
            axes.plot(epochs, curve[:, 0], color=color, linewidth=width, label=label)
            axes.plot(epochs, curve[:, 1:], color=color, linewidth=width)
    if history.models == 1 and history.best_epoch is not None:
        axes.axvline(history.best_epoch + 1, color="grey", linestyle=":", label="best")
    losses = np.concatenate([history.curve("loss").ravel(), history.curve("validation_loss").ravel()])
    losses = losses[np.isfinite(losses)]
    if len(losses) and losses.min() > 0 and losses.max() > 20 * losses.min():
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    axes.grid(alpha=0.3)
    return axes


def health(record: Health, what: str = "gradient_norm", axes: Any = None) -> Any:
    """Draw how each layer fared over the epochs, from ``history.health``.

    Parameters
    ----------
    record : Health
    what : str
        "gradient_norm", "activation_std", "change" or "saturated".
    axes : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    if what not in HEALTH:
        raise UsageError(f'what="{what}" is not drawn; choose {", ".join(HEALTH)}')
    axes = new_axes(axes)
    label, logarithmic = HEALTH[what]
    for layers in zip(*record.looks, strict=True):
        values = [getattr(layer, what) for layer in layers]
        axes.plot(range(len(values)), values, label=f"layer {layers[0].number}, {layers[0].activation}")
    if logarithmic:
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel=label)
    axes.legend()
    axes.grid(alpha=0.3)
    return axes


def weights(net: MLP, shape: tuple[int, int] | None = None, most: int = 32, axes: Any = None) -> Any:
    """Draw what the units of the first layer look for: a picture of the weights of each.

    Parameters
    ----------
    net : MLP
        A single network.
    shape : (int, int), optional
        Of the pictures that are its inputs; square where it is not given and fits.
    most : int
        How many units.
    axes : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    UsageError
        For a stack, or where the inputs are no such pictures.
    """
    if net.models > 1:
        raise UsageError(f"weights draws a single network; this is a stack of {net.models}")
    n_inputs = net.layer_sizes[0]
    side = round(n_inputs**0.5)
    height, width = shape or (side, side)
    if height * width != n_inputs:
        raise UsageError(f"{n_inputs} inputs are no picture of {height} x {width}; give its shape")
    units = np.asarray(net.stack.backend.to_host(net.weights[0]), np.float64)[:, :most].T
    columns = min(8, len(units))
    rows = -(-len(units) // columns)
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for unit, values in enumerate(units):
        top, left = (unit // columns) * (height + 1), (unit % columns) * (width + 1)
        canvas[top : top + height, left : left + width] = (values / (np.abs(values).max() or 1)).reshape(height, width)
    axes = new_axes(axes, figsize=(columns, rows))
    axes.imshow(canvas, cmap="RdBu", vmin=-1, vmax=1)
    axes.set_axis_off()
    return axes
