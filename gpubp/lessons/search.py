"""Three ways to look for weights: at random, by random steps that are kept if they help, and down the gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubp.lessons.lesson import Lesson

TRIES = 1000
SIZES = (64, 10)  # a linear classifier of digits: 650 numbers to be found


def measure() -> dict[str, Any]:
    """The best loss so far after each evaluation of the loss, for each way, on 300 digits."""
    from sklearn.datasets import load_digits

    import gpubp

    X, y = load_digits(return_X_y=True)
    X, y = X[:300] / 16, y[:300]
    rng = np.random.default_rng(0)
    net = gpubp.MLP(SIZES, precision="float64", device="cpu-reference")
    theta = net.theta

    def loss(W: Any) -> float:
        theta[...] = W
        return float(net.evaluate(X, y)["loss"])

    random = [loss(0.1 * rng.standard_normal(theta.shape)) for _ in range(TRIES)]

    here = np.zeros_like(theta)
    local = [loss(here)]
    for _ in range(TRIES - 1):
        step = here + 0.02 * rng.standard_normal(theta.shape)
        if (there := loss(step)) < local[-1]:
            here, reached = step, there
        else:
            reached = local[-1]
        local.append(reached)

    theta[...] = 0.0
    history = gpubp.train(net, X, y, optimizer="sgd", learning_rate=0.5, epochs=TRIES, batch_size=len(X))
    curves = {"random search": np.minimum.accumulate(random).tolist(), "random local search": local}
    return {**curves, "gradient descent": history.loss}


def conclude(measured: dict[str, Any]) -> str:
    """The three losses."""
    ends = ", ".join(f"{curve[-1]:.3f} by {name}" for name, curve in measured.items())
    return (
        f"After {TRIES:,} looks at the loss of a classifier with {SIZES[0] * SIZES[1] + SIZES[1]} parameters: {ends}. "
        "With so many directions nearly all lead nowhere, and the gradient names the best one."
    )


def draw(axes: Any, measured: dict[str, Any]) -> None:
    """The best loss so far, over the evaluations."""
    for name, curve in measured.items():
        axes.plot(curve, label=name)
    axes.set(xlabel="evaluations of the loss", ylabel="best loss so far", ylim=(0, None))
    axes.legend()


LESSON = Lesson("Searching for weights", measure, conclude, draw)
