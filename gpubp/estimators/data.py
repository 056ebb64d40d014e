"""Checked data that an estimator trains or validates on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse, vstack
from sklearn.model_selection import train_test_split

from gpubp import checks
from gpubp.checks import SparseRows
from gpubp.errors import DataError
from gpubp.estimators.arrays import NUMPY, Destination, destination_of, take
from gpubp.precision import PRECISIONS


@dataclass
class Subset:
    """Rows of a data set, in the form the training step takes.

    Attributes
    ----------
    X : (m, n_0) array, or SparseRows
    y : (m,) integers or (m, n_L) array
        As the network's loss takes it.
    weight : (m,) float64 or None
    rows : (n,) int
        The selected ones of the m rows.
    from_user : bool
        Whether the user gave these rows for validation; otherwise they were split off.
    destination : Destination
        Where the user's X is, and where the weights go.
    """

    X: Any
    y: Any
    weight: NDArray[np.float64] | None
    rows: NDArray[np.int64]
    from_user: bool = False
    destination: Destination = NUMPY

    @property
    def targets(self) -> Any:
        """y of the rows."""
        return take(self.y, self.rows)

    @property
    def row_weight(self) -> NDArray[np.float64] | None:
        """Weights of the rows."""
        return None if self.weight is None else self.weight[self.rows]

    def split(self, fraction: float, rng: np.random.RandomState, strata: Any) -> tuple[Subset, Subset]:
        """Rows to train on, and a fraction set aside for validation."""
        train, validation = train_test_split(
            np.arange(len(self.rows)), random_state=rng, test_size=fraction, stratify=strata
        )
        if len(validation) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return replace(self, rows=self.rows[train]), replace(self, rows=self.rows[validation])


class Concatenation(NamedTuple):
    """Data sets one after the other.

    Attributes
    ----------
    X : (m, n_0) array, or SparseRows
    y : (m,) or (m, n_L) array
    weight : (m,) or (K, m) float64, or None
    offsets : list of K int
        Where the data set of each of K subsets begins.
    """

    X: Any
    y: Any
    weight: NDArray[np.float64] | None
    offsets: list[int]


def concatenate_data_sets(subsets: Sequence[Subset]) -> Concatenation:
    """The data sets of K subsets, each included once."""
    sets: dict[tuple[int, int], Subset] = {}
    for subset in subsets:
        sets.setdefault((id(subset.X), id(subset.y)), subset)
    starts = dict(zip(sets, np.cumsum([0, *(len(subset.X) for subset in sets.values())]).tolist(), strict=False))
    offsets = [starts[id(subset.X), id(subset.y)] for subset in subsets]
    X, y = (_concatenate([getattr(subset, name) for subset in sets.values()]) for name in ("X", "y"))
    first_weight = subsets[0].weight
    if all(subset.weight is None for subset in subsets):
        return Concatenation(X, y, weight=None, offsets=offsets)
    if len(sets) == 1 and all(subset.weight is first_weight for subset in subsets):
        return Concatenation(X, y, weight=first_weight, offsets=offsets)
    weight = np.zeros((len(subsets), len(X)))
    for row, subset, start in zip(weight, subsets, offsets, strict=True):
        row[start : start + len(subset.X)] = 1.0 if subset.weight is None else subset.weight
    return Concatenation(X, y, weight=weight, offsets=offsets)


def _concatenate(arrays: Sequence[Any]) -> Any:
    first = arrays[0]
    if len(arrays) == 1:
        return first
    if isinstance(first, SparseRows):
        return SparseRows(vstack([rows.matrix for rows in arrays], format="csr"))
    return destination_of(first).concatenate(arrays)


def network_inputs(X: Any, precision: str) -> Any:
    """Checked X in the form a network takes; refuses values too large for its precision."""
    largest = PRECISIONS[precision].largest
    if X.dtype.kind == "f" and float(np.finfo(X.dtype).max) > largest:
        if isinstance(X, np.ndarray):
            checks.inputs(X, X.shape[1], precision)
        elif not abs(X).max() <= largest:
            raise DataError(f'X holds values too large for {precision}; scale it, or use precision="float64"')
    return SparseRows(X) if issparse(X) else X
