"""The losses C and their gradients.

A loss works on logits: one formula gives value and gradient together, so shared terms are computed once
and no logarithm of a rounded probability is ever taken. The loss names the output activation that turns
its logits into predictions. A loss written in terms of values (``half_squared_error``, …) can be combined
with any other output activation: `with_output_activation` applies BP1, δᴸ = ∇ₐC ⊙ σ′(zᴸ).

Formulas are per sample and unweighted; only the backend's ``loss_delta`` applies the normalizer 1/m (or 1/Σw).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from gpubp._typing import Array, Namespace
from gpubp.activations import SOFTMAX, Activation, Softmax, exponential, identity, sigmoid
from gpubp.errors import UsageError
from gpubp.registry import canonical, require, resolve


@dataclass(frozen=True, slots=True)
class Metric:
    """What is reported along with the loss.

    Attributes
    ----------
    name : str
        "accuracy" or "rmse".
    per_row : callable
        ``per_row(xp, logits, output, y) -> (…, rows)``, averaged over samples. `output` is a function
        without arguments that returns a^L, for the metrics that need it.
    finish : callable
        From the weighted mean over samples to the figure reported.
    """

    name: str
    per_row: Callable[[Namespace, Array, Callable[[], Array], Array], Array]
    finish: Callable[[float], float]


def _hits_of_classes(xp: Namespace, logits: Array, output: Callable[[], Array], y: Array) -> Array:
    truth = y if y.ndim < logits.ndim else y.argmax(axis=-1)
    return logits.real.argmax(axis=-1) == truth


def _hits_of_labels(xp: Namespace, logits: Array, output: Callable[[], Array], y: Array) -> Array:
    return ((logits.real > 0) == (y > 0.5)).mean(axis=-1)


def _squared_error(xp: Namespace, logits: Array, output: Callable[[], Array], y: Array) -> Array:
    return ((output().real - y) ** 2).mean(axis=-1)


CLASS_ACCURACY = Metric(name="accuracy", per_row=_hits_of_classes, finish=float)
LABEL_ACCURACY = Metric(name="accuracy", per_row=_hits_of_labels, finish=float)
RMSE = Metric(name="rmse", per_row=_squared_error, finish=lambda mean: float(mean) ** 0.5)


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss on logits.

    Attributes
    ----------
    name : str
        Its name in files and on the command line.
    formula : callable
        ``formula(xp, z, y, smoothing) -> (value, delta)``. z, y and delta are (…, rows, n); value is
        (…, rows), or (…, rows, n) still to be summed over the outputs of a row. Class targets may be
        integers (…, rows). `smoothing` is a number or broadcasts against z.
    output_activation : Activation or Softmax
        What turns logits into predictions.
    metric : Metric
        Reported along with it.
    classification : bool
        Whether targets are classes or labels; only then may labels be smoothed.
    scalar_value, scalar_delta : str or None
        Value and delta as expressions in ``z``, ``y``, ``s`` (the smoothing) and ``j`` (the index of the output z), for
        elementwise losses.
    targets : tuple of (float, float)
        The interval in which every target must lie.
    row_loop : str or None
        A loss that is not elementwise has a loop of its own in each fused backend; this is its name.
    values : Loss or None
        The loss on values from which `with_output_activation` made this one.
    quantiles : tuple of float
        The quantile that each output predicts, where there are several; one target per row is then the target of all
        outputs.

    Examples
    --------
    A loss of your own gives value and delta from the logits; without scalar expressions it runs unfused.

    >>> import gpubp
    >>> from gpubp.activations import identity
    >>> def log_cosh(xp, z, y, smoothing):
    ...     return xp.log(xp.cosh(z - y)), xp.tanh(z - y)
    >>> loss = gpubp.Loss(name="log_cosh", formula=log_cosh, output_activation=identity())
    >>> net = gpubp.MLP([2, 4, 1], "tanh", loss, precision="float64", device="cpu-reference")
    >>> gpubp.check_gradients(net, [[0.5, -1.0]], [0.3]).ok
    True
    """

    name: str
    formula: Callable[[Namespace, Array, Array, Array], tuple[Array, Array]]
    output_activation: Activation | Softmax
    metric: Metric = RMSE
    classification: bool = False
    scalar_value: str | None = None
    scalar_delta: str | None = None
    targets: tuple[float, float] = (-inf, inf)
    row_loop: str | None = None
    values: Loss | None = None
    quantiles: tuple[float, ...] = ()

    @property
    def integer_targets(self) -> bool:
        """Whether the targets are class indices: one integer per row for all outputs together."""
        return self.metric is CLASS_ACCURACY

    def metric_name(self, n_outputs: int) -> str:
        """The name of the metric of a network with `n_outputs` outputs.

        Returns
        -------
        str
            "accuracy", the fraction of rows that are right, or "rmse"; where there are several labels per row,
            "label_accuracy", the fraction of labels that are right.
        """
        return "label_accuracy" if self.metric is LABEL_ACCURACY and n_outputs > 1 else self.metric.name


def half_squared_error() -> Loss:
    """C = ½ Σⱼ (zⱼ − yⱼ)²; ∂C/∂z = z − y."""

    def formula(xp: Namespace, z: Array, y: Array, smoothing: Array) -> tuple[Array, Array]:
        error = z - y
        return 0.5 * error * error, error

    return Loss(
        name="half_squared_error",
        formula=formula,
        output_activation=identity(),
        scalar_value="T(0.5) * (z - y) * (z - y)",
        scalar_delta="z - y",
    )


def absolute_error() -> Loss:
    """C = Σⱼ |zⱼ − yⱼ|; ∂C/∂z = ±1, and 0 where they are equal."""

    def formula(xp: Namespace, z: Array, y: Array, smoothing: Array) -> tuple[Array, Array]:
        error = z - y
        sign = xp.where(error.real > 0, xp.ones_like(z), xp.where(error.real < 0, -xp.ones_like(z), 0 * error))
        return sign * error, sign

    return Loss(
        name="absolute_error",
        formula=formula,
        output_activation=identity(),
        scalar_value="fabs(z - y)",
        scalar_delta="select(z > y, T(1), select(z < y, T(-1), T(0) * (z - y)))",
    )


def huber(delta: float = 1.0) -> Loss:
    """C = Σⱼ ½e² for |e| ≤ d, else d(|e| − ½d), with e = z − y; ∂C/∂z = e cut to ±d. Source: Huber, 1964."""
    delta = float(delta)
    require("huber", "delta", delta, 0 < delta < inf, "delta > 0, such as 1.0")

    def formula(xp: Namespace, z: Array, y: Array, smoothing: Array) -> tuple[Array, Array]:
        error = z - y
        cut = xp.minimum(xp.maximum(error, -delta), delta)
        return cut * (error - 0.5 * cut), cut

    d = f"T({delta!r})"
    cut = f"select(z - y > {d}, {d}, select(z - y < -{d}, -{d}, z - y))"
    return Loss(
        name=canonical("huber", delta=(delta, 1.0)),
        formula=formula,
        output_activation=identity(),
        scalar_value=f"{cut} * (z - y - T(0.5) * {cut})",
        scalar_delta=cut,
    )


def quantile(q: float = 0.5, *others: float) -> Loss:
    """C = Σⱼ max(q (yⱼ − zⱼ), (q − 1)(yⱼ − zⱼ)), least at the q-quantile of y. Source: Koenker and Bassett, 1978.

    ``quantile(0.1, 0.5, 0.9)`` is for three outputs, the j-th of which has the j-th q. Nothing prevents them from
    crossing where the network is unsure.
    """
    levels = [float(level) for level in (q, *others)]
    for level in levels:
        require("quantile", "q", level, 0 < level < 1, "0 < q < 1, such as 0.9")
    slopes_over, slopes_under = [1 - level for level in levels], [-level for level in levels]

    def formula(xp: Namespace, z: Array, y: Array, smoothing: Array) -> tuple[Array, Array]:
        error, dtype = z - y, z.real.dtype
        over, under = (xp.asarray(slopes, dtype=dtype) for slopes in (slopes_over, slopes_under))  # (n,)
        ones = xp.ones_like(z)
        slope = xp.where(error.real > 0, over * ones, xp.where(error.real < 0, under * ones, 0 * error))
        return 2 * slope * (0.5 * z - 0.5 * y), slope  # z - y may overflow where the loss does not

    over, under = _of_output(slopes_over), _of_output(slopes_under)
    slope = f"select(z > y, {over}, select(z < y, {under}, T(0) * (z - y)))"
    return Loss(
        name=f"quantile({', '.join(map(str, levels))})" if others else canonical("quantile", q=(levels[0], 0.5)),
        formula=formula,
        output_activation=identity(),
        scalar_value=f"T(2) * ({slope}) * (T(0.5) * z - T(0.5) * y)",
        scalar_delta=slope,
        quantiles=tuple(levels) if others else (),
    )


def _of_output(constants: Sequence[float]) -> str:
    """The scalar expression of the constant of output j; the last also holds for all further outputs."""
    *first, last = (f"T({constant!r})" for constant in constants)
    chosen = last
    for j, constant in reversed(list(enumerate(first))):
        chosen = f"select(j == {j}, {constant}, {chosen})"
    return chosen


def poisson() -> Loss:
    """C = Σⱼ (exp zⱼ − yⱼ zⱼ), the Poisson log-likelihood but for ln y!; ∂C/∂z = exp z − y. Logits are log rates."""

    def formula(xp: Namespace, z: Array, y: Array, smoothing: Array) -> tuple[Array, Array]:
        rate = xp.exp(z)
        value = xp.where(rate.real == inf, rate, rate - y * z)  # y z may be infinite too
        return value, rate - y

    return Loss(
        name="poisson",
        formula=formula,
        output_activation=exponential(),
        scalar_value="select(exp(z) - exp(z) == T(0), exp(z) - y * z, exp(z))",
        scalar_delta="exp(z) - y",
        targets=(0.0, inf),
    )


def binary_cross_entropy() -> Loss:
    """C = Σⱼ ln(1 + exp zⱼ) − tⱼ zⱼ; ∂C/∂z = σ(z) − t: the factor σ′ cancels. One sigmoid per label.

    t = y + s(½ − y) is the target after label smoothing s. ln(1 + eᶻ) − tz is computed as
    ln(1 + e^−|z|) + max(z, 0) − tz, which neither overflows nor cancels.
    """

    def formula(xp: Namespace, z: Array, y: Array, smoothing: Array) -> tuple[Array, Array]:
        target = y + smoothing * (0.5 - y)
        positive = xp.maximum(z, 0)
        decay = xp.exp(z - 2 * positive)  # e^−|z|, at most 1
        probability = xp.where(z.real > 0, 1 / (1 + decay), decay / (1 + decay))
        return xp.log1p(decay) + (positive - target * z), probability - target

    target, decay = "(y + s * (T(0.5) - y))", "exp(-fabs(z))"
    return Loss(
        name="binary_cross_entropy",
        formula=formula,
        output_activation=sigmoid(),
        metric=LABEL_ACCURACY,
        classification=True,
        scalar_value=f"log1p({decay}) + (select(z > T(0), z, T(0)) - {target} * z)",
        scalar_delta=f"select(z > T(0), T(1), {decay}) / (T(1) + {decay}) - {target}",
        targets=(0.0, 1.0),
    )


def cross_entropy() -> Loss:
    """C = ln Σₖ exp zₖ − Σⱼ tⱼ zⱼ with softmax; ∂C/∂z = softmax(z) − t. The log-likelihood of a class.

    t = (1 − s) y + s/n is the target after label smoothing s (Szegedy et al., 2016). y is an integer class
    per row, or a distribution per row (one-hot). The row-wise loss: fused backends have one loop for it.

    The sum of the other exponentials is kept apart from that of the class, or of the largest logit: a network that is
    sure has a loss of ln(1 + others), which does not round to 0, however small they are.
    """

    def formula(xp: Namespace, z: Array, y: Array, smoothing: Array) -> tuple[Array, Array]:
        shifted = z - z.real.max(axis=-1, keepdims=True)
        e = xp.exp(shifted)
        index = (y if y.ndim < z.ndim else z.real.argmax(axis=-1))[..., None]
        one = xp.take_along_axis(e, index, axis=-1)
        xp.put_along_axis(e, index, 0 * one, axis=-1)
        others = e.sum(axis=-1, keepdims=True)
        xp.put_along_axis(e, index, one, axis=-1)
        delta = e / (others + one)
        if y.ndim < z.ndim:  # as with one-hot y, without building it
            chosen = xp.take_along_axis(shifted, index, axis=-1)
            picked = xp.take_along_axis(delta, index, axis=-1)
            if xp.any(smoothing):
                aim = (1 - smoothing) * chosen + smoothing * shifted.mean(axis=-1, keepdims=True)
                delta = delta - smoothing / z.shape[-1]
                picked = picked - smoothing / z.shape[-1]
            else:
                aim = chosen
            xp.put_along_axis(delta, index, picked - (1 - smoothing), axis=-1)
        else:
            target = (1 - smoothing) * y + smoothing / z.shape[-1]
            aim = (target * shifted).sum(axis=-1, keepdims=True)
            delta = delta - target
        return (xp.log1p(others + (one - 1)) - aim)[..., 0], delta

    return Loss(
        name="cross_entropy",
        formula=formula,
        output_activation=SOFTMAX,
        metric=CLASS_ACCURACY,
        classification=True,
        targets=(0.0, 1.0),
        row_loop="softmax_cross_entropy",
    )


def with_output_activation(loss: Loss, activation: Activation | Softmax) -> Loss:
    """`loss`, a loss on values, as a loss on the logits of another output activation.

    BP1 by the chain rule: δᴸ = ∇ₐC ⊙ σ′(zᴸ), or softmax's Jacobian. ``half_squared_error`` with
    ``sigmoid`` is Nielsen's first network: slow to learn where it starts badly wrong, since σ′ ≈ 0 there.
    """
    if activation.name == loss.output_activation.name:
        return loss
    if loss.output_activation.name != "identity":
        raise UsageError(
            f'loss "{loss.name}" is computed from logits and implies output activation '
            f'"{loss.output_activation.name}"; "{activation.name}" cannot replace it. '
            f'Use output_activation="auto", or a loss on values such as "half_squared_error"'
        )

    def formula(xp: Namespace, z: Array, y: Array, smoothing: Array) -> tuple[Array, Array]:
        a = activation.f(xp, z)
        value, grad_a = loss.formula(xp, a, y, smoothing)
        return value, activation.grad_z(xp, grad_a, z, a)

    return Loss(
        name=loss.name,
        formula=formula,
        output_activation=activation,
        metric=loss.metric,
        classification=loss.classification,
        targets=loss.targets,
        values=loss,
        quantiles=loss.quantiles,
    )


LOSSES: dict[str, Callable[..., Loss]] = {
    "half_squared_error": half_squared_error,
    "absolute_error": absolute_error,
    "huber": huber,
    "quantile": quantile,
    "poisson": poisson,
    "binary_cross_entropy": binary_cross_entropy,
    "cross_entropy": cross_entropy,
}


def get_loss(spec: str | Loss) -> Loss:
    """The loss that `spec`, a name such as ``"huber"`` or ``"quantile(0.9)"``, or a record, means."""
    return resolve("loss", LOSSES, spec, Loss)
