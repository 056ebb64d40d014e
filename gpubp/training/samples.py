"""The rows that networks are trained or validated on, with their weights, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp import checks
from gpubp.errors import DataError, UsageError
from gpubp.stack import Stack


@dataclass(frozen=True)
class Samples:
    """What networks are trained or validated on, as `checks` makes it regular.

    Attributes
    ----------
    X : (m, n_0) array
    y : (m,) or (m, n_L) array
    weight : (m,) or (K, m) float64, or None
    rows : K arrays of int, or None
        The rows that each network uses; None where each uses all m.
    """

    X: NDArray[Any]
    y: NDArray[Any]
    weight: NDArray[np.float64] | None
    rows: Sequence[NDArray[np.int64]] | None = None

    @property
    def most_rows(self) -> int:
        """How many rows the network with the most of them uses."""
        return max(map(len, self.rows)) if self.rows else len(self.X)

    def arrays(self) -> dict[str, Any]:
        """All of it by name."""
        return {"X": self.X, "y": self.y, "weight": self.weight, "rows": self.rows}


def samples_in_memory(stack: Stack, X: Any, y: Any, sample_weight: Any, rows: Any) -> Samples:
    """What networks are trained on, from arrays, checked."""
    if X is None or y is None:
        raise UsageError("there is nothing to train on; give X and y, or batches")
    X, y, weight = stack.checked(X, y, sample_weight, weight_per_network=True)
    return Samples(X, y, weight, checks.rows(rows, stack.models, len(X)))


def validation_samples(
    stack: Stack, data: Sequence[Any] | None, rows: Sequence[Any] | None, training: Samples
) -> Samples | None:
    """What is evaluated after every epoch, checked before anything is trained."""
    if rows is not None:
        if data is not None:
            raise UsageError("validation_data and validation_rows are both given; give one of them")
        return replace(training, rows=checks.rows(rows, stack.models, len(training.X), "validation_rows"))
    if data is None:
        return None
    if not isinstance(data, Sequence) or len(data) not in (2, 3):
        raise UsageError("validation_data does not fit; give (X, y) or (X, y, sample_weight)")
    X, y, *weight = data
    return Samples(*stack.checked(X, y, weight[0] if weight else None, "validation"))


def with_class_weight(samples: Samples, class_weight: Any, stack: Stack) -> Samples:
    """Samples whose weights are multiplied by those of classes, which each network counts in the rows it uses."""
    if class_weight is None:
        return samples
    m, y = len(samples.X), samples.y
    by_class = np.zeros(m if samples.rows is None else (stack.models, m))
    for weights, rows in zip(np.atleast_2d(by_class), samples.rows or [np.arange(m)], strict=True):
        weights[rows] = checks.class_weights(class_weight, y[rows], stack.layer_sizes[-1], stack.loss)
    with np.errstate(over="ignore"):
        weight = by_class if samples.weight is None else samples.weight * by_class
    checks.require_summable(weight, "the product of sample_weight and class_weight")
    return replace(samples, weight=weight)


def total_weights(samples: Samples, models: int) -> NDArray[np.float64]:
    """What the rows that each network uses weigh, (K,); refused where it is nothing."""
    weight, rows, m = samples.weight, samples.rows, len(samples.X)
    if weight is None:
        total = np.full(models, float(m)) if rows is None else np.array([float(len(r)) for r in rows])
    else:
        weights = np.broadcast_to(np.atleast_2d(weight), (models, m))
        total = np.array([(w if rows is None else w[rows[k]]).sum() for k, w in enumerate(weights)])
    if not total.all():
        who = f" of network {int(np.argmin(total))}" if models > 1 else ""
        raise DataError(f"class_weight and sample_weight leave every sample{who} with weight 0; one must count")
    return total
