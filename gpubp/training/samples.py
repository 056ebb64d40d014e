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
    """What networks are trained or validated on, checked and converted by `checks`.

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
        """The number of rows of the network that uses the most."""
        return max(map(len, self.rows)) if self.rows else len(self.X)

    def part(self, number: int, parts: int) -> Samples:
        """Part `number` of `parts` nearly equal parts of the rows that each network uses."""

        def of(rows: int) -> slice:
            return slice(rows * number // parts, rows * (number + 1) // parts)

        if self.rows is not None:
            return replace(self, rows=[rows[of(len(rows))] for rows in self.rows])
        some = of(len(self.X))
        return replace(
            self, X=self.X[some], y=self.y[some], weight=None if self.weight is None else self.weight[..., some]
        )

    def weights(self, models: int) -> NDArray[np.float64]:
        """The total weight of the rows that each network uses, (K,)."""
        if self.weight is None:
            counts = [len(self.X)] * models if self.rows is None else [len(rows) for rows in self.rows]
            return np.array(counts, np.float64)
        weights = np.broadcast_to(np.atleast_2d(self.weight), (models, len(self.X)))
        return np.array([(w if self.rows is None else w[self.rows[k]]).sum() for k, w in enumerate(weights)])

    def arrays(self) -> dict[str, Any]:
        """All arrays by name."""
        return {"X": self.X, "y": self.y, "weight": self.weight, "rows": self.rows}


def samples_in_memory(stack: Stack, X: Any, y: Any, sample_weight: Any, rows: Any) -> Samples:
    """The training data, made from arrays and checked."""
    if X is None or y is None:
        raise UsageError("there is nothing to train on; give X and y, or batches")
    X, y, weight = stack.checked(X, y, sample_weight, weight_per_network=True)
    return Samples(X, y, weight, checks.rows(rows, stack.models, len(X)))


def validation_samples(
    stack: Stack, data: Sequence[Any] | None, rows: Sequence[Any] | None, training: Samples
) -> Samples | None:
    """The data that are evaluated after every epoch and choose the weights, checked before anything is trained."""
    if rows is not None:
        if data is not None:
            raise UsageError("validation_data and validation_rows are both given; give one of them")
        validation = replace(training, rows=checks.rows(rows, stack.models, len(training.X), "validation_rows"))
        total_weights(validation, stack.models, "sample_weight leaves every row of validation_rows")
        return validation
    return evaluated_samples(stack, data, "validation_data", "validation")


def evaluated_samples(stack: Stack, data: Sequence[Any] | None, argument: str, name: str) -> Samples | None:
    """Rows that are evaluated after every epoch, from the argument called `argument`; errors call them `name`."""
    if data is None:
        return None
    if not isinstance(data, Sequence) or len(data) not in (2, 3):
        raise UsageError(f"{argument} does not fit; give (X, y) or (X, y, sample_weight)")
    X, y, *weight = data
    return Samples(*stack.checked(X, y, weight[0] if weight else None, name))


def with_class_weight(samples: Samples, class_weight: Any, stack: Stack) -> Samples:
    """Samples whose weights are multiplied by class weights; classes are counted in the rows that each network uses."""
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


def total_weights(
    samples: Samples, models: int, cause: str = "class_weight and sample_weight leave every sample"
) -> NDArray[np.float64]:
    """The total weight of the rows that each network uses, (K,); zero is refused, and the error names the cause."""
    total = samples.weights(models)
    if not total.all():
        who = f" of network {int(np.argmin(total))}" if models > 1 else ""
        raise DataError(f"{cause}{who} with weight 0; one must count")
    return total
