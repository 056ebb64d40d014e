"""Units that start equal stay equal for ever; random first weights tell them apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubp.lessons.lesson import Lesson

STARTS = {"equal weights": False, "random weights": True}


def measure() -> dict[str, Any]:
    """The loss of a 2-8-2 network over 300 epochs of exclusive or, and how far its hidden units came apart."""
    import gpubp

    X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1.0]]), np.array([0, 1, 1, 0])
    measured: dict[str, Any] = {}
    for name, random in STARTS.items():
        net = gpubp.MLP([2, 8, 2], "tanh", precision="float64", device="cpu-reference", seed=1)
        if not random:
            for W in net.weights:
                W[...] = 0.5

        history = gpubp.train(net, X, y, optimizer="sgd", learning_rate=0.5, epochs=300, batch_size=4)
        measured[name] = {"loss": history.loss, "spread": float(np.ptp(net.weights[0], axis=1).max())}
    return measured


def conclude(measured: dict[str, Any]) -> str:
    """How different the units became, and what that was worth."""
    equal, random = (measured[name] for name in STARTS)
    return (
        f"After 300 epochs on exclusive or, the hidden units that started equal differ by {equal['spread']:g}, and "
        f"the loss is {equal['loss'][-1]:.3f}: eight units that compute one thing are one unit, which cannot learn "
        f"it. With random weights they differ by {random['spread']:.1f}, and the loss is {random['loss'][-1]:.3f}. "
        "All get the same δ and the same inputs, so BP2 and BP4 give all of them the same gradient; no step can part "
        "them."
    )


def draw(axes: Any, measured: dict[str, Any]) -> None:
    """The loss over the epochs."""
    for name, of in measured.items():
        axes.plot(of["loss"], label=name)
    axes.set(xlabel="epoch", ylabel="loss on exclusive or", ylim=(0, None))
    axes.legend()


LESSON = Lesson("Breaking the symmetry", measure, conclude, draw)
