"""Arrays of other libraries: how they are read, and how results return to where X came from.

NumPy's own, and whatever NumPy reads by itself (lists, data frames), pass through untouched. Arrays of a library
with the array API are foreign where scikit-learn's ``array_api_dispatch`` is on; CuPy's always are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.utils.validation import validate_data

from gpubp.errors import DataError
from gpubp.estimators import sklearn_private


@dataclass(frozen=True)
class Destination:
    """The library and the device that results are returned in.

    Attributes
    ----------
    xp : namespace or None
        None for NumPy.
    device : Any
        As `xp` has it; None on a GPU, where CuPy uses its current device.
    gpu : bool
        Whether results are in a GPU's memory.
    """

    xp: Any = None
    device: Any = None
    gpu: bool = False

    def send(self, array: Any) -> Any:
        """An array of results in this library; text can only be on the host."""
        if self.xp is None or not is_numeric(array) or is_on_gpu(array):
            return array
        return self.xp.asarray(array) if self.gpu else self.xp.asarray(array, device=self.device)

    def concatenate(self, arrays: Sequence[Any]) -> Any:
        """Arrays of this library, one after the other."""
        return (np if self.xp is None else self.xp).concatenate(arrays)


NUMPY = Destination()


def is_on_gpu(array: Any) -> bool:
    """Whether an array is CuPy's."""
    return hasattr(array, "__cuda_array_interface__") and _library(array) == "cupy"


def is_numeric(array: Any) -> bool:
    """Whether an array holds numbers."""
    return getattr(array.dtype, "kind", "f") in "biufc"


def destination_of(array: Any) -> Destination:
    """Where results that belong to `array` are returned: in its own library, on its own device."""
    if is_on_gpu(array):
        return Destination(xp=sys.modules[_library(array)], gpu=True)
    if not get_config()["array_api_dispatch"]:
        return NUMPY
    xp, is_array_api, device = sklearn_private.get_namespace_and_device(array)
    if not is_array_api or sklearn_private.is_numpy_namespace(xp):
        return NUMPY
    return Destination(xp=xp, device=device)


def namespace_of(array: Any) -> Any:
    """The namespace of an array: NumPy on the host, CuPy on a GPU."""
    return destination_of(array).xp or np


def to_host(array: Any) -> Any:
    """A foreign array in NumPy; anything else as it is."""
    return array if destination_of(array).xp is None else as_numpy(array)


def as_numpy(array: Any) -> NDArray[Any]:
    """An array of any library in NumPy."""
    values: NDArray[Any]
    if is_on_gpu(array):
        values = array.get()
    elif hasattr(array, "detach") and hasattr(array, "cpu"):  # PyTorch's: NumPy takes only those on the host
        values = np.asarray(array.detach().cpu())
    elif isinstance(array, np.ndarray) or not hasattr(array, "__array_namespace__"):
        values = np.asarray(array)
    else:
        values = sklearn_private.convert_to_numpy(array, array.__array_namespace__())
    return values


def take(array: Any, rows: NDArray[np.intp]) -> Any:
    """Some rows of whatever `fit` takes: arrays of any library, sparse matrices, data frames, lists; None for None."""
    if array is None:
        return None
    rows = destination_of(array).send(rows)
    return array[rows] if is_on_gpu(array) else sklearn_private.safe_indexing(array, rows)


def check_rows_to_predict(est: Any, X: Any, method: str, stays_on_gpu: bool) -> Any:
    """X (m, n_0) for a fitted estimator, checked; `method` is what the user called.

    If scikit-learn's ``array_api_dispatch`` is on, X must be of the weights' library.
    """
    if get_config()["array_api_dispatch"]:
        sklearn_private.check_same_namespace(X, est, attribute="_first_weights", method=method)
    if stays_on_gpu:
        return check_rows_on_gpu(est, X, reset=False)
    return validate_data(est, to_host(X), accept_sparse="csr", reset=False)


def check_rows_on_gpu(est: Any, X: Any, reset: bool) -> Any:
    """X (m, n_0) of CuPy, checked as scikit-learn checks NumPy's: only one number is copied to the host."""
    if X.ndim != 2:
        raise DataError(f"X has shape {X.shape}; it must be (rows, columns); one row is X.reshape(1, -1)")
    if len(X) == 0:
        raise DataError("X has no rows; at least one is needed")
    sklearn_private.check_feature_names(est, X, reset=reset)
    sklearn_private.check_n_features(est, X, reset=reset)
    return _check_finite(X if X.dtype in (np.float32, np.float64) else X.astype(np.float64), "X")


def check_values_on_gpu(y: Any) -> Any:
    """Targets (m,) or (m, n_L) of CuPy, checked as scikit-learn checks NumPy's."""
    if y.ndim not in (1, 2):
        raise DataError(f"y has shape {y.shape}; it must be (rows,) or (rows, outputs)")
    return _check_finite(y, "y")


def _check_finite(array: Any, name: str) -> Any:
    if not bool(abs(array).max() < np.inf):
        raise DataError(f"Input {name} contains NaN or infinity; values must be finite (impute or drop such rows)")
    return array


def _library(array: Any) -> str:
    """The top module of an array's type."""
    return type(array).__module__.partition(".")[0]
