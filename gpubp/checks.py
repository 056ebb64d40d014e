"""What users pass, checked once and converted: inputs, targets, weights, per-network numbers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.activations import Activation, get_activation
from gpubp.errors import DataError, UsageError
from gpubp.losses import Loss
from gpubp.precision import PRECISIONS

_FAR_FROM_STANDARDIZED = 10.0  # a mean magnitude that standardized numbers do not have
_BLOCK = 1 << 20  # elements looked at a time, so that a check takes little memory


class SparseRows:
    """A sparse matrix in CSR form; rows become dense when they are asked for.

    Parameters
    ----------
    matrix : scipy.sparse matrix or array
    """

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix.tocsr()
        self.shape, self.ndim, self.dtype = self.matrix.shape, 2, self.matrix.dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        dense: NDArray[Any] = self.matrix[rows].toarray()
        return dense

    def astype(self, dtype: Any, copy: bool = True) -> SparseRows:
        """The matrix in another type."""
        return SparseRows(self.matrix.astype(dtype, copy=copy))

    @property
    def held_bytes(self) -> int:
        """Bytes that the matrix takes."""
        return int(self.matrix.data.nbytes + self.matrix.indices.nbytes + self.matrix.indptr.nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, dense."""
        return int(np.prod(self.shape, dtype=np.int64)) * int(self.dtype.itemsize)


def stacked_rows(X: Any, below: Any) -> Any:
    """The rows of two matrices, one below the other: arrays, or SparseRows."""
    if not isinstance(X, SparseRows):
        return np.concatenate([X, below])
    from scipy.sparse import vstack

    return SparseRows(vstack([X.matrix, below.matrix], format="csr"))


def inputs(X: Any, n_inputs: int, precision: str, name: str = "X") -> Any:
    """`X` as a two-dimensional real array or SparseRows (m, n_inputs), copied only if necessary.

    It holds neither NaN nor infinity, nor numbers that become infinite when cast to `precision`.

    Raises
    ------
    DataError
        Naming the shape, dtype or cell that does not fit.
    """
    array = X if isinstance(X, SparseRows) else _real_array(X, name)
    if array.ndim != 2:
        hint = "; one row is X.reshape(1, -1)" if array.ndim == 1 else ""
        raise DataError(f"{name} has shape {array.shape}; it must be (rows, {n_inputs}){hint}")
    if array.shape[1] != n_inputs:
        hint = f"; rows are samples here: give {name}.T" if array.shape[0] == n_inputs else ""
        raise DataError(f"{name} has {array.shape[1]} columns, but the network has {n_inputs} inputs{hint}")
    if len(array) == 0:
        raise DataError(f"{name} has no rows; at least one is needed")
    _require_finite(array.matrix.data if isinstance(array, SparseRows) else array, name, precision)
    return array


def require_encoded(X: Any, n_inputs: int, preprocessing: Mapping[str, Any] | None) -> None:
    """Raise for raw rows where a network expects rows in its encoding; warn about rows that look raw."""
    if preprocessing is None or hasattr(X, "matrix"):
        return
    is_array = not (hasattr(X, "iloc") or isinstance(X, str | Path | dict))
    width = np.shape(X)[1:] if is_array else ()
    if not is_array or (width and width != (n_inputs,)):
        raise DataError(
            f"X is no array of (rows, {n_inputs}) encoded numbers, which this network takes; "
            "gpubp.load(path).predict takes raw rows"
        )
    if _looks_raw(preprocessing, np.asarray(X)):
        warnings.warn(
            "X looks like raw rows, and the network takes encoded ones, of about unit variance; "
            "gpubp.load(path).predict takes raw rows",
            stacklevel=3,
        )


def _looks_raw(preprocessing: Mapping[str, Any], X: Any) -> bool:
    """Whether numbers that should be standardized are in the range they had before."""
    numbers = preprocessing.get("features", {}).get("numbers", {})
    mean, scale, width = numbers.get("mean"), numbers.get("scale"), numbers.get("width")
    if not mean or not scale or not width or X.dtype.kind not in "iuf":
        return False
    values = X[:1000, :width].astype(np.float64)
    far = np.abs(values).mean() > _FAR_FROM_STANDARDIZED
    return bool(far and np.abs((values - mean) / scale).mean() < _FAR_FROM_STANDARDIZED)


def targets(y: Any, rows: int, n_outputs: int, loss: Loss, precision: str, name: str = "y") -> NDArray[Any]:
    """`y` as the loss takes it: integer classes (m,), or values (m, n_outputs).

    One-hot rows become integer classes; a matrix of class probabilities stays one. Where the outputs are quantiles of
    one target, it is repeated for all of them.

    Raises
    ------
    DataError
        Naming the shape, dtype or row that does not fit.
    """
    array = _real_array(y, name)
    if array.ndim == 0 or len(array) != rows:
        raise DataError(f"{name} has shape {array.shape}, but there are {rows} rows of X")
    _require_finite(array, name, PRECISIONS[precision].parameters)
    if loss.integer_targets and (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1 != n_outputs)):
        return _classes(array.reshape(-1), n_outputs, loss, name)
    array = array.reshape(rows, 1) if array.ndim == 1 else array
    if loss.quantiles and array.shape == (rows, 1):
        array = np.repeat(array, n_outputs, axis=1)
    if array.shape != (rows, n_outputs):
        raise DataError(
            f"{name} has shape {array.shape}, but the network has {n_outputs} outputs: ({rows}, {n_outputs})"
        )
    low, high = loss.targets
    wrong = (array < low) | (array > high)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise DataError(
            f'{name}[{row}, {column}] = {array[row, column]} is outside {low:g} … {high:g}, where loss "{loss.name}" '
            f"has its targets"
        )
    if loss.integer_targets:
        total = array.sum(axis=1, dtype=np.float64)
        if (np.abs(total - 1) > 1e-4).any():
            row = int(np.argmax(np.abs(total - 1)))
            raise DataError(
                f'{name}[{row}] sums to {total[row]:g}; a row of "{loss.name}" targets is one-hot or a distribution. '
                f'For several labels at once use loss="binary_cross_entropy"'
            )
        if ((array == 0) | (array == 1)).all():
            classes: NDArray[np.int64] = array.argmax(axis=1)
            return classes
    return array


def sample_weight(weight: Any, rows: int, name: str = "sample_weight", networks: int = 1) -> NDArray[np.float64] | None:
    """Weights per sample (m,), or (K, m) for several networks, finite and not negative; None stays None."""
    if weight is None:
        return None
    array: NDArray[np.float64] = _real_array(weight, name).astype(np.float64)
    if array.shape != (rows,) and (networks == 1 or array.shape != (networks, rows)):
        each = "" if networks == 1 else f", or ({networks}, {rows})"
        raise DataError(f"{name} has shape {array.shape}; it must be ({rows},), one weight a row{each}")
    _require_finite(array, name)
    if (array < 0).any():
        place = np.argwhere(array < 0)[0].tolist()
        where = ", ".join(map(str, place))
        raise DataError(f"{name}[{where}] = {array[tuple(place)]:g} is negative; weights are 0 or more")
    if not array.any():
        raise DataError(f"{name} is all zeros; at least one sample must count")
    require_summable(array, name)
    return array


def require_summable(weight: NDArray[np.float64], name: str) -> None:
    """Raise for weights (m,) or (K, m) whose sum cannot divide a loss: it overflows, or its reciprocal does."""
    smallest = np.finfo(np.float64).tiny
    if ((weight > 0) & (weight < smallest)).any():
        raise DataError(
            f"{name} has weights below {smallest:.1e}, the least that can be divided by; multiply all by one number"
        )
    with np.errstate(over="ignore"):
        if not np.isfinite(weight.sum(axis=-1)).all():
            raise DataError(f"{name} sums to more than {np.finfo(np.float64).max:.1e}; divide all by one number")


def class_weights(weights: Any, y: NDArray[Any], n_classes: int, loss: Loss) -> NDArray[np.float64] | None:
    """The weight of each row of integer classes `y`: by a dict, or m / (classes · count) for "balanced"."""
    if weights is None:
        return None
    if not loss.integer_targets or y.ndim != 1:
        raise UsageError(f'class_weight needs one class per row; loss "{loss.name}" does not have that here')
    per_class = np.ones(n_classes)
    if isinstance(weights, str):
        if weights != "balanced":
            raise UsageError(f'class_weight "{weights}" is unknown; use "balanced" or a dict {{class: weight}}')
        counts = np.bincount(y, minlength=n_classes)
        per_class = np.where(counts > 0, len(y) / (n_classes * np.maximum(counts, 1)), 0.0)
    elif not isinstance(weights, Mapping):
        raise UsageError(f'class_weight={weights!r} does not fit; use "balanced" or a dict {{class: weight}}')
    else:
        for key, value in weights.items():
            if key not in range(n_classes):
                raise UsageError(f"class_weight names class {key!r}; classes are 0 … {n_classes - 1}")
            if not (np.isfinite(value) and value >= 0):
                raise UsageError(f"class_weight[{key}] = {value} must be finite and not negative")
            per_class[int(key)] = value
    chosen: NDArray[np.float64] = per_class[y]
    return chosen


def per_network(
    name: str,
    value: Any,
    models: int,
    low: float,
    high: float = np.inf,
    *,
    low_open: bool = False,
    high_open: bool = True,
) -> NDArray[np.float64]:
    """A number, or one per network, as (K,) float64 within the given bounds."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # the last for integers too large for a float
        raise UsageError(f"{name}={value!r} does not fit; give one number, or {models}, one per network") from None
    if array.shape not in ((), (models,)):
        raise UsageError(f"{name} has shape {array.shape}; give one number, or {models}, one per network")
    valid = (array > low if low_open else array >= low) & (array < high if high_open else array <= high)
    if not valid.all():
        bad = float(array[~valid].flat[0]) if array.ndim else float(array)
        lower = f"{name} {'>' if low_open else '>='} {low:g}"
        upper = "finite" if high == np.inf else f"{'<' if high_open else '<='} {high:g}"
        raise UsageError(f"{name}={bad:g} does not fit; use {lower} and {upper}")
    return np.broadcast_to(array, (models,)).copy()


def whole_per_network(name: str, value: Any, models: int, low: int) -> NDArray[np.int64]:
    """An integer, or one per network, as (K,)."""
    value = value[()] if isinstance(value, np.ndarray) else value  # from a 0-d array, its number
    if not isinstance(value, (Sequence, np.ndarray)):
        return np.full(models, whole(name, value, low))
    if len(value) != models:
        raise UsageError(f"{name} names {len(value)} numbers; give one, or {models}, one per network")
    return np.array([whole(f"{name}[{k}]", v, low) for k, v in enumerate(value)])


def rows(indices: Any, models: int, m: int, name: str = "rows") -> list[NDArray[np.int64]] | None:
    """Indices of rows for each network: K arrays of whole numbers from 0 to m − 1, none empty; None stays None."""
    if indices is None:
        return None
    if not isinstance(indices, (Sequence, np.ndarray)) or len(indices) != models:
        raise UsageError(f"{name} does not fit; give {models} arrays of row numbers, one per network")
    arrays = []
    for k, own_rows in enumerate(indices):
        array = np.asarray(own_rows)
        if array.ndim != 1 or array.dtype.kind not in "iu" or not len(array):
            raise UsageError(
                f"{name}[{k}] has shape {array.shape} and dtype {array.dtype}; it must be whole numbers, (rows,)"
            )
        if (wrong := (array < 0) | (array >= m)).any():
            raise DataError(f"{name}[{k}] names row {array[np.argmax(wrong)]}; X has rows 0 … {m - 1}")
        arrays.append(array.astype(np.int64, copy=False))
    return arrays


def seeds(seed: int | Sequence[int], models: int) -> tuple[int, ...]:
    """One seed per network: seed, seed + 1, …, or those given."""
    seed = seed[()] if isinstance(seed, np.ndarray) else seed
    if not isinstance(seed, (Sequence, np.ndarray)):
        first = whole("seed", seed, 0)
        return tuple(range(first, first + models))
    each = tuple(whole(f"seed[{k}]", s, 0) for k, s in enumerate(seed))
    if len(each) != models:
        raise UsageError(f"seed names {len(each)} seeds for {models} networks; give one number, or one per network")
    return each


def layer_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Inputs, hidden layers and outputs: whole numbers, at least two."""
    if not isinstance(sizes, (Sequence, np.ndarray)):
        raise UsageError(f"layer_sizes={sizes!r} does not make a network; give a list, such as [64, 10]")
    numbers = tuple(whole(f"layer_sizes[{i}]", n, 1) for i, n in enumerate(sizes))
    if len(numbers) < 2:
        raise UsageError(
            f"layer_sizes={list(numbers)} does not make a network; give inputs and outputs at least, [64, 10]"
        )
    return numbers


def hidden_activations(activations: Any, n_hidden: int) -> tuple[Activation, ...]:
    """One activation per hidden layer, from one for all or from a sequence."""
    if isinstance(activations, str) or not isinstance(activations, Sequence):
        return (get_activation(activations),) * n_hidden
    records = tuple(get_activation(a) for a in activations)
    if len(records) != n_hidden:
        raise UsageError(f"activations names {len(records)}, but there are {n_hidden} hidden layers; give one each")
    return records


def whole(name: str, value: Any, low: int) -> int:
    """An integer of at least `low`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < low:
        raise UsageError(f"{name}={value!r} does not fit; use a whole number of at least {low}")
    return int(value)


def flag(name: str, value: Any) -> bool:
    """True or False; other values, such as "no", would silently count as one of them."""
    if not isinstance(value, (bool, np.bool_)):
        raise UsageError(f"{name}={value!r} does not fit; use True or False")
    return bool(value)


def _real_array(array: Any, name: str) -> NDArray[Any]:
    if hasattr(array, "mask") and np.ma.is_masked(array):  # NumPy loads np.ma on first use
        raise DataError(f"{name} is a masked array, with values that are missing; fill them in, or drop such rows")
    if hasattr(array, "toarray"):  # SciPy's, which NumPy would take for a single object
        raise DataError(f"{name} is a sparse matrix, and dense rows are needed; pass {name}.toarray()")
    try:
        numbers: NDArray[Any] = np.asarray(array)
    except ValueError as error:
        raise DataError(f"{name} is not an array: {error}; all rows need the same length") from None
    if numbers.dtype.kind not in "biuf":
        raise DataError(f"{name} has dtype {numbers.dtype}; it must be real numbers (encode text and categories first)")
    return numbers


def _require_finite(array: NDArray[Any], name: str, precision: str = "float64") -> None:
    if array.dtype.kind != "f":
        return
    types = PRECISIONS[precision]
    largest = np.dtype(types.parameters).type(types.largest)
    rows = max(1, _BLOCK // max(1, array[:1].size))
    for start in range(0, len(array), rows):
        wrong = ~(np.abs(array[start : start + rows]) <= largest)
        if wrong.any():
            index = np.argwhere(wrong)[0]
            index[0] += start
            value, where = array[tuple(index)], ", ".join(str(i) for i in index)
            if np.isfinite(value):
                raise DataError(f'{name}[{where}] = {value} is too large for {precision}; scale it, or use "float64"')
            raise DataError(f"{name}[{where}] = {value}; values must be finite (impute or drop such rows)")


def _classes(y: NDArray[Any], n_classes: int, loss: Loss, name: str) -> NDArray[np.int64]:
    if y.dtype.kind == "f" and (y != np.rint(y)).any():
        row = int(np.argmax(y != np.rint(y)))
        raise DataError(
            f'{name}[{row}] = {y[row]} is continuous, but loss "{loss.name}" needs classes 0 … {n_classes - 1}; '
            f'for regression use loss="half_squared_error"'
        )
    wrong = (y < 0) | (y >= n_classes)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{name}[{row}] = {y[row]} is no class of this network: classes are 0 … {n_classes - 1}")
    return y.astype(np.int64)
