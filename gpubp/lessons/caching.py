"""All derivatives in one backward pass, where one by one they would take a forward pass for each parameter."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from gpubp.lessons.lesson import Lesson

WIDTHS = (4, 8, 16, 32, 64)
STEP = 1e-6  # of the central differences


def measure() -> dict[str, Any]:
    """Seconds for the gradient of networks of growing width, either way, and how far the two are apart."""
    import gpubp

    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 8)), rng.integers(3, size=20)
    measured: dict[str, Any] = {"parameters": [], "one by one": [], "backpropagation": [], "difference": 0.0}
    for width in WIDTHS:
        net = gpubp.MLP([8, width, 3], "tanh", precision="float64", device="cpu-reference", seed=0)
        passes = []
        for _ in range(5):
            start = time.perf_counter()
            _, gradients = net.gradients(X, y)
            passes.append(time.perf_counter() - start)
        start = time.perf_counter()
        slopes = []
        for parameters in (*net.weights, *net.biases):
            for place in np.ndindex(parameters.shape):
                value = parameters[place]
                costs = []
                for moved in (value + STEP, value - STEP):
                    parameters[place] = moved
                    costs.append(net.evaluate(X, y)["loss"])
                parameters[place] = value
                slopes.append((costs[0] - costs[1]) / (2 * STEP))
        one_by_one = time.perf_counter() - start
        flat = np.concatenate([g.ravel() for part in gradients for g in part])
        measured["parameters"].append(net.parameters)
        measured["one by one"].append(one_by_one)
        measured["backpropagation"].append(min(passes))
        measured["difference"] = max(measured["difference"], float(np.abs(flat - slopes).max()))
    return measured


def conclude(measured: dict[str, Any]) -> str:
    """What the passes count, and what they took here."""
    parameters = measured["parameters"][-1]
    ratio = measured["one by one"][-1] / measured["backpropagation"][-1]
    return (
        f"{parameters} derivatives take {2 * parameters} forward passes one by one, and one forward and one backward "
        f"pass by backpropagation: {ratio:,.0f} times less time here, for the same numbers to "
        f"{measured['difference']:.0e}. What the forward pass computed is kept, and each δ serves all weights of its "
        "layer and the δ below."
    )


def draw(axes: Any, measured: dict[str, Any]) -> None:
    """Seconds over the number of parameters."""
    for name in ("one by one", "backpropagation"):
        axes.loglog(measured["parameters"], measured[name], "o-", label=name)
    axes.set(xlabel="parameters", ylabel="seconds for the gradient")
    axes.set_xticks(measured["parameters"], [str(count) for count in measured["parameters"]])
    axes.minorticks_off()
    axes.legend()


LESSON = Lesson("One pass for all derivatives", measure, conclude, draw)
