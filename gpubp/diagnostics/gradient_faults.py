"""Finds which of BP1 to BP4 a wrong gradient violates, in which layer, and how.

The exact δ of every layer comes from complex steps through the loss and through each σ separately, so a record's own
derivative is never trusted. From the output layer down, each gradient is compared with the result of the exact δ, and
with the results of common mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.activations import Activation
from gpubp.backends.reference import NumpyNamespace
from gpubp.layout import Gradients
from gpubp.stack import Stack

STEP = 1e-200  # of the complex step: so small that h² vanishes, with no subtraction to lose digits
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ExactLayer:
    """What the equations need from a layer, in float64: its input, W, z, a, σ′(z) and exact δ."""

    a_prev: Floats
    W: Floats
    z: Floats
    a: Floats
    derivative: Any  # of shape (m, n_out); None for softmax
    delta: Floats


def shape_faults(given: Gradients, right: Gradients, rows: int) -> list[str]:
    """A sentence on every tensor of `given` whose shape differs from that in `right`."""
    faults = []
    for l, (W, right_W) in enumerate(zip(given.weights, right.weights, strict=True)):
        if W.shape != right_W.shape:
            n_in, n_out = right_W.shape
            transposed = "it is the transpose: here " if W.shape == (n_out, n_in) else ""
            faults.append(
                f"BP4, layer {l + 1}: your ∂C/∂W has shape {W.shape}; {transposed}rows are samples and W is "
                f"(n_in, n_out) = {right_W.shape}, so ∂C/∂Wˡ = aˡ⁻¹ᵀ δˡ"
            )
    for l, (b, right_b) in enumerate(zip(given.biases, right.biases, strict=True)):
        if b.shape != right_b.shape:
            if b.shape == (rows, *right_b.shape):
                told = "it is δ itself: ∂C/∂b is its sum over the rows"
            else:
                told = f"it must be {right_b.shape}, a number for each unit"
            faults.append(f"BP3, layer {l + 1}: your ∂C/∂b has shape {b.shape}; {told}")
    return faults


def value_faults(stack: Stack, batch: tuple[Any, Any, Any], given: Gradients, tolerance: float) -> list[str]:
    """A sentence on each equation that `given`, of the right shapes, violates; empty if it is right."""
    layers = exact_layers(stack, *batch)
    exact = Gradients(
        tuple(layer.a_prev.T @ layer.delta for layer in layers), tuple(layer.delta.sum(axis=0) for layer in layers)
    )
    tensors = list(zip([*given.weights, *given.biases], [*exact.weights, *exact.biases], strict=True))
    if all(same(mine, right, tolerance) for mine, right in tensors):
        return []
    if (factor := _common_factor(tensors, tolerance)) is not None:
        return [_told_of_factor(factor, len(batch[0]))]
    return list(_by_layer(layers, given, tolerance))


def exact_layers(stack: Stack, X: Any, y: Any, weight: Any) -> list[ExactLayer]:
    """The forward pass in float64 and the exact δ of every layer of a single-network stack, for checked rows."""
    xp = NumpyNamespace()
    weights, biases = stack.parameters_of(0)
    hosted = [
        [np.asarray(stack.backend.to_host(p), np.float64) for p in parameters] for parameters in (weights, biases)
    ]
    a = np.asarray(X[:], np.float64)
    inputs, zs, outputs = [], [], []
    for W, b, activation in zip(*hosted, stack.network.activations, strict=True):
        inputs.append(a)
        zs.append(a @ W + b)
        a = np.asarray(activation.f(xp, zs[-1].copy()))
        outputs.append(a)
    factor = np.full(len(a), 1 / len(a)) if weight is None else weight / weight.sum()
    delta = _output_delta(stack, xp, zs[-1], y) * factor[:, None]
    layers: list[ExactLayer] = []
    for l in range(len(zs) - 1, -1, -1):
        activation = stack.output_activation if l == len(zs) - 1 else stack.activations[l]
        derivative = _derivative(xp, activation, zs[l]) if isinstance(activation, Activation) else None
        if l < len(zs) - 1:
            delta = (delta @ hosted[0][l + 1].T) * derivative
        layers.insert(0, ExactLayer(inputs[l], hosted[0][l], zs[l], outputs[l], derivative, delta))
    return layers


def _derivative(xp: Any, activation: Activation, z: Floats) -> Floats:
    """σ′(z) = Im σ(z + ih)/h."""
    stepped: Floats = np.imag(activation.f(xp, z + STEP * 1j)) / STEP
    return stepped


def _output_delta(stack: Stack, xp: Any, z: Floats, y: Any) -> Floats:
    """∂C_x/∂zᴸ (m, n_L) of each row's own cost, a complex step for each output."""
    delta = np.empty_like(z)
    for j in range(z.shape[1]):
        stepped = z.astype(np.complex128)
        stepped[:, j] += STEP * 1j
        value, _ = stack.loss.formula(xp, stepped, stack.cast_targets(y), np.zeros(1))
        delta[:, j] = (value.sum(axis=-1) if value.ndim == 2 else value).imag / STEP
    return delta


def same(mine: Floats, right: Floats, tolerance: float) -> bool:
    """Whether two arrays agree in norm, relative to the second."""
    if mine.shape != right.shape:
        return False
    error, scale = float(np.linalg.norm(mine - right)), float(np.linalg.norm(right))
    return error <= tolerance * (scale if scale > 0 else 1.0)


# -- one factor for all ----------------------------------------------------------------------------------


def _common_factor(tensors: Sequence[tuple[Floats, Floats]], tolerance: float) -> float | None:
    """r if every tensor is r times its correct value."""
    mine = np.concatenate([np.ravel(given) for given, _ in tensors])
    right = np.concatenate([np.ravel(exact) for _, exact in tensors])
    if not right.any() or not mine.any():
        return None
    factor = float(mine @ right) / float(right @ right)
    if abs(factor - 1) < 1e-3:  # an error too small to be named
        return None
    return factor if all(same(given, factor * exact, tolerance * abs(factor)) for given, exact in tensors) else None


def _told_of_factor(factor: float, rows: int) -> str:
    for value, told in (
        (rows, f"1/m is missing: δᴸ holds it, as C is the mean of {rows} rows"),
        (1 / rows, f"1/m is there twice: δᴸ of BP1 holds it, so BP3 and BP4 only sum over the {rows} rows"),
        (-1.0, "the sign is wrong: δᴸ = ∇ₐC ⊙ σ′(zᴸ), and the update subtracts the gradient"),
    ):
        if abs(factor / value - 1) < 1e-6:
            return f"BP1: every gradient is {factor:.6g} times what it should be; {told}"
    return f"BP1: every gradient is {factor:.6g} times what it should be; look at the cost's own factor, such as its ½"


# -- from the output layer down --------------------------------------------------------------------------


def _by_layer(layers: Sequence[ExactLayer], given: Gradients, tolerance: float) -> Iterator[str]:
    delta = layers[-1].delta
    for l in range(len(layers) - 1, -1, -1):
        layer, mine_W, mine_b = layers[l], given.weights[l], given.biases[l]
        named = f"layer {l + 1}" + (", the output layer" if l == len(layers) - 1 else "")
        equation = "BP1" if l == len(layers) - 1 else "BP2"
        hypotheses = _output_deltas(layer) if l == len(layers) - 1 else _hidden_deltas(layer, layers[l + 1], delta)

        def fits(candidate: Floats, W: Floats = mine_W, b: Floats = mine_b, a_prev: Floats = layer.a_prev) -> bool:
            return same(W, a_prev.T @ candidate, tolerance) or same(b, candidate.sum(axis=0), tolerance)

        found = next(((told, candidate) for told, candidate in hypotheses if fits(candidate)), None)
        if found is None:
            yield f"{equation}, {named}: δ is wrong, {_unnamed(layer, mine_b, equation)}{_what_inherits_it(l)}"
            return
        told, delta = found
        if told:
            yield f"{equation}, {named}: {told}"
        if not same(mine_W, layer.a_prev.T @ delta, tolerance):
            yield f"BP4, {named}: {_told_of_weights(layer, delta, mine_W, tolerance)}"
        if not same(mine_b, delta.sum(axis=0), tolerance):
            yield f"BP3, {named}: {_told_of_biases(delta, mine_b, tolerance)}"


def _output_deltas(layer: ExactLayer) -> Iterator[tuple[str, Floats]]:
    yield "", layer.delta
    yield "1/m is missing from δ", layer.delta * len(layer.delta)
    yield "the sign of δ is wrong", -layer.delta
    if layer.derivative is not None:
        ones = np.ones_like(layer.delta)
        yield (
            "σ′(z) is missing: δᴸ = ∇ₐC ⊙ σ′(zᴸ)",
            np.divide(layer.delta, layer.derivative, out=ones, where=layer.derivative != 0),
        )
        yield "σ′(z) is there, which this loss and its output activation cancel", layer.delta * layer.derivative


def _hidden_deltas(layer: ExactLayer, above: ExactLayer, delta: Floats) -> Iterator[tuple[str, Floats]]:
    """The correct δ, given the one above, and those of the usual mistakes."""
    W, derivative = above.W, layer.derivative
    yield "", (delta @ W.T) * derivative
    yield "σ′(z) is missing: δˡ = (δˡ⁺¹ Wˡ⁺¹ᵀ) ⊙ σ′(zˡ)", delta @ W.T
    if W.shape[0] == W.shape[1]:
        yield "W of the layer above is not transposed: δˡ = (δˡ⁺¹ Wˡ⁺¹ᵀ) ⊙ σ′(zˡ)", (delta @ W) * derivative
    yield "σ(z) stands where σ′(z) should", (delta @ W.T) * layer.a
    yield "σ′ is there twice", (delta @ W.T) * derivative * derivative


def _unnamed(layer: ExactLayer, mine_b: Floats, equation: str) -> str:
    """How far off a δ is that no usual mistake explains, and where to look."""
    right = layer.delta.sum(axis=0)
    error = np.linalg.norm(mine_b - right) / (np.linalg.norm(right) or 1.0)
    where = "the loss's gradient" if equation == "BP1" else "σ′ of this layer"
    return f"by {error:.1e} of its sum over the rows; look at {where}"


def _what_inherits_it(l: int) -> str:
    return "; the layers below inherit it and were not judged" if l > 0 else ""


def _told_of_weights(layer: ExactLayer, delta: Floats, mine: Floats, tolerance: float) -> str:
    right, m = layer.a_prev.T @ delta, len(delta)
    guesses: list[tuple[str, Callable[[], Floats]]] = [
        ("your ∂C/∂W is the transpose: ∂C/∂Wˡ = aˡ⁻¹ᵀ δˡ", lambda: right.T),
        ("1/m stands here a second time: δ holds it", lambda: right / m),
        ("1/m is missing here, though δ is right", lambda: right * m),
        ("the sign is wrong", lambda: -right),
    ]
    for told, guess in guesses:
        if same(mine, guess(), tolerance):
            return told
    error = np.linalg.norm(mine - right) / (np.linalg.norm(right) or 1.0)
    return f"∂C/∂W is off by {error:.1e} though δ is right: ∂C/∂Wˡ = aˡ⁻¹ᵀ δˡ"


def _told_of_biases(delta: Floats, mine: Floats, tolerance: float) -> str:
    right, m = delta.sum(axis=0), len(delta)
    if same(mine, right / m, tolerance):
        return "∂C/∂b is the mean of δ over the rows: 1/m stands here a second time; it is the sum, as δ holds 1/m"
    if same(mine, right * m, tolerance):
        return "1/m is missing here, though δ is right"
    if same(mine, delta[0], tolerance) or same(mine, delta[-1], tolerance):
        return "∂C/∂b is δ of one row; it is the sum over all of them"
    error = np.linalg.norm(mine - right) / (np.linalg.norm(right) or 1.0)
    return f"∂C/∂b is off by {error:.1e} though δ is right: ∂C/∂bˡ = Σ_rows δˡ"
