"""Checking gradients against an independent derivative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp import checks
from gpubp._typing import Array
from gpubp.backends.reference import ReferenceBackend
from gpubp.errors import UsageError
from gpubp.network import MLP
from gpubp.precision import PRECISIONS
from gpubp.stack import Stack

STEP = 1e-200  # of the complex step: so small that h² vanishes, with no subtraction to lose digits
_STACK = 1 << 20  # elements of a stack of perturbed networks: 16 MB of complex numbers


@dataclass(frozen=True)
class GradientCheck:
    """What `check_gradients` found.

    Attributes
    ----------
    errors : dict of str to float
        ‖g − g*‖ / ‖g*‖ per parameter tensor, ``weights.0``, …, over the parameters compared; g* is the
        complex-step derivative.
    tolerance : float
        What rounding in the network's precision explains.
    """

    errors: dict[str, float]
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether every error is within the tolerance."""
        return all(error <= self.tolerance for error in self.errors.values())

    def __str__(self) -> str:
        lines = [f"{name:<12} {error:.1e}" for name, error in self.errors.items()]
        verdict = "gradients are right" if self.ok else "GRADIENTS ARE WRONG"
        worst = f"largest relative error {max(self.errors.values()):.1e}, tolerance {self.tolerance:.0e}"
        return "\n".join([*lines, f"{verdict}: {worst}"])


def check_gradients(
    net: MLP,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    l2: float = 0.0,
    dropout: float = 0.0,
    per_tensor: int = 200,
) -> GradientCheck:
    """Compare `MLP.gradients` with the complex-step derivative of the loss.

    ∂C/∂θ = Im C(θ + ih)/h with h = 1e-200 is exact to rounding, and shares no formula with the backward
    pass. All perturbations of a part of the network are run as one stack. Source: Squire and Trapp, 1998.

    Parameters
    ----------
    net : MLP
        A single network.
    X, y, sample_weight, l2, dropout
        As for `MLP.gradients`. A few rows are enough.
    per_tensor : int
        Of a larger tensor, so many parameters are compared, drawn at random.

    Returns
    -------
    GradientCheck

    Raises
    ------
    UsageError
        For a stack of several networks.

    Examples
    --------
    >>> import gpubp
    >>> net = gpubp.MLP([3, 5, 2], "tanh", precision="float64", device="cpu-reference")
    >>> check = gpubp.check_gradients(net, [[0.1, -0.4, 0.7], [0.9, 0.2, -0.3]], [0, 1])
    >>> check.ok, sorted(check.errors)
    (True, ['biases.0', 'biases.1', 'weights.0', 'weights.1'])
    """
    if net.models > 1:
        raise UsageError(f"check_gradients takes a single network; this is a stack of {net.models}")
    per_tensor = checks.whole("per_tensor", per_tensor, 1)
    _, grads = net.gradients(X, y, sample_weight, l2=l2, dropout=dropout)
    batch = net.stack.checked(X, y, sample_weight)
    rng = np.random.default_rng(0)
    errors = {}
    for (name, start, stop), grad in zip(net.stack.layout.names(), [*grads.weights, *grads.biases], strict=True):
        size = stop - start
        chosen = np.arange(size) if size <= per_tensor else np.sort(rng.choice(size, per_tensor, replace=False))
        exact = complex_step(net.stack, start + chosen, batch, l2, dropout)
        compared = net.stack.backend.to_host(grad).reshape(-1)[chosen].astype(np.float64)
        scale = float(np.linalg.norm(exact))
        errors[name] = float(np.linalg.norm(compared - exact)) / (scale if scale > 0 else 1.0)
    return GradientCheck(errors, PRECISIONS[net.precision].gradient_tolerance)


def complex_step(
    stack: Stack, positions: NDArray[np.int64], batch: tuple[Array, Array, Array | None], l2: float, dropout: float
) -> NDArray[np.float64]:
    """∂C/∂θ at the given positions of θ, each network of a stack perturbed in one of them; `batch` is checked."""
    backend = ReferenceBackend(np.complex128)
    theta = stack.backend.to_host(stack.theta).astype(np.complex128)
    height = max(1, _STACK // theta.shape[1])
    derivative = []
    for start in range(0, len(positions), height):
        part = positions[start : start + height]
        perturbed = np.repeat(theta, len(part), axis=0)
        perturbed[np.arange(len(part)), part] += STEP * 1j
        penalty, rate = np.full((2, len(part)), [[l2], [dropout]])
        loss, _ = stack.like(perturbed, backend).gradients(*batch, penalty, rate)
        derivative.append(loss.imag / STEP)
    return np.concatenate(derivative)
