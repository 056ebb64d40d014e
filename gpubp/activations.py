"""The activation functions σ and their derivatives σ′.

Every activation is one entry here, and nothing else in gpubp knows its formula. The array formulas (``f``,
``derivative``) define it; the scalar expressions repeat it in the common subset of C++ and Python, from which fused
backends are generated. The two are written separately on purpose: parity tests compare them. Array formulas accept
complex input with a tiny imaginary part (complex-step differentiation), so they use no ``abs`` or ``sign``, and compare
real parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, pi, sqrt
from typing import Literal

from gpubp._typing import Array, Namespace
from gpubp.registry import canonical, require, resolve


@dataclass(frozen=True, slots=True)
class Activation:
    """An elementwise activation function.

    Attributes
    ----------
    name : str
        Its name in files and on the command line.
    f : callable
        ``f(xp, z) -> a``, both (…, n).
    derivative : callable
        ``derivative(xp, x) -> σ′`` with x = z or a as `derivative_from` says. May be boolean where
        σ′ is 0 or 1.
    derivative_from : {"a", "z"}
        With "a", the pre-activation z need not be kept: the function is applied in place and a layer costs one buffer
        instead of two.
    scalar_f, scalar_derivative : str or None
        The same functions as expressions in ``z`` (or ``a``) with ``T(1)`` for constants and
        ``select(c, x, y)`` for a choice. A record without them runs unfused.
    init : str
        The initializer that ``init="auto"`` picks for a layer with this activation.
    bounds : tuple of (float, float)
        No a is below the first or above the second; values to be predicted are scaled to lie between them.

    Examples
    --------
    A record of your own goes wherever a name does; scalar expressions let fused backends compile it.

    >>> import gpubp
    >>> squared_relu = gpubp.Activation(
    ...     name="squared_relu",
    ...     f=lambda xp, z: xp.where(z.real > 0, z * z, 0 * z),
    ...     derivative=lambda xp, z: xp.where(z.real > 0, 2 * z, 0 * z),
    ...     derivative_from="z",
    ...     scalar_f="select(z > T(0), z * z, T(0))",
    ...     scalar_derivative="select(z > T(0), T(2) * z, T(0))",
    ... )
    >>> gpubp.MLP([4, 8, 3], squared_relu, device="cpu-reference").activations[0].name
    'squared_relu'
    """

    name: str
    f: Callable[[Namespace, Array], Array]
    derivative: Callable[[Namespace, Array], Array]
    derivative_from: Literal["a", "z"]
    scalar_f: str | None = None
    scalar_derivative: str | None = None
    init: str = "xavier_uniform"
    bounds: tuple[float, float] = (-inf, inf)

    def grad_z(self, xp: Namespace, grad_a: Array, z: Array, a: Array) -> Array:
        """∂C/∂z from ∂C/∂a: the Hadamard product grad_a ⊙ σ′(z) of BP1 and BP2."""
        return grad_a * self.derivative(xp, a if self.derivative_from == "a" else z)


@dataclass(frozen=True, slots=True)
class Softmax:
    """softmax(z)_j = exp(z_j) / Σ_k exp(z_k), over the last axis; an output activation only.

    Its derivative is a Jacobian, not a Hadamard factor: ∂a_j/∂z_k = a_j (1_{jk} − a_k).
    Source: Bridle, 1990.
    """

    name: str = "softmax"
    init: str = "xavier_uniform"
    bounds: tuple[float, float] = (0.0, 1.0)

    def f(self, xp: Namespace, z: Array) -> Array:
        """Probabilities from logits, both (…, n); the largest logit is subtracted first."""
        e = xp.exp(z - z.real.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    def grad_z(self, xp: Namespace, grad_a: Array, z: Array, a: Array) -> Array:
        """∂C/∂z from ∂C/∂a through the Jacobian: a ⊙ (grad_a − Σ_k a_k grad_a_k)."""
        return a * (grad_a - (a * grad_a).sum(axis=-1, keepdims=True))


def identity() -> Activation:
    """a = z; σ′ = 1."""
    return Activation(
        name="identity",
        f=lambda xp, z: z,
        derivative=lambda xp, a: xp.ones_like(a),
        derivative_from="a",
        scalar_f="z",
        scalar_derivative="T(1)",
    )


def sigmoid() -> Activation:
    """a = 1 / (1 + e⁻ᶻ); σ′ = a (1 − a), at most ¼. For z → −∞ the exponential overflows to the right 0."""
    return Activation(
        name="sigmoid",
        f=lambda xp, z: 1 / (1 + xp.exp(-z)),
        derivative=lambda xp, a: a * (1 - a),
        derivative_from="a",
        scalar_f="T(1) / (T(1) + exp(-z))",
        scalar_derivative="a * (T(1) - a)",
        bounds=(0.0, 1.0),
    )


def tanh() -> Activation:
    """a = tanh z; σ′ = 1 − a²."""
    return Activation(
        name="tanh",
        f=lambda xp, z: xp.tanh(z),
        derivative=lambda xp, a: 1 - a * a,
        derivative_from="a",
        scalar_f="tanh(z)",
        scalar_derivative="T(1) - a * a",
        bounds=(-1.0, 1.0),
    )


def relu() -> Activation:
    """a = max(0, z); σ′ = 1 for z > 0 and 0 at z ≤ 0. NaN stays NaN. Source: Nair and Hinton, 2010."""
    return Activation(
        name="relu",
        f=lambda xp, z: xp.maximum(z, 0),
        derivative=lambda xp, a: a.real > 0,
        derivative_from="a",
        scalar_f="select(z <= T(0), T(0), z)",
        scalar_derivative="select(a > T(0), T(1), T(0))",
        init="he_normal",
        bounds=(0.0, inf),
    )


def leaky_relu(slope: float = 0.01) -> Activation:
    """a = z for z > 0, else slope·z; σ′ = 1 or slope. Source: Maas, Hannun and Ng, 2013."""
    slope = float(slope)
    # σ′ is read off the sign of a, which is the sign of z only then
    require("leaky_relu", "slope", slope, 0 <= slope < inf, "slope >= 0, such as 0.01")
    return Activation(
        name=canonical("leaky_relu", slope=(slope, 0.01)),
        f=lambda xp, z: xp.where(z.real > 0, z, slope * z),
        derivative=lambda xp, a: xp.where(a.real > 0, xp.ones_like(a), a.dtype.type(slope)),
        derivative_from="a",
        scalar_f=f"select(z > T(0), z, T({slope!r}) * z)",
        scalar_derivative=f"select(a > T(0), T(1), T({slope!r}))",
        init="he_normal",
        bounds=(-inf if slope else 0.0, inf),
    )


def elu(alpha: float = 1.0) -> Activation:
    """a = z for z > 0, else α (eᶻ − 1); σ′ = 1 or a + α. Source: Clevert, Unterthiner and Hochreiter, 2015."""
    alpha = float(alpha)
    require("elu", "alpha", alpha, 0 <= alpha < inf, "alpha >= 0, such as 1.0")
    return Activation(
        name=canonical("elu", alpha=(alpha, 1.0)),
        f=lambda xp, z: xp.where(z.real > 0, z, alpha * xp.expm1(xp.minimum(z, 0))),
        derivative=lambda xp, a: xp.where(a.real > 0, xp.ones_like(a), a + alpha),
        derivative_from="a",
        scalar_f=f"select(z > T(0), z, T({alpha!r}) * expm1(z))",
        scalar_derivative=f"select(a > T(0), T(1), a + T({alpha!r}))",
        init="he_normal",
        bounds=(-alpha, inf),
    )


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def selu() -> Activation:
    """a = λz for z > 0, else λα (eᶻ − 1); σ′ = λ or a + λα.

    λ and α make mean 0 and variance 1 a fixed point of a layer. Source: Klambauer et al., 2017.
    """
    scale, floor = _SELU_SCALE, _SELU_SCALE * _SELU_ALPHA
    return Activation(
        name="selu",
        f=lambda xp, z: xp.where(z.real > 0, scale * z, floor * xp.expm1(xp.minimum(z, 0))),
        derivative=lambda xp, a: xp.where(a.real > 0, a.dtype.type(scale), a + floor),
        derivative_from="a",
        scalar_f=f"select(z > T(0), T({scale!r}) * z, T({floor!r}) * expm1(z))",
        scalar_derivative=f"select(a > T(0), T({scale!r}), a + T({floor!r}))",
        init="lecun_normal",
        bounds=(-floor, inf),
    )


def softplus() -> Activation:
    """a = ln(1 + eᶻ), written max(z, 0) + ln(1 + e^−|z|); σ′ = 1/(1 + e⁻ᶻ) = 1 − e⁻ᵃ. Source: Dugas et al., 2000."""

    def f(xp: Namespace, z: Array) -> Array:
        positive = xp.maximum(z, 0)
        return positive + xp.log1p(xp.exp(z - 2 * positive))  # z − 2 max(z, 0) = −|z|

    return Activation(
        name="softplus",
        f=f,
        derivative=lambda xp, a: -xp.expm1(-a),
        derivative_from="a",
        scalar_f="select(z > T(0), z, T(0)) + log1p(exp(-fabs(z)))",
        scalar_derivative="-expm1(-a)",
        init="he_normal",
        bounds=(0.0, inf),
    )


def gelu() -> Activation:
    """a = z Φ(z), Φ the normal distribution function; σ′ = Φ(z) + z φ(z). Source: Hendrycks and Gimpel, 2016."""
    half_root, density = sqrt(0.5), 1 / sqrt(2 * pi)
    phi = f"T(0.5) * erfc(z * T({-half_root!r}))"  # not ½ (1 + erf), which cancels to 0 far below 0
    return Activation(
        name="gelu",
        f=lambda xp, z: 0.5 * z * xp.erfc(z * -half_root),
        derivative=lambda xp, z: 0.5 * xp.erfc(z * -half_root) + z * (density * xp.exp(-0.5 * z * z)),
        derivative_from="z",
        scalar_f=f"z * ({phi})",
        scalar_derivative=f"{phi} + z * (T({density!r}) * exp(T(-0.5) * z * z))",
        init="he_normal",
        bounds=(-0.1699713, inf),
    )


def gelu_tanh() -> Activation:
    """a = z s, s = ½ (1 + tanh u) = 1/(1 + e⁻²ᵘ), u = √(2/π) (z + 0.044715 z³); σ′ = s + 2 z s (1 − s) u′.

    GELU's tanh form. Source: Hendrycks and Gimpel, 2016.
    """
    c, cubic = 2 * sqrt(2 / pi), 0.044715

    def square(xp: Namespace, z: Array) -> Array:
        return xp.minimum(z * z, 1e4)  # s is 0 or 1 long before, and z² must not overflow

    def logistic(xp: Namespace, z: Array) -> tuple[Array, Array]:
        w = c * z * (1 + cubic * square(xp, z))
        decay = xp.exp(w - 2 * xp.maximum(w, 0))  # e^−|w|, at most 1
        s = xp.where(w.real > 0, xp.ones_like(decay), decay) / (1 + decay)
        return s, decay / ((1 + decay) * (1 + decay))  # s (1 − s), where computing 1 − s would lose digits

    def derivative(xp: Namespace, z: Array) -> Array:
        s, slope = logistic(xp, z)
        return s + z * slope * (c * (1 + 3 * cubic * square(xp, z)))

    zz = "select(z * z < T(10000), z * z, T(10000))"
    w = f"T({c!r}) * z * (T(1) + T({cubic!r}) * {zz})"
    decay = f"exp(-fabs({w}))"
    s = f"(select({w} > T(0), T(1), {decay}) / (T(1) + {decay}))"
    slope = f"{decay} / ((T(1) + {decay}) * (T(1) + {decay}))"
    return Activation(
        name="gelu_tanh",
        f=lambda xp, z: z * logistic(xp, z)[0],
        derivative=derivative,
        derivative_from="z",
        scalar_f=f"z * {s}",
        scalar_derivative=f"{s} + z * ({slope}) * (T({c!r}) * (T(1) + T({3 * cubic!r}) * {zz}))",
        init="he_normal",
        bounds=(-0.1700408, inf),
    )


def silu() -> Activation:
    """a = z s with s = 1/(1 + e⁻ᶻ); σ′ = s (1 + z (1 − s)). Also called swish. Source: Elfwing et al., 2017."""

    def derivative(xp: Namespace, z: Array) -> Array:
        s = 1 / (1 + xp.exp(-z))
        return s * (1 + z * (1 - s))

    s = "(T(1) / (T(1) + exp(-z)))"
    return Activation(
        name="silu",
        f=lambda xp, z: z / (1 + xp.exp(-z)),
        derivative=derivative,
        derivative_from="z",
        scalar_f="z / (T(1) + exp(-z))",
        scalar_derivative=f"{s} * (T(1) + z * (T(1) - {s}))",
        init="he_normal",
        bounds=(-0.2784646, inf),
    )


def mish() -> Activation:
    """a = z t with t = tanh(ln(1 + eᶻ)); σ′ = t + z (1 − t²) / (1 + e⁻ᶻ). Source: Misra, 2019.

    With w = eᶻ and n = w (w + 2), t = n / (n + 2) and (1 − t²) / (1 + e⁻ᶻ) = 4 w (1 + w) / (n + 2)²: one exponential
    instead of three functions. From z = 20 on, t is 1 to the last digit; w is capped at its value there, so that n² is
    finite.
    """

    def terms(xp: Namespace, z: Array) -> tuple[Array, Array, Array]:
        capped = xp.minimum(z, 20)
        w = xp.exp(capped)
        return capped, w, w * (w + 2)

    def f(xp: Namespace, z: Array) -> Array:
        _, _, n = terms(xp, z)
        return z * (n / (n + 2))

    def derivative(xp: Namespace, z: Array) -> Array:
        capped, w, n = terms(xp, z)
        return n / (n + 2) + 4 * capped * (w / (n + 2)) * ((1 + w) / (n + 2))

    capped = "select(z > T(20), T(20), z)"  # NaN stays NaN
    w = f"exp({capped})"
    n = f"({w} * ({w} + T(2)))"
    return Activation(
        name="mish",
        f=f,
        derivative=derivative,
        derivative_from="z",
        scalar_f=f"z * ({n} / ({n} + T(2)))",
        scalar_derivative=f"({n} + T(4) * {capped} * ({w} * (T(1) + {w})) / ({n} + T(2))) / ({n} + T(2))",
        init="he_normal",
        bounds=(-0.3088435, inf),
    )


def exponential() -> Activation:
    """a = eᶻ; σ′ = a. The mean of a Poisson model whose logits are log rates."""
    return Activation(
        name="exponential",
        f=lambda xp, z: xp.exp(z),
        derivative=lambda xp, a: a,
        derivative_from="a",
        scalar_f="exp(z)",
        scalar_derivative="a",
        bounds=(0.0, inf),
    )


SOFTMAX = Softmax()

_OTHER_NAMES = {"swish": "silu"}  # other names that users look for, and the table's

ACTIVATIONS: dict[str, Callable[..., Activation]] = {
    "identity": identity,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "selu": selu,
    "softplus": softplus,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "mish": mish,
    "exponential": exponential,
}


def get_activation(spec: str | Activation) -> Activation:
    """The activation that `spec`, a name such as ``"relu"`` or ``"leaky_relu(0.2)"``, or a record, means."""
    named = _OTHER_NAMES.get(spec, spec) if isinstance(spec, str) else spec
    return resolve("activation", ACTIVATIONS, named, Activation)


def get_output_activation(spec: str | Activation | Softmax) -> Activation | Softmax:
    """Like `get_activation`, but also ``"softmax"``, which only an output layer can have."""
    return SOFTMAX if isinstance(spec, Softmax) or spec == "softmax" else get_activation(spec)
