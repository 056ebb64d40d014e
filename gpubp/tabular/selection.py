"""How wrong outputs are, and how much each recipe counts by that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.losses import Loss

PICKS = 50
LEAST_PROBABILITY = 1e-7  # whose logarithm is taken; float32 has no 1 - p below it


def row_losses(loss: Loss, outputs: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """The loss (m,) of each row by outputs a^L (m, n_L), mean over labels or values, for encoded targets.

    Losses on values whose logits are no values (poisson, …) count by the squared error.
    """
    if loss.classification:
        a = np.clip(outputs, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY, dtype=np.float64)
        if loss.integer_targets:
            of_truth: NDArray[np.float64] = -np.log(a[np.arange(len(y)), y])
            return of_truth
        of_labels: NDArray[np.float64] = -(y * np.log(a) + (1 - y) * np.log(1 - a)).mean(axis=1)
        return of_labels
    z = np.asarray(outputs, np.float64)
    if loss.output_activation.name == "identity":
        value = np.asarray(loss.formula(np, z, np.asarray(y, np.float64), np.float64(0))[0])
    else:
        value = (z - y) ** 2 / 2
    return value if value.ndim == 1 else value.mean(axis=1)


def greedy_weights(
    loss: Loss, outputs: Sequence[NDArray[Any]], y: NDArray[Any], weight: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Caruana et al. 2004: pick the one whose outputs improve the mean of those picked so far most, again and again.

    Parameters
    ----------
    loss : Loss
    outputs : sequence of R arrays (m, n_L)
        Out-of-fold outputs of each recipe.
    y : (m,) or (m, n_L) array
    weight : (m,) array, optional

    Returns
    -------
    (R,) float64
        How often each was picked; they sum to 1.
    """
    stacked = np.stack([np.asarray(each, np.float64) for each in outputs])
    counts, total = np.zeros(len(stacked)), np.zeros(stacked.shape[1:])
    best, best_counts = np.inf, counts
    for n in range(1, PICKS + 1):
        losses = [np.average(row_losses(loss, (total + each) / n, y), weights=weight) for each in stacked]
        pick = int(np.argmin(losses))
        counts, total = counts + (np.arange(len(counts)) == pick), total + stacked[pick]
        if losses[pick] < best:
            best, best_counts = losses[pick], counts
    weights: NDArray[np.float64] = best_counts / best_counts.sum()
    return weights
