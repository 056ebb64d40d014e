"""What an estimator trains or validates on, once it is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.model_selection import train_test_split

from gpubp import checks
from gpubp._typing import Array
from gpubp.errors import DataError
from gpubp.estimators.arrays import is_on_gpu, take
from gpubp.network import MLP
from gpubp.precision import PRECISIONS
from gpubp.rows import SparseRows


@dataclass
class Data:
    """Rows, targets and weights as the training step takes them.

    Attributes
    ----------
    X : (m, n_0) array, or SparseRows
    y : (m,) integers or (m, n_L) array
        As the network's loss takes it.
    weight : (m,) float64 or None
    given : bool
        Whether the user gave these rows for validation; else they are split off.
    """

    X: Any
    y: Any
    weight: NDArray[np.float64] | None
    given: bool = False

    def take(self, rows: NDArray[np.intp]) -> Data:
        """Some of the rows."""
        X = SparseRows(self.X.matrix[rows]) if isinstance(self.X, SparseRows) else take(self.X, rows)
        return Data(X, take(self.y, rows), None if self.weight is None else self.weight[rows])

    def split(self, fraction: float, rng: np.random.RandomState, strata: Any) -> tuple[Data, Data]:
        """Rows to train on, and a fraction set aside for validation."""
        parts = train_test_split(np.arange(len(self.X)), random_state=rng, test_size=fraction, stratify=strata)
        if len(parts[1]) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return self.take(parts[0]), self.take(parts[1])


def rows_for(net: MLP, X: Any) -> Any:
    """Checked X as the network takes it; values too large for its precision are refused."""
    largest = PRECISIONS[net.precision].largest
    if X.dtype.kind == "f" and float(np.finfo(X.dtype).max) > largest:
        if isinstance(X, np.ndarray):
            checks.inputs(X, X.shape[1], net.precision)
        elif not abs(X).max() <= largest:
            raise DataError(f'X holds values too large for {net.precision}; scale it, or use precision="float64"')
    return SparseRows(X) if issparse(X) else X


def outputs(net: MLP, X: Any) -> Any:
    """a^L (m, n_L) of rows that are known to be sound: on the GPU for X there, else on the host."""
    if not is_on_gpu(X):
        return net.outputs(X)[0]
    backend = net.backend
    out = backend.empty((1, len(X), net.layer_sizes[-1]))

    def collect(rows: slice, logits: Array) -> None:
        backend.output(net.output_activation, logits)
        backend.cast(logits, out[:, rows])

    net.each_batch(X, collect)
    return out[0]
