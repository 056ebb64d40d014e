"""Gradients shrink layer by layer through sigmoids, which multiply the error by ¼ at most; ReLU keeps them."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubp.lessons.lesson import Lesson

HIDDEN_LAYERS, WIDTH = 8, 30


def gradient_norms(activation: str, init: str = "auto") -> list[float]:
    """‖∂C/∂Wˡ‖ of every layer of an untrained deep network on 64 random rows."""
    import gpubp

    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((64, WIDTH)), rng.integers(10, size=64)
    sizes = [*[WIDTH] * (HIDDEN_LAYERS + 1), 10]
    net = gpubp.MLP(sizes, activation, init=init, precision="float64", device="cpu-reference", seed=0)
    _, gradients = net.gradients(X, y)
    return [float(np.linalg.norm(W)) for W in gradients.weights]


def measure() -> dict[str, Any]:
    """Gradient norms by layer for either activation."""
    return {activation: gradient_norms(activation) for activation in ("sigmoid", "relu")}


def conclude(measured: dict[str, Any]) -> str:
    """The first layer's gradient beside the last one's."""
    sigmoid, relu = measured["sigmoid"], measured["relu"]
    return (
        f"‖∂C/∂W‖ from the first layer to the last of {len(sigmoid)}: {sigmoid[0]:.1e} … {sigmoid[-1]:.2f} through "
        f"sigmoids, {relu[0]:.2f} … {relu[-1]:.2f} through ReLU. Before each sigmoid the error is multiplied by σ′ ≤ "
        "¼, so the first layers of the first network hardly move; ReLU's slope is 1 wherever the unit is on."
    )


def draw(axes: Any, measured: dict[str, Any]) -> None:
    """The norms by layer, on a logarithmic scale."""
    for activation, norms in measured.items():
        axes.semilogy(range(1, len(norms) + 1), norms, "o-", label=activation)
    axes.set(xlabel="layer", ylabel="norm of ∂C/∂W")
    axes.legend()


LESSON = Lesson("Vanishing gradients", measure, conclude, draw)
