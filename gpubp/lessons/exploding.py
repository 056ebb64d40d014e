"""Large first weights make activations grow going forwards and errors going back; scaled, they keep their size."""

from __future__ import annotations

from typing import Any

from gpubp.lessons.lesson import Lesson
from gpubp.lessons.vanishing import draw, gradient_norms

INITIALIZERS = {"N(0, 1)": "standard_normal", "scaled by fan-in": "auto"}


def measure() -> dict[str, Any]:
    """Gradient norms by layer of a deep ReLU network for either initialization."""
    return {name: gradient_norms("relu", init) for name, init in INITIALIZERS.items()}


def conclude(measured: dict[str, Any]) -> str:
    """The first layer's gradient of both."""
    large, scaled = (measured[name][0] for name in INITIALIZERS)
    return (
        f"Of a ReLU network with eight hidden layers, ‖∂C/∂W¹‖ = {large:.1e} with weights from N(0, 1) and "
        f"{scaled:.2f} with He's √(2/fan-in): a layer of n units with unit weights multiplies what it is given by "
        "about √(n/2)."
    )


LESSON = Lesson("Exploding gradients, and initialization", measure, conclude, draw)
