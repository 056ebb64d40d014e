"""The optimizers: how a gradient becomes an update.

Every optimizer is one entry here. Its scalars (step size with bias correction, …) depend on the network
and the step only and are computed once per step in float64; its element rule is applied to each
parameter. Both exist twice, as array formulas and as ordered assignments in the common subset of C++ and
Python, from which fused backends are generated. θ ← θ − update.

``weight_decay`` is decoupled for all of them (Loshchilov and Hutter, 2019): the backend subtracts
learning_rate · weight_decay · W from weights, never from biases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpubp._typing import Array, Namespace
from gpubp.errors import UsageError, suggest
from gpubp.registry import resolve

Scalars = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Optimizer:
    """An update rule.

    Attributes
    ----------
    name : str
        Its name on the command line.
    scalars : callable
        ``scalars(o) -> {name: value}`` in float64, from the options and from ``o["lr"]`` and ``o["t"]``,
        the number of this update counted from 1.
    step : callable
        ``step(xp, g, slots, s) -> (update, new_slots)``: elementwise, g and slots of one shape, `s` the
        scalars in their dtype.
    slots : tuple of str
        The state kept per parameter, zero at first.
    options : mapping of str to float
        Options and their defaults.
    weight_decay : float
        The decoupled weight decay when the user names none.
    scalar_prologue, scalar_step : tuple of (str, str) or None
        `scalars` and `step` as assignments ``(name, expression)``; the step assigns slots and ``update``.

    Examples
    --------
    Gradient descent on the sign of the gradient, without scalar expressions: it runs unfused.

    >>> import gpubp
    >>> sign_descent = gpubp.Optimizer(
    ...     name="sign_descent",
    ...     scalars=lambda o: {"lr": o["lr"]},
    ...     step=lambda xp, g, slots, s: (s["lr"] * xp.sign(g), ()),
    ... )
    >>> net = gpubp.MLP([2, 1], loss="half_squared_error", device="cpu-reference")
    >>> history = gpubp.train(net, [[1, 0], [0, 1]], [1, 2], optimizer=sign_descent, learning_rate=0.1, epochs=50)
    >>> history.loss[-1] < history.loss[0]
    True
    """

    name: str
    scalars: Callable[[Scalars], dict[str, Array]]
    step: Callable[[Namespace, Array, tuple[Array, ...], Scalars], tuple[Array, tuple[Array, ...]]]
    slots: tuple[str, ...] = ()
    options: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 0.0
    scalar_prologue: tuple[tuple[str, str], ...] | None = None
    scalar_step: tuple[tuple[str, str], ...] | None = None

    def configured(self, options: Mapping[str, Any] | None) -> dict[str, Any]:
        """The options with the user's values in place of defaults.

        Raises
        ------
        UsageError
            If an option is unknown, or is not between 0 and 1 (``eps``: positive).
        """
        if options is not None and not isinstance(options, Mapping):
            raise UsageError(f"optimizer_options={options!r} does not fit; give a dict, such as {{'beta1': 0.9}}")
        chosen = dict(options or {})
        for key, value in chosen.items():
            if key not in self.options:
                hint = suggest(str(key), self.options) if self.options else "it takes none"
                raise UsageError(f'optimizer "{self.name}" has no option "{key}"; {hint}')
            values = [value] if isinstance(value, str) or not hasattr(value, "__len__") else value
            for v in values:
                try:
                    valid = v > 0 if key == "eps" else 0 <= v < 1
                except TypeError:
                    valid = False
                if not valid:
                    rule = "eps > 0" if key == "eps" else f"0 <= {key} < 1"
                    raise UsageError(f'optimizer "{self.name}": {key}={v} does not fit; use {rule}')
        return {**self.options, **chosen}


def sgd() -> Optimizer:
    """update = η g. Gradient descent; with small batches, stochastic. Source: Robbins and Monro, 1951."""
    return Optimizer(
        name="sgd",
        scalars=lambda o: {"lr": o["lr"]},
        step=lambda xp, g, slots, s: (s["lr"] * g, ()),
        scalar_prologue=(),
        scalar_step=(("update", "lr * g"),),
    )


def momentum() -> Optimizer:
    """v ← μ v + g; update = η v. Source: Polyak, 1964."""

    def step(xp: Namespace, g: Array, slots: tuple[Array, ...], s: Scalars) -> tuple[Array, tuple[Array, ...]]:
        v = s["momentum"] * slots[0] + g
        return s["lr"] * v, (v,)

    return Optimizer(
        name="momentum",
        scalars=lambda o: {"lr": o["lr"], "momentum": o["momentum"]},
        step=step,
        slots=("v",),
        options={"momentum": 0.9},
        scalar_prologue=(),
        scalar_step=(("v", "momentum * v + g"), ("update", "lr * v")),
    )


def nesterov() -> Optimizer:
    """v ← μ v + g; update = η (g + μ v). Source: Sutskever et al., 2013, after Nesterov, 1983."""

    def step(xp: Namespace, g: Array, slots: tuple[Array, ...], s: Scalars) -> tuple[Array, tuple[Array, ...]]:
        v = s["momentum"] * slots[0] + g
        return s["lr"] * (g + s["momentum"] * v), (v,)

    return Optimizer(
        name="nesterov",
        scalars=lambda o: {"lr": o["lr"], "momentum": o["momentum"]},
        step=step,
        slots=("v",),
        options={"momentum": 0.9},
        scalar_prologue=(),
        scalar_step=(("v", "momentum * v + g"), ("update", "lr * (g + momentum * v)")),
    )


def adagrad() -> Optimizer:
    """v ← v + g²; update = η g / (√v + ε). Source: Duchi, Hazan and Singer, 2011."""

    def step(xp: Namespace, g: Array, slots: tuple[Array, ...], s: Scalars) -> tuple[Array, tuple[Array, ...]]:
        v = slots[0] + g * g
        return s["lr"] * g / (xp.sqrt(v) + s["eps"]), (v,)

    return Optimizer(
        name="adagrad",
        scalars=lambda o: {"lr": o["lr"], "eps": o["eps"]},
        step=step,
        slots=("v",),
        options={"eps": 1e-10},
        scalar_prologue=(),
        scalar_step=(("v", "v + g * g"), ("update", "lr * g / (sqrt(v) + eps)")),
    )


def rmsprop() -> Optimizer:
    """v ← ρ v + (1 − ρ) g²; update = η g / (√v + ε). Source: Tieleman and Hinton, 2012."""

    def step(xp: Namespace, g: Array, slots: tuple[Array, ...], s: Scalars) -> tuple[Array, tuple[Array, ...]]:
        v = s["rho"] * slots[0] + s["rest"] * (g * g)
        return s["lr"] * g / (xp.sqrt(v) + s["eps"]), (v,)

    return Optimizer(
        name="rmsprop",
        scalars=lambda o: {"lr": o["lr"], "rho": o["rho"], "rest": 1 - o["rho"], "eps": o["eps"]},
        step=step,
        slots=("v",),
        options={"rho": 0.99, "eps": 1e-8},
        scalar_prologue=(("rest", "1 - rho"),),
        scalar_step=(("v", "rho * v + rest * (g * g)"), ("update", "lr * g / (sqrt(v) + eps)")),
    )


def adam() -> Optimizer:
    """m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g²; update = η m̂ / (√v̂ + ε), m̂ = m/(1−β₁ᵗ), v̂ = v/(1−β₂ᵗ).

    Source: Kingma and Ba, 2015. η/(1−β₁ᵗ) and 1/√(1−β₂ᵗ) are scalars of the step.
    """

    def scalars(o: Scalars) -> dict[str, Array]:
        return {
            "beta1": o["beta1"],
            "rest1": 1 - o["beta1"],
            "beta2": o["beta2"],
            "rest2": 1 - o["beta2"],
            "rate": o["lr"] / (1 - o["beta1"] ** o["t"]),
            "root": (1 - o["beta2"] ** o["t"]) ** -0.5,
            "eps": o["eps"],
        }

    def step(xp: Namespace, g: Array, slots: tuple[Array, ...], s: Scalars) -> tuple[Array, tuple[Array, ...]]:
        m = s["beta1"] * slots[0] + s["rest1"] * g
        v = s["beta2"] * slots[1] + s["rest2"] * (g * g)
        return s["rate"] * m / (s["root"] * xp.sqrt(v) + s["eps"]), (m, v)

    return Optimizer(
        name="adam",
        scalars=scalars,
        step=step,
        slots=("m", "v"),
        options={"beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
        scalar_prologue=(
            ("rest1", "1 - beta1"),
            ("rest2", "1 - beta2"),
            ("rate", "lr / (1 - pow(beta1, t))"),
            ("root", "1 / sqrt(1 - pow(beta2, t))"),
        ),
        scalar_step=(
            ("m", "beta1 * m + rest1 * g"),
            ("v", "beta2 * v + rest2 * (g * g)"),
            ("update", "rate * m / (root * sqrt(v) + eps)"),
        ),
    )


def adamw() -> Optimizer:
    """Adam with decoupled weight decay, 0.01 unless named. Source: Loshchilov and Hutter, 2019."""
    rule = adam()
    return Optimizer(
        name="adamw",
        scalars=rule.scalars,
        step=rule.step,
        slots=rule.slots,
        options=rule.options,
        weight_decay=1e-2,
        scalar_prologue=rule.scalar_prologue,
        scalar_step=rule.scalar_step,
    )


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": nesterov,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adamw,
}


def get_optimizer(spec: str | Optimizer) -> Optimizer:
    """The optimizer that `spec`, a name such as ``"adam"``, or a record, means."""
    return resolve("optimizer", OPTIMIZERS, spec, Optimizer)
