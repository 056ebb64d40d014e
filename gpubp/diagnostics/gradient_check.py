"""Checks gradients against an independent derivative."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp import checks
from gpubp._typing import Array
from gpubp.backends.reference import ReferenceBackend
from gpubp.diagnostics.gradient_faults import STEP, shape_faults, value_faults
from gpubp.errors import DataError, UsageError
from gpubp.layout import Gradients
from gpubp.network import MLP
from gpubp.precision import PRECISIONS
from gpubp.stack import Stack

_STACK = 1 << 20  # elements of a stack of perturbed networks: 16 MB of complex numbers


@dataclass(frozen=True)
class GradientCheck:
    """The result of `check_gradients`.

    Attributes
    ----------
    errors : dict of str to float
        ‖g − g*‖ / ‖g*‖ per parameter tensor, ``weights.0``, …, over the parameters compared; g* is the complex-step
        derivative; infinite for a tensor of another shape.
    tolerance : float
        The error that rounding in the network's precision can explain.
    faults : tuple of str
        If gradients are wrong, a sentence for each violated equation: which of BP1 to BP4, in which layer, and how.
        Layers count from 1 to L, as in the equations.
    """

    errors: dict[str, float]
    tolerance: float
    faults: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every error is within the tolerance."""
        return all(error <= self.tolerance for error in self.errors.values())

    def __str__(self) -> str:
        lines = [f"{name:<12} {error:.1e}" for name, error in self.errors.items()]
        verdict = "gradients are right" if self.ok else "GRADIENTS ARE WRONG"
        worst = f"largest relative error {max(self.errors.values()):.1e}, tolerance {self.tolerance:.0e}"
        return "\n".join([*lines, f"{verdict}: {worst}", *self.faults])


def check_gradients(
    net: MLP,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    l2: float = 0.0,
    dropout: float = 0.0,
    per_tensor: int = 200,
    *,
    gradients: Gradients | tuple[Any, Any] | None = None,
) -> GradientCheck:
    """Compare `MLP.gradients`, or gradients of your own, with the complex-step derivative of the loss.

    ∂C/∂θ = Im C(θ + ih)/h with h = 1e-200 is exact to rounding, and shares no formula with the backward pass. All
    perturbations of a part of the network are run as one stack. Source: Squire and Trapp, 1998. If gradients are wrong,
    `faults` names the equation, the layer and the usual mistake that explains it.

    Parameters
    ----------
    net : MLP
        A single network.
    X, y, sample_weight, l2, dropout
        As for `MLP.gradients`. A few rows are enough.
    per_tensor : int
        In larger tensors, only this many randomly drawn parameters are compared.
    gradients : Gradients or (weights, biases), optional
        Your own gradients for this network and batch, an array per layer: (n_in, n_out) and (n_out,). Their shapes are
        checked first. Faults are named for gradients without dropout.

    Returns
    -------
    GradientCheck

    Raises
    ------
    UsageError
        For a stack of several networks.
    DataError
        If `gradients` does not have an array for each layer.

    Examples
    --------
    >>> import gpubp
    >>> net = gpubp.MLP([3, 5, 2], "tanh", precision="float64", device="cpu-reference")
    >>> check = gpubp.check_gradients(net, [[0.1, -0.4, 0.7], [0.9, 0.2, -0.3]], [0, 1])
    >>> check.ok, sorted(check.errors)
    (True, ['biases.0', 'biases.1', 'weights.0', 'weights.1'])

    Gradients of your own, which forgot the mean over the two rows:

    >>> X, y = [[0.1, -0.4, 0.7], [0.9, 0.2, -0.3]], [0, 1]
    >>> _, right = net.gradients(X, y)
    >>> mine = [2 * W for W in right.weights], [2 * b for b in right.biases]
    >>> print(gpubp.check_gradients(net, X, y, gradients=mine).faults[0])
    BP1: every gradient is 2 times what it should be; 1/m is missing: δᴸ holds it, as C is the mean of 2 rows
    """
    if net.models > 1:
        raise UsageError(f"check_gradients takes a single network; this is a stack of {net.models}")
    per_tensor = checks.whole("per_tensor", per_tensor, 1)
    batch = net.stack.checked(X, y, sample_weight)
    _, own = net.gradients(X, y, sample_weight, l2=l2, dropout=dropout)
    judged = _on_host(net, own if gradients is None else _per_layer(gradients, len(own.weights)))
    shapes = shape_faults(judged, own, len(batch[0]))
    rng = np.random.default_rng(0)
    errors = {}
    for (name, start, stop), grad, right in zip(
        net.stack.layout.names(), [*judged.weights, *judged.biases], [*own.weights, *own.biases], strict=True
    ):
        size = stop - start
        chosen = np.arange(size) if size <= per_tensor else np.sort(rng.choice(size, per_tensor, replace=False))
        if grad.shape != right.shape:
            errors[name] = float("inf")
            continue
        exact = complex_step(net.stack, start + chosen, batch, l2, dropout)
        scale = float(np.linalg.norm(exact))
        errors[name] = float(np.linalg.norm(grad.reshape(-1)[chosen] - exact)) / (scale if scale > 0 else 1.0)
    check = GradientCheck(errors, PRECISIONS[net.precision].gradient_tolerance, tuple(shapes))
    if check.ok or shapes or dropout:
        return check
    without_penalty = [
        grad - l2 * W for grad, W in zip(judged.weights, _on_host(net, net.stack.parameters_of(0)).weights, strict=True)
    ]
    faults = value_faults(net.stack, batch, Gradients(tuple(without_penalty), judged.biases), check.tolerance)
    return replace(check, faults=tuple(faults))


def _per_layer(gradients: Gradients | tuple[Any, Any], layers: int) -> Gradients:
    """A user's gradients, checked to have an array for each layer."""
    try:
        weights, biases = gradients
        given = Gradients(tuple(weights), tuple(biases))
    except (TypeError, ValueError):
        raise DataError("gradients must be a pair: ∂C/∂W of each layer, ∂C/∂b of each layer") from None
    if (len(given.weights), len(given.biases)) != (layers, layers):
        raise DataError(
            f"gradients hold {len(given.weights)} arrays for weights and {len(given.biases)} for biases; the network "
            f"has {layers} layers"
        )
    return given


def _on_host(net: MLP, gradients: Gradients) -> Gradients:
    """Gradients in float64 on the host."""
    hosted = [[np.asarray(net.stack.backend.to_host(g), np.float64) for g in part] for part in gradients]
    return Gradients(tuple(hosted[0]), tuple(hosted[1]))


def complex_step(
    stack: Stack, positions: NDArray[np.int64], batch: tuple[Array, Array, Array | None], l2: float, dropout: float
) -> NDArray[np.float64]:
    """∂C/∂θ at the given positions of θ, with each network of a stack perturbed in one of them; `batch` is checked."""
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
