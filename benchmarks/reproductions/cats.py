"""Is it a cat? 12288-20-7-5-1 by 2,500 steps of full-batch gradient descent, to its end.

Published are the costs of every hundredth iteration, to six digits, and the accuracies on 209 and on 50 pictures, in
the exercise "Deep Neural Network for Image Classification: Application" of the course "Neural Networks and Deep
Learning" (deeplearning.ai, 2017). Its weights are drawn by NumPy's old generator from seed 1, W ~ N(0, 1)/√fan_in with
b = 0, and its matrices are the transposes of gpubp's. All is computed in float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import gpubp
from benchmarks.data import pixels
from benchmarks.parts import Part
from benchmarks.reproductions.comparison import compare, draw_curves

EVERY, ITERATIONS = 100, 2500
SEED, OTHER_SEEDS = 1, range(2, 6)
# Costs after 0, 100, …, 2400 iterations.
COSTS = [
    *(0.771749, 0.672053, 0.648263, 0.611507, 0.567047, 0.540138, 0.527930, 0.465477, 0.369126),
    *(0.391747, 0.315187, 0.272700, 0.237419, 0.199601, 0.189263, 0.161189, 0.148214, 0.137775),
    *(0.129740, 0.121225, 0.113821, 0.107839, 0.102855, 0.100897, 0.092878),
]
SOURCE = "exercise of the course, seed 1"


def trained(seed: int, X: Any, y: Any, iterations: int) -> tuple[gpubp.MLP, Any]:
    """The network after its training from a seed, and its cost in each iteration before the step."""
    net = gpubp.MLP([12288, 20, 7, 5, 1], loss="binary_cross_entropy", precision="float64", device="cpu")
    rng = np.random.RandomState(seed)
    for W in net.weights:
        W[...] = (rng.randn(W.shape[1], W.shape[0]) / np.sqrt(W.shape[0])).T
    history = gpubp.train(
        net, X, y, optimizer="sgd", learning_rate=0.0075, batch_size=len(X), epochs=iterations, shuffle=False
    )
    return net, history.curve("loss")[:, 0]


def reproduce(part: Part, data: Path, out: Path) -> None:
    """Compare costs and accuracies from the published seed, and see how far other seeds come."""
    if part.dry_run:
        X, y = np.random.default_rng(0).random((9, 12288)), np.arange(9) % 2
        X_test, y_test, iterations, other_seeds = X, y, EVERY + 1, range(2, 3)
    else:
        X, y, X_test, y_test = pixels(data / "cats" / "train_catvnoncat.h5", np.float64)
        iterations, other_seeds = ITERATIONS, OTHER_SEEDS
    net, costs = trained(SEED, X, y, iterations)
    ours = costs[::EVERY]
    apart = float(np.abs(ours - COSTS[: len(ours)]).max())
    worst = int(np.abs(ours - COSTS[: len(ours)]).argmax())
    what = f"cats, {len(ours)} costs of every {EVERY}th iteration: largest difference"
    part.timed(what, "<= 1e-6", f"{apart:.1e}, after {worst * EVERY} iterations", apart <= 1e-6)
    for iteration in range(0, len(ours), 6):
        part.figures.append(
            {
                "what": f"cats: cost after {iteration * EVERY} iterations",
                "published": f"{COSTS[iteration]:.6f}",
                "ours": f"{ours[iteration]:.6f}",
                "difference": f"{ours[iteration] - COSTS[iteration]:+.1e}",
                "source": SOURCE,
            }
        )
    right = float((net.predict(X) == y).sum()), float((net.predict(X_test) == y_test).sum())
    for count, published, of in zip(right, (206, 40), ("209 to train on", "50 to test"), strict=True):
        compare(part, f"cats: right of {of}", published, [count], (published, published), form="{:.0f}", source=SOURCE)
    others = []
    for seed in other_seeds:
        net, _ = trained(seed, X, y, iterations)
        others.append(((net.predict(X) == y).mean(), (net.predict(X_test) == y_test).mean()))
    train, test = np.min(others, axis=0)
    met = bool(train >= 0.98 and test >= 0.72)
    part.timed("cats, seeds 2-5: worst train, worst test", ">= 98 %, >= 72 %", f"{train:.1%}, {test:.0%}", met)
    draw_curves(out / f"reproductions-{part.name}.png", {"cost, seed 1": (costs, None)}, ("iteration", "cost"))
