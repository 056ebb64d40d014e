"""Minimizing cross-entropy is maximizing the likelihood: three heads in ten tosses give the probability 0.3."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubp.lessons.lesson import Lesson

HEADS, TOSSES = 3, 10


def measure() -> dict[str, Any]:
    """A unit with nothing but a bias, trained on the tosses: its probability, and the likelihood of each p."""
    import gpubp

    X, y = np.zeros((TOSSES, 1)), np.array([1.0] * HEADS + [0.0] * (TOSSES - HEADS))
    unit = gpubp.MLP([1, 1], loss="binary_cross_entropy", precision="float64", device="cpu-reference")
    gpubp.train(unit, X, y, optimizer="sgd", learning_rate=1.0, epochs=200, batch_size=TOSSES)
    p = np.linspace(0.01, 0.99, 99)
    likelihood = p**HEADS * (1 - p) ** (TOSSES - HEADS)
    return {"p": p, "likelihood": likelihood, "learned": float(unit.forward(X[:1])[0, 0])}


def conclude(measured: dict[str, Any]) -> str:
    """What was learned, and why."""
    return (
        f"From {HEADS} heads in {TOSSES} tosses a unit with nothing but a bias learns p = {measured['learned']:.6f}. "
        "The cost −Σ [y ln p + (1 − y) ln(1 − p)] is minus the logarithm of the likelihood p³(1 − p)⁷, which is "
        "largest at 0.3."
    )


def draw(axes: Any, measured: dict[str, Any]) -> None:
    """The likelihood, and where training ended."""
    axes.plot(measured["p"], measured["likelihood"], label="likelihood p³(1 − p)⁷")
    axes.axvline(measured["learned"], color="C1", linestyle="--", label=f"learned, {measured['learned']:.3f}")
    axes.set(xlabel="probability p of heads", ylabel="likelihood of the tosses", xlim=(0, 1), ylim=(0, None))
    axes.legend()


LESSON = Lesson("Maximum likelihood", measure, conclude, draw)
