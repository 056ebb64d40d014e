"""A sigmoid unit that starts badly wrong learns slowly under the squared error, and at once under cross-entropy."""

from __future__ import annotations

from typing import Any

from gpubp.lessons.lesson import Lesson

COSTS = {
    "squared error": {"loss": "half_squared_error", "output_activation": "sigmoid"},
    "cross-entropy": {"loss": "binary_cross_entropy"},
}


def measure() -> dict[str, Any]:
    """Activations of a unit over 300 steps for either cost; gradients of two layers with a saturated hidden unit."""
    import gpubp

    curves = {}
    for cost, options in COSTS.items():
        unit = gpubp.MLP([1, 1], precision="float64", device="cpu-reference", **options)  # type: ignore[arg-type]
        unit.weights[0][...], unit.biases[0][...] = 2.0, 2.0  # so that a = 0.98, where the target is 0
        a = []
        for _ in range(300):
            a.append(float(unit.forward([[1.0]])[0, 0]))
            gpubp.train(unit, [[1.0]], [[0.0]], optimizer="sgd", learning_rate=0.15, epochs=1, batch_size=1)
        curves[cost] = a
    deep = gpubp.MLP([1, 1, 1], "sigmoid", "binary_cross_entropy", precision="float64", device="cpu-reference")
    for parameter, value in zip((*deep.weights, *deep.biases), (5.0, 1.0, 5.0, 0.0), strict=True):
        parameter[...] = value  # the hidden unit is at σ(10), the output far from its target
    _, gradients = deep.gradients([[1.0]], [[0.0]])
    first, last = (float(W[0, 0]) for W in gradients.weights)
    return {"curves": curves, "grad_W1": first, "grad_W2": last}


def conclude(measured: dict[str, Any]) -> str:
    """Where the units are after 100 steps, and what the cure does not reach."""
    after = {cost: curve[100] for cost, curve in measured["curves"].items()}
    return (
        f"From a = 0.982 towards 0: after 100 steps a = {after['squared error']:.3f} with the squared error, whose δ "
        f"has the factor σ′(z) = {0.982 * 0.018:.3f}, and {after['cross-entropy']:.3f} with cross-entropy, where σ′ "
        "cancels. The cure reaches the output layer alone: with a saturated hidden unit ∂C/∂W² = "
        f"{measured['grad_W2']:.2f} but ∂C/∂W¹ = {measured['grad_W1']:.0e}."
    )


def draw(axes: Any, measured: dict[str, Any]) -> None:
    """The activations over the steps."""
    for cost, curve in measured["curves"].items():
        axes.plot(curve, label=cost)
    axes.set(xlabel="step", ylabel="activation a, target 0", ylim=(0, 1))
    axes.legend()


LESSON = Lesson("Slow learning, and its cure", measure, conclude, draw)
