"""What an estimator trains or validates on, once it is checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse, vstack
from sklearn.model_selection import train_test_split

from gpubp import checks
from gpubp.errors import DataError
from gpubp.estimators.arrays import NUMPY, Home, home_of, is_on_gpu, take
from gpubp.precision import PRECISIONS
from gpubp.stack import Stack, neighbours
from gpubp.training.device_data import SparseRows


@dataclass
class Subset:
    """Rows of a data set, as the training step takes them.

    Attributes
    ----------
    X : (m, n_0) array, or SparseRows
    y : (m,) integers or (m, n_L) array
        As the network's loss takes it.
    weight : (m,) float64 or None
    rows : (n,) int
        Those of the m rows that are meant.
    given : bool
        Whether the user gave these rows for validation; else they are split off.
    home : Home
        Where the user's X is.
    """

    X: Any
    y: Any
    weight: NDArray[np.float64] | None
    rows: NDArray[np.int64]
    given: bool = False
    home: Home = NUMPY

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


def joined(parts: Sequence[Subset]) -> tuple[Any, Any, NDArray[np.float64] | None, list[int]]:
    """The data sets that rows come from, each of them once, one after the other.

    Returns
    -------
    X : (m, n_0) array, or SparseRows
    y : (m,) or (m, n_L) array
    weight : (m,) or (K, m) float64, or None
    offsets : K int
        Where the data set of each begins.
    """
    sets: dict[tuple[int, int], Subset] = {}
    for part in parts:
        sets.setdefault((id(part.X), id(part.y)), part)
    starts = dict(zip(sets, np.cumsum([0, *(len(part.X) for part in sets.values())]).tolist(), strict=False))
    offsets = [starts[id(part.X), id(part.y)] for part in parts]
    X, y = (_end_to_end([getattr(part, name) for part in sets.values()]) for name in ("X", "y"))
    if all(part.weight is None for part in parts):
        return X, y, None, offsets
    if len(sets) == 1 and all(part.weight is parts[0].weight for part in parts):
        return X, y, parts[0].weight, offsets
    weight = np.zeros((len(parts), len(X)))
    for row, part, start in zip(weight, parts, offsets, strict=True):
        row[start : start + len(part.X)] = 1.0 if part.weight is None else part.weight
    return X, y, weight, offsets


def _end_to_end(arrays: Sequence[Any]) -> Any:
    first = arrays[0]
    if len(arrays) == 1:
        return first
    if isinstance(first, SparseRows):
        return SparseRows(vstack([rows.matrix for rows in arrays], format="csr"))
    return home_of(first).concatenated(arrays)


def rows_for(precision: str, X: Any) -> Any:
    """Checked X as a network takes it; values too large for its precision are refused."""
    largest = PRECISIONS[precision].largest
    if X.dtype.kind == "f" and float(np.finfo(X.dtype).max) > largest:
        if isinstance(X, np.ndarray):
            checks.inputs(X, X.shape[1], precision)
        elif not abs(X).max() <= largest:
            raise DataError(f'X holds values too large for {precision}; scale it, or use precision="float64"')
    return SparseRows(X) if issparse(X) else X


def outputs_of_each(stack: Stack, X: Any, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[Any]]:
    """a^L (n, n_L) of each network for its own rows of X, which may be none, on the host."""
    outputs: list[NDArray[Any]] = []
    for networks, _ in neighbours(np.array([len(own_rows) for own_rows in rows])):
        places = np.stack(rows[networks])
        outputs.extend(stack.part(networks).outputs(X, stack.backend.from_host(places) if is_on_gpu(X) else places))
    return outputs
