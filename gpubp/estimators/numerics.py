"""scikit-learn's conventions where they differ from gpubp's, expressed as the engine's own records.

Only the differences are here; `OptimizerState.l2_by_batch` is the L2 penalty divided by a batch's weight.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from gpubp._typing import Array, Namespace
from gpubp.activations import Activation, Softmax, get_activation, get_output_activation
from gpubp.initializers import Initializer, get_initializer
from gpubp.losses import Loss, half_squared_error, poisson
from gpubp.optimizers import Optimizer, Scalars
from gpubp.optimizers import adam as standard_adam

# scikit-learn's name -> gpubp's, where they differ
ACTIVATION_NAMES = {"logistic": "sigmoid", "exp": "exponential"}


def activation_record(spec: str | Activation) -> Activation:
    """The record for scikit-learn's name, gpubp's name or a record."""
    return get_activation(ACTIVATION_NAMES.get(spec, spec) if isinstance(spec, str) else spec)


def output_activation_record(name: str) -> Activation | Softmax:
    """The record for scikit-learn's or gpubp's name of an output activation."""
    return get_output_activation(ACTIVATION_NAMES.get(name, name))


def sklearn_name(activation: str) -> str:
    """scikit-learn's name of an activation, or gpubp's if it has none."""
    return {gpubp: sklearn for sklearn, gpubp in ACTIVATION_NAMES.items()}.get(activation, activation)


def draw_layer(
    rng: np.random.RandomState, fan_in: int, fan_out: int, activation: str, init: str | Initializer
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (fan_in, fan_out) and biases (fan_out,) of a new layer.

    For ``"auto"`` both are uniform within √(6 / (fan_in + fan_out)), √(2 / …) for the logistic function, after Glorot
    and Bengio, 2010; otherwise an initializer draws them with a seed from `rng`.
    """
    if init != "auto":
        initializer, seed = get_initializer(init, "auto"), int(rng.randint(np.iinfo(np.int32).max))
        generator = np.random.default_rng(seed)
        return initializer.weights(generator, fan_in, fan_out), initializer.biases(generator, fan_out)
    bound = np.sqrt((2.0 if activation == "logistic" else 6.0) / (fan_in + fan_out))
    return rng.uniform(-bound, bound, (fan_in, fan_out)), rng.uniform(-bound, bound, fan_out)


# -- optimizers --------------------------------------------------------------------------------------------


@cache
def momentum() -> Optimizer:
    """v ← μ v + η g, with the learning rate inside v; update = v."""

    def step(xp: Namespace, g: Array, slots: tuple[Array, ...], s: Scalars) -> tuple[Array, tuple[Array, ...]]:
        v = s["momentum"] * slots[0] + s["lr"] * g
        return v, (v,)

    return Optimizer(
        name="momentum with the rate inside",
        scalars=lambda o: {"lr": o["lr"], "momentum": o["momentum"]},
        step=step,
        slots=("v",),
        options={"momentum": 0.9},
        scalar_prologue=(),
        scalar_step=(("v", "momentum * v + lr * g"), ("update", "v")),
    )


@cache
def nesterov() -> Optimizer:
    """v ← μ v + η g, with the learning rate inside v; update = μ v + η g."""

    def step(xp: Namespace, g: Array, slots: tuple[Array, ...], s: Scalars) -> tuple[Array, tuple[Array, ...]]:
        v = s["momentum"] * slots[0] + s["lr"] * g
        return s["momentum"] * v + s["lr"] * g, (v,)

    return replace(
        momentum(),
        name="nesterov with the rate inside",
        step=step,
        scalar_step=(("v", "momentum * v + lr * g"), ("update", "momentum * v + lr * g")),
    )


@cache
def adam() -> Optimizer:
    """Adam with ε outside the bias correction: update = η √(1−β₂ᵗ)/(1−β₁ᵗ) · m / (√v + ε)."""
    standard = standard_adam()

    def scalars(o: Scalars) -> dict[str, Array]:
        return {
            "beta1": o["beta1"],
            "rest1": 1 - o["beta1"],
            "beta2": o["beta2"],
            "rest2": 1 - o["beta2"],
            "rate": o["lr"] * (1 - o["beta2"] ** o["t"]) ** 0.5 / (1 - o["beta1"] ** o["t"]),
            "eps": o["eps"],
        }

    def step(xp: Namespace, g: Array, slots: tuple[Array, ...], s: Scalars) -> tuple[Array, tuple[Array, ...]]:
        m = s["beta1"] * slots[0] + s["rest1"] * g
        v = s["beta2"] * slots[1] + s["rest2"] * (g * g)
        return s["rate"] * m / (xp.sqrt(v) + s["eps"]), (m, v)

    return Optimizer(
        name="adam with eps outside",
        scalars=scalars,
        step=step,
        slots=standard.slots,
        options=standard.options,
        scalar_prologue=(
            ("rest1", "1 - beta1"),
            ("rest2", "1 - beta2"),
            ("rate", "lr * sqrt(1 - pow(beta2, t)) / (1 - pow(beta1, t))"),
        ),
        scalar_step=(
            ("m", "beta1 * m + rest1 * g"),
            ("v", "beta2 * v + rest2 * (g * g)"),
            ("update", "rate * m / (sqrt(v) + eps)"),
        ),
    )


@cache
def summing() -> Optimizer:
    """total ← total + g; no update. One epoch leaves the gradient of all rows in its slot."""

    def step(xp: Namespace, g: Array, slots: tuple[Array, ...], s: Scalars) -> tuple[Array, tuple[Array, ...]]:
        return xp.zeros_like(g), (slots[0] + g,)

    return Optimizer(
        name="summing",
        scalars=lambda o: {"lr": o["lr"]},
        step=step,
        slots=("total",),
        scalar_prologue=(),
        scalar_step=(("total", "total + g"), ("update", "T(0) * g")),
    )


# -- losses ------------------------------------------------------------------------------------------------


@cache
def squared_error(n_outputs: int) -> Loss:
    """C = ½ (1/n) Σⱼ (zⱼ − yⱼ)², a mean over the outputs, but ∂C/∂z = z − y, as for their sum."""
    loss = half_squared_error()
    if n_outputs == 1:
        return loss

    def formula(xp: Namespace, z: Array, y: Array, smoothing: Array) -> tuple[Array, Array]:
        value, delta = loss.formula(xp, z, y, smoothing)
        return value / n_outputs, delta

    return replace(loss, formula=formula, scalar_value=f"{loss.scalar_value} / T({n_outputs})")


@cache
def poisson_deviance() -> Loss:
    """C = Σⱼ (exp zⱼ − yⱼ zⱼ + yⱼ ln yⱼ − yⱼ), half the deviance; ∂C/∂z = exp z − y. ln y is log1p(y − 1)."""
    loss = poisson()

    def formula(xp: Namespace, z: Array, y: Array, smoothing: Array) -> tuple[Array, Array]:
        value, delta = loss.formula(xp, z, y, smoothing)
        return value + xp.where(y > 0, y * xp.log1p(y - 1) - y, 0 * y), delta

    constant = "select(y > T(0), y * log1p(y - T(1)) - y, T(0))"
    return replace(loss, formula=formula, scalar_value=f"{loss.scalar_value} + {constant}")
