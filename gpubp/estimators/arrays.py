"""Arrays of other libraries: how they come in, and how results go back to where X came from.

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
from sklearn.utils import _array_api
from sklearn.utils.validation import _check_feature_names, _check_n_features

from gpubp.errors import DataError


@dataclass(frozen=True)
class Home:
    """Where results go.

    Attributes
    ----------
    xp : namespace or None
        None for NumPy.
    device : Any
        As `xp` has it; None on a GPU, where CuPy goes by its current device.
    gpu : bool
        Whether that is a GPU's memory.
    """

    xp: Any = None
    device: Any = None
    gpu: bool = False

    def bring(self, array: Any) -> Any:
        """An array of results, there; text has no place but the host."""
        if self.xp is None or not is_numeric(array) or is_on_gpu(array):
            return array
        return self.xp.asarray(array) if self.gpu else self.xp.asarray(array, device=self.device)

    def concatenated(self, arrays: Sequence[Any]) -> Any:
        """Arrays that are there, one after the other."""
        return (np if self.xp is None else self.xp).concatenate(arrays)


NUMPY = Home()


def is_on_gpu(array: Any) -> bool:
    """Whether it is CuPy's."""
    return hasattr(array, "__cuda_array_interface__") and _library(array) == "cupy"


def is_numeric(array: Any) -> bool:
    """Whether it holds numbers."""
    return getattr(array.dtype, "kind", "f") in "biufc"


def home_of(array: Any) -> Home:
    """Where results that belong to `array` go."""
    if is_on_gpu(array):
        return Home(sys.modules[_library(array)], gpu=True)
    if not get_config()["array_api_dispatch"]:
        return NUMPY
    xp, foreign, device = _array_api.get_namespace_and_device(array)
    return NUMPY if not foreign or _array_api._is_numpy_namespace(xp) else Home(xp, device)


def to_host(array: Any) -> Any:
    """A foreign array in NumPy; anything else as it is."""
    return array if home_of(array).xp is None else as_numpy(array)


def as_numpy(array: Any) -> NDArray[Any]:
    """An array of any library in NumPy."""
    values: NDArray[Any]
    if is_on_gpu(array):
        values = array.get()
    elif isinstance(array, np.ndarray) or not hasattr(array, "__array_namespace__"):
        values = np.asarray(array)
    else:
        values = _array_api._convert_to_numpy(array, array.__array_namespace__())
    return values


def take(array: Any, rows: NDArray[np.intp]) -> Any:
    """Some rows of an array, on the host or a GPU."""
    return array[home_of(array).bring(rows)]


def check_same_namespace(est: Any, X: Any, method: str) -> None:
    """Refuse X of another library than the weights', which scikit-learn does where its array_api_dispatch is on."""
    if get_config()["array_api_dispatch"] and hasattr(_array_api, "check_same_namespace"):  # from 1.9 on
        _array_api.check_same_namespace(X, est, attribute="_first_weights", method=method)


def check_rows_on_gpu(est: Any, X: Any, reset: bool) -> Any:
    """X (m, n_0) of CuPy with the checks that scikit-learn makes of NumPy's: one number comes to the host."""
    if X.ndim != 2:
        raise DataError(f"X has shape {X.shape}; it must be (rows, columns); one row is X.reshape(1, -1)")
    if len(X) == 0:
        raise DataError("X has no rows; at least one is needed")
    _check_feature_names(est, X, reset=reset)
    _check_n_features(est, X, reset=reset)
    return _finite(X if X.dtype in (np.float32, np.float64) else X.astype(np.float64), "X")


def check_values_on_gpu(y: Any) -> Any:
    """Targets (m,) or (m, n_L) of CuPy, likewise."""
    if y.ndim not in (1, 2):
        raise DataError(f"y has shape {y.shape}; it must be (rows,) or (rows, outputs)")
    return _finite(y, "y")


def _finite(array: Any, name: str) -> Any:
    if not bool(abs(array).max() < np.inf):
        raise DataError(f"Input {name} contains NaN or infinity; values must be finite (impute or drop such rows)")
    return array


def _library(array: Any) -> str:
    """The top module of an array's type."""
    return type(array).__module__.partition(".")[0]
