"""The health of layers in a training: norms, saturation, dead units; and a sentence with a remedy on each problem."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpubp.activations import Activation
from gpubp.backends.reference import NumpyNamespace
from gpubp.stack import Stack
from gpubp.trace import Trace, trace

if TYPE_CHECKING:
    from gpubp.losses import Loss

MOST_ROWS = 256  # that are examined
ROWS_PER_LOOK = 64  # one in this many training rows is examined, so that a look is a small part of an epoch
FLAT = 0.05  # if |σ′| is below this fraction of its largest value, a unit hardly learns

# Thresholds of the verdicts, with where they come from.
SATURATED = 0.5  # of a layer's activations; Glorot and Bengio, 2010, section 3.1, show networks that stall there
DEAD = 0.4  # of a layer's units; the fraction that Stanford's course CS231n warns of
VANISHING = 1e-4  # ‖∂C/∂W¹‖ over ‖∂C/∂Wᴸ‖: what seven sigmoids leave at best, 4⁻⁷ = 6e-5
GROWTH = 10.0  # of activations from the inputs to the last hidden layer before training; He et al., 2015, keep it at 1
LARGE_INPUT, SMALL_INPUT = 30.0, 1e-3  # root mean square of the largest column; standardized columns have 1
RISES = 1 / 3  # of the epochs in which the training loss rose by RISE
RISE = 0.05
ABOVE, FIRST_ABOVE = 1.02, 3.0  # times the loss of the best constant prediction, at the end and in the first epoch
NO_BETTER = 0.98  # of the loss of the best constant prediction; above it nothing was learned
FEWEST_EPOCHS = 5  # required before curves are judged


@dataclass(frozen=True)
class LayerHealth:
    """The state of a layer on the examined rows.

    Attributes
    ----------
    number : int
        l, from 1 to L.
    activation : str
    weight_norm, gradient_norm, delta_norm : float
        ‖Wˡ‖, ‖∂C/∂Wˡ‖ and ‖δˡ‖.
    activation_mean, activation_std, activation_rms : float
        Statistics of aˡ, over rows and units.
    change : float
        ‖ΔWˡ‖/‖Wˡ‖ since the last look, an epoch ago; NaN at the first.
    saturated : float
        Fraction of aˡ where |σ′(zˡ)| is below 5 % of the largest value of σ′. About half is normal for ReLU.
    dead : float
        Fraction of units for which that holds in every examined row: units that never learn from these rows.
    """

    number: int
    activation: str
    weight_norm: float
    gradient_norm: float
    delta_norm: float
    activation_mean: float
    activation_std: float
    activation_rms: float
    change: float
    saturated: float
    dead: float


MEASURES = tuple(entry.name for entry in fields(LayerHealth))[2:]  # the measures of a layer: all numbers


@dataclass
class Health:
    """Measurements of one network before training and after each epoch.

    Attributes
    ----------
    looks : list of tuple of LayerHealth
        One look before the first step, then one after each epoch, with a record per layer.
    epochs : list of int
        The number of epochs before each look; 0 for the one before the first step.
    largest_input : float
        The largest root mean square of an input column.
    constant_loss : float
        The loss of the best constant prediction; NaN for losses without a formula for it.
    bounded : tuple of bool
        Whether each layer's activation has bounds at both ends, as the sigmoid and tanh have.
    """

    largest_input: float
    constant_loss: float
    bounded: tuple[bool, ...]
    looks: list[tuple[LayerHealth, ...]] = field(default_factory=list)
    epochs: list[int] = field(default_factory=lambda: [0])

    def measured(self, what: str) -> NDArray[np.float64]:
        """A measure of every layer in every look, (L, looks): ``"gradient_norm"``, ``"saturated"``, …"""
        return np.array([[getattr(layer, what) for layer in look] for look in self.looks], np.float64).T

    def to_csv(self) -> str:
        """A header and a line per look and layer."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["epoch", "layer", "activation", *MEASURES])
        for epoch, look in zip(self.epochs, self.looks, strict=True):
            for layer in look:
                values = (f"{getattr(layer, name):.6g}" for name in MEASURES)
                writer.writerow([epoch, layer.number, layer.activation, *values])
        return out.getvalue()

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The looks as arrays, by name; `restore` takes them."""
        looks = np.stack([self.measured(name) for name in MEASURES], axis=-1)  # (L, looks, measures)
        return {"health": looks, "health_epochs": np.array(self.epochs)}

    def restore(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Replace the looks by the `tensors` of another record of this network."""
        layers = self.looks[0]
        self.epochs = tensors["health_epochs"].tolist()
        self.looks = [
            tuple(
                LayerHealth(layer.number, layer.activation, *values)
                for layer, values in zip(layers, look.tolist(), strict=True)
            )
            for look in tensors["health"].swapaxes(0, 1)
        ]

    def verdicts(self, history: Any = None) -> list[str]:
        """A sentence with a remedy on each problem; empty if there is none.

        Parameters
        ----------
        history : History, optional
            The curves; without them, the learning rate and the learning progress cannot be judged.

        Returns
        -------
        list of str
        """
        found = [*self._of_inputs(), *self._of_first_weights(), *self._of_layers()]
        if history is None:
            return found
        of_curves = self._of_learning_rate(history)
        if not found and not of_curves:  # otherwise the cause is already known
            of_curves = self._of_what_was_learned(history)
        return [*found, *of_curves]

    def _of_inputs(self) -> list[str]:
        if self.largest_input > LARGE_INPUT:
            what = "large"
        elif self.largest_input < SMALL_INPUT:
            what = "small"
        else:
            return []
        return [
            f"inputs: a column has values around {self.largest_input:.2g}, which is {what}; standardize the columns to "
            f"mean 0 and standard deviation 1"
        ]

    def _of_first_weights(self) -> list[str]:
        """Only if the first look was before any training."""
        hidden = self.looks[0][:-1]
        scale = max(self.largest_input, SMALL_INPUT)
        if not hidden or not np.isnan(hidden[0].change) or hidden[-1].activation_rms < GROWTH * scale:
            return []
        return [
            f"layer {hidden[-1].number}: before training its activations are {hidden[-1].activation_rms / scale:.0f} "
            f'times as large as the inputs; the first weights are too large, use init="auto"'
        ]

    def _of_layers(self) -> list[str]:
        found = []
        look = self.looks[-1]
        for layer, bounded in zip(look[:-1], self.bounded[:-1], strict=True):
            if bounded and layer.saturated > SATURATED:
                found.append(
                    f"layer {layer.number}: {layer.saturated:.0%} of its {layer.activation} activations are saturated, "
                    f'where σ′ is near 0; use relu, smaller inputs, or init="auto" and a lower learning rate'
                )
            elif not bounded and layer.dead > DEAD:
                found.append(
                    f"layer {layer.number}: {layer.dead:.0%} of units never fire; lower the learning rate, or use "
                    f"leaky_relu"
                )
        first, last = look[0].gradient_norm, look[-1].gradient_norm
        if len(look) > 2 and first < VANISHING * last:
            found.append(
                f"gradients vanish: that of layer 1 has {first / last:.0e} times the norm of the last one's; use relu "
                f"or fewer layers"
            )
        return found

    def _of_learning_rate(self, history: Any) -> list[str]:
        loss, constant = np.asarray(history.loss), self.constant_loss
        if len(loss) < FEWEST_EPOCHS or not np.isfinite(constant):
            return []
        rises = float(np.mean(loss[1:] > loss[:-1] * (1 + RISE)))
        if rises > RISES:
            what = f"rose by more than {RISE:.0%} in {rises:.0%} of the epochs"
        elif loss[-1] > ABOVE * constant:
            what = f"ended at {loss[-1]:.3g}, where the best constant prediction has {constant:.3g}"
            if (np.diff(loss) < 0).all():
                return [f"the training loss fell in every epoch, but {what}; train longer"]
        elif loss[0] > FIRST_ABOVE * constant and not self._of_first_weights():
            what = f"was {loss[0]:.3g} in the first epoch, where the best constant prediction has {constant:.3g}"
        else:
            return []
        return [f"the training loss {what}; lower the learning rate"]

    def _of_what_was_learned(self, history: Any) -> list[str]:
        loss, validation = np.asarray(history.loss), np.asarray(history.validation_loss)
        constant = self.constant_loss
        if len(loss) < FEWEST_EPOCHS or not np.isfinite(constant):
            return []
        if loss[-1] > NO_BETTER * constant:
            return [
                f"nothing was learned: the training loss {loss[-1]:.3g} is that of a constant prediction, "
                f"{constant:.3g}; train longer, with a higher learning rate, or look whether the targets depend on the "
                f"inputs"
            ]
        if len(validation) and validation.min() > NO_BETTER * constant:
            return [
                f"the network learns its training rows by heart ({loss[-1]:.3g}) and nothing that holds for others "
                f"({validation.min():.3g} at best, a constant prediction {constant:.3g}); the targets may not depend "
                f"on the inputs"
            ]
        return []


class HealthWatch:
    """A callback of `gpubp.train` that examines the network before training and after every epoch.

    Parameters
    ----------
    stack : Stack
        A stack of one network.
    X, y, weight : arrays
        Checked; the weights (m,) or (1, m).
    rows : (n,) int or None
        The rows that the network trains on, None for all; up to 256 of these, one in 64, are examined, always the same
        ones.
    """

    def __init__(
        self,
        stack: Stack,
        X: Any,
        y: NDArray[Any],
        weight: NDArray[np.float64] | None,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        trained_on = np.arange(len(X)) if rows is None else rows
        looked_at = trained_on[sample_of_rows(len(trained_on))]
        self.batch = X[looked_at], y[looked_at]
        row_weight = None if weight is None else weight.reshape(-1)[trained_on]
        constant = loss_of_constant(stack.loss, y[trained_on], row_weight, stack.layer_sizes[-1])
        self.health = first_look(stack, *self.batch, constant)
        self.weights = _weights(stack)

    def __call__(self, net: Any, history: Any) -> None:
        """Examine the network, and add the result to ``history.health``."""
        before, self.weights = self.weights, _weights(net.stack)
        self.health.looks.append(look(trace(net.stack, *self.batch, None), _activations(net.stack), before))
        self.health.epochs.append(history.epochs)
        history.health = self.health

    def go_on(self, stack: Stack, history: Any, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Continue a training whose weights are those of `stack`, with the looks so far, if `tensors` has any."""
        self.weights = _weights(stack)
        if "health" in tensors:
            self.health.restore(tensors)
        history.health = self.health


def read_looks(text: str) -> Health:
    """A record with the looks that `Health.to_csv` wrote, only for pictures: it gives no verdicts.

    Raises
    ------
    ValueError, KeyError, TypeError
        If it is not such a text.
    """
    looks: dict[int, list[LayerHealth]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        layer = LayerHealth(int(row["layer"]), row["activation"], *(float(row[name]) for name in MEASURES))
        looks.setdefault(int(row["epoch"]), []).append(layer)
    if not looks or len({len(layers) for layers in looks.values()}) > 1:
        raise ValueError("layers of an epoch are missing")
    nan = float("nan")
    return Health(nan, nan, (), [tuple(layers) for layers in looks.values()], list(looks))


def examine(stack: Stack, X: Any, y: Any, weight: Any = None) -> Health:
    """One look at a trained single-network stack, on up to 256 of these checked rows."""
    rows = sample_of_rows(len(X), everything=True)
    constant = loss_of_constant(stack.loss, y, weight, stack.layer_sizes[-1])
    health = first_look(stack, X[rows], y[rows], constant)
    trained = tuple(_with_change(layer, 0.0) for layer in health.looks[0])
    return Health(health.largest_input, constant, health.bounded, [trained])


def first_look(stack: Stack, X: Any, y: Any, constant_loss: float) -> Health:
    """A record that holds a first look."""
    traced = trace(stack, X, y, None)
    activations = _activations(stack)
    columns = np.sqrt(np.mean(np.square(traced.X, dtype=np.float64), axis=0))
    bounded = tuple(bool(np.isfinite(activation.bounds).all()) for activation in activations)
    return Health(float(columns.max()), constant_loss, bounded, [look(traced, activations, None)])


def look(
    traced: Trace, activations: Sequence[Any], weights_before: Sequence[NDArray[Any]] | None
) -> tuple[LayerHealth, ...]:
    """The measurements of every layer from one pass."""
    layers = []
    for l, (layer, activation) in enumerate(zip(traced.layers, activations, strict=True)):
        a, norm = layer.a.astype(np.float64), float(np.linalg.norm(layer.W))
        flat = np.zeros(a.shape, bool)
        if layer.derivative is not None:
            flat = np.abs(layer.derivative) < FLAT * steepest(activation)
        change = (
            np.nan if weights_before is None else float(np.linalg.norm(layer.W - weights_before[l])) / (norm or 1.0)
        )
        layers.append(
            LayerHealth(
                number=layer.number,
                activation=activation.name,
                weight_norm=norm,
                gradient_norm=float(np.linalg.norm(layer.grad_W)),
                delta_norm=float(np.linalg.norm(layer.delta)),
                activation_mean=float(a.mean()),
                activation_std=float(a.std()),
                activation_rms=float(np.sqrt(np.mean(a * a))),
                change=change,
                saturated=float(flat.mean()),
                dead=float(flat.all(axis=0).mean()),
            )
        )
    return tuple(layers)


def sample_of_rows(m: int, *, everything: bool = False) -> NDArray[np.int64]:
    """The rows to examine: evenly spread, one in 64, but at least 32 and at most 256."""
    wanted = MOST_ROWS if everything else max(32, m // ROWS_PER_LOOK)
    return np.unique(np.linspace(0, m - 1, min(m, wanted, MOST_ROWS)).astype(np.int64))


def steepest(activation: Activation) -> float:
    """The largest |σ′| between −8 and 8."""
    xp, z = NumpyNamespace(), np.linspace(-8.0, 8.0, 161)
    x = activation.f(xp, z.copy()) if activation.derivative_from == "a" else z
    return float(np.abs(np.asarray(activation.derivative(xp, x), np.float64)).max()) or 1.0


def loss_of_constant(loss: Loss, y: NDArray[Any], weight: Any, n_outputs: int) -> float:
    """The loss of the best constant prediction; NaN for a loss without a formula here."""
    if loss.integer_targets and y.ndim == 1:
        y = np.eye(n_outputs)[y]
    y = y.reshape(len(y), -1).astype(np.float64)
    mean = np.average(y, axis=0, weights=weight)
    if loss.name == "cross_entropy":
        return float(-_x_log(mean).sum())
    if loss.name == "binary_cross_entropy":
        return float(-(_x_log(mean) + _x_log(1 - mean)).sum())
    if loss.name == "half_squared_error":
        return float(0.5 * np.average((y - mean) ** 2, axis=0, weights=weight).sum())
    if loss.name == "poisson":
        return float((mean - _x_log(mean)).sum())
    return float("nan")


def _x_log(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """p ln p, 0 at 0."""
    return p * np.log(np.where(p > 0, p, 1.0))


def _activations(stack: Stack) -> list[Any]:
    return [*stack.activations, stack.output_activation]


def _weights(stack: Stack) -> list[NDArray[Any]]:
    """Copies of W of every layer on the host."""
    return [np.array(stack.backend.to_host(W)) for W in stack.parameters_of(0).weights]


def _with_change(layer: LayerHealth, change: float) -> LayerHealth:
    return LayerHealth(**{**vars(layer), "change": change})
