"""How the initial weights and biases are drawn.

A layer with `fan_in` inputs and `fan_out` outputs has weights of shape (fan_in, fan_out). Equal weights would stay
equal forever, so they are drawn at random; the variance is chosen so that signals (1/fan_in) or gradients (1/fan_out)
neither grow nor vanish from layer to layer. Draws are float64 and made on the host: every device and precision starts
from the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpubp.errors import UsageError
from gpubp.registry import canonical, resolve

Weights: TypeAlias = Callable[[np.random.Generator, int, int], NDArray[np.float64]]
Biases: TypeAlias = Callable[[np.random.Generator, int], NDArray[np.float64]]


def _no_biases(rng: np.random.Generator, fan_out: int) -> NDArray[np.float64]:
    return np.zeros(fan_out)


@dataclass(frozen=True, slots=True)
class Initializer:
    """A rule for the initial weights and biases of a layer.

    Attributes
    ----------
    name : str
        Its name in files and on the command line.
    weights : callable
        ``weights(rng, fan_in, fan_out)``, a new float64 array (fan_in, fan_out).
    biases : callable
        ``biases(rng, fan_out)``, a new float64 array (fan_out,); zeros unless said otherwise.

    Examples
    --------
    >>> import gpubp
    >>> def weights(rng, fan_in, fan_out):
    ...     return rng.normal(0, 0.01, (fan_in, fan_out))
    >>> small = gpubp.Initializer(name="small", weights=weights)
    >>> net = gpubp.MLP([100, 50, 2], init=small, device="cpu-reference")
    >>> bool(abs(net.weights[0]).max() < 0.1)
    True
    """

    name: str
    weights: Weights
    biases: Biases = _no_biases


def zeros() -> Initializer:
    """W = 0. Fine for a single layer, which is convex; in a deeper network a layer's units stay equal."""
    return Initializer(name="zeros", weights=lambda rng, fan_in, fan_out: np.zeros((fan_in, fan_out)))


def standard_normal() -> Initializer:
    """W ~ N(0, 1) and b ~ N(0, 1): large weights that saturate sigmoids. Source: Nielsen, 2015, chapter 1."""
    return Initializer(
        name="standard_normal",
        weights=lambda rng, fan_in, fan_out: rng.standard_normal((fan_in, fan_out)),
        biases=lambda rng, fan_out: rng.standard_normal(fan_out),
    )


def scaled_normal() -> Initializer:
    """W ~ N(0, 1) / √fan_in: the cure of the above, with b = 0. Source: Nielsen, 2015, chapter 3."""
    return _normal("scaled_normal", lambda fan_in, fan_out: 1 / fan_in)


def lecun_normal() -> Initializer:
    """W ~ N(0, 1/fan_in): `scaled_normal` under the name SELU's users know. Source: LeCun et al., 1998."""
    return _normal("lecun_normal", lambda fan_in, fan_out: 1 / fan_in)


def lecun_uniform() -> Initializer:
    """W ~ U(−r, r) with r = √(3/fan_in), so that Var W = 1/fan_in. Source: LeCun et al., 1998."""
    return _uniform("lecun_uniform", lambda fan_in, fan_out: 1 / fan_in)


def xavier_normal() -> Initializer:
    """W ~ N(0, 2/(fan_in + fan_out)). Source: Glorot and Bengio, 2010."""
    return _normal("xavier_normal", lambda fan_in, fan_out: 2 / (fan_in + fan_out))


def xavier_uniform() -> Initializer:
    """W ~ U(−r, r) with r = √(6/(fan_in + fan_out)). Source: Glorot and Bengio, 2010, equation 16."""
    return _uniform("xavier_uniform", lambda fan_in, fan_out: 2 / (fan_in + fan_out))


def he_normal() -> Initializer:
    """W ~ N(0, 2/fan_in): twice LeCun's variance, as ReLU halves the signal's. Source: He et al., 2015."""
    return _normal("he_normal", lambda fan_in, fan_out: 2 / fan_in)


def he_uniform() -> Initializer:
    """W ~ U(−r, r) with r = √(6/fan_in), so that Var W = 2/fan_in. Source: He et al., 2015."""
    return _uniform("he_uniform", lambda fan_in, fan_out: 2 / fan_in)


def orthogonal(gain: float = 1.0) -> Initializer:
    """W = gain·Q, Q with orthonormal rows or columns, whichever are fewer. Source: Saxe et al., 2013.

    Q is uniform (Haar) over all such matrices: the QR decomposition of a normal matrix, with R's diagonal
    made positive (Mezzadri, 2007). √2 is the usual gain before ReLU.
    """
    if not (gain > 0 and isfinite(gain)):
        raise UsageError(f"orthogonal: gain={gain} is not a positive number; use gain > 0, such as 1.4142")

    def weights(rng: np.random.Generator, fan_in: int, fan_out: int) -> NDArray[np.float64]:
        tall = rng.standard_normal((max(fan_in, fan_out), min(fan_in, fan_out)))
        q, r = np.linalg.qr(tall)
        q *= np.where(np.diagonal(r) < 0, -gain, gain)
        return np.ascontiguousarray(q if fan_in >= fan_out else q.T)

    return Initializer(name=canonical("orthogonal", gain=(gain, 1.0)), weights=weights)


def _normal(name: str, variance: Callable[[int, int], float]) -> Initializer:
    """W ~ N(0, variance(fan_in, fan_out))."""

    def weights(rng: np.random.Generator, fan_in: int, fan_out: int) -> NDArray[np.float64]:
        return rng.standard_normal((fan_in, fan_out)) * sqrt(variance(fan_in, fan_out))

    return Initializer(name=name, weights=weights)


def _uniform(name: str, variance: Callable[[int, int], float]) -> Initializer:
    """W ~ U(−r, r) with r = √(3·variance(fan_in, fan_out)), for the variance of U(−r, r) is r²/3."""

    def weights(rng: np.random.Generator, fan_in: int, fan_out: int) -> NDArray[np.float64]:
        bound = sqrt(3 * variance(fan_in, fan_out))
        return rng.uniform(-bound, bound, (fan_in, fan_out))

    return Initializer(name=name, weights=weights)


INITIALIZERS: dict[str, Callable[..., Initializer]] = {
    "zeros": zeros,
    "standard_normal": standard_normal,
    "scaled_normal": scaled_normal,
    "lecun_normal": lecun_normal,
    "lecun_uniform": lecun_uniform,
    "xavier_normal": xavier_normal,
    "xavier_uniform": xavier_uniform,
    "he_normal": he_normal,
    "he_uniform": he_uniform,
    "orthogonal": orthogonal,
}


def get_initializer(spec: str | Initializer, auto: str) -> Initializer:
    """The initializer that `spec`, a name or a record, means.

    Parameters
    ----------
    spec : str or Initializer
        A name such as ``"he_normal"`` or ``"orthogonal(1.4142)"``, a record, or ``"auto"``.
    auto : str
        The name that ``"auto"`` stands for: the `init` of the layer's activation.

    Raises
    ------
    UsageError
        If the name is unknown or its arguments do not fit.
    """
    return resolve("initializer", INITIALIZERS, auto if spec == "auto" else spec, Initializer)
