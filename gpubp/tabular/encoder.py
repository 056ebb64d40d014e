"""The encoding of tables as a scikit-learn transformer."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from gpubp import checks
from gpubp.checks import SparseRows
from gpubp.data import encodings, features
from gpubp.data.prepare import as_trained, with_schema
from gpubp.errors import UsageError
from gpubp.tabular.frames import as_table, check_width, column_of_targets


class TableEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Encode the columns of a data frame as `TabularClassifier` and ``gpubp train`` do.

    Numbers are encoded as `numbers` says; categories are one-hot encoded, with all zeros for a category that did not
    occur in training; missing numbers are replaced by the median, and an extra column marks where they were; dates
    become numbers and the parts of a date that vary. Columns without information are left out.

    Parameters
    ----------
    numbers : str
        ``"standard"``, ``"robust"``, ``"quantile"``, ``"piecewise"``, ``"steps"``, ``"fourier"``, ``"forest"``, or
        several of these with ``+`` between them: ``"robust+piecewise(32)"``.
    dtype : dtype
        The type that `transform` returns.
    random_state : int
        Seed of what ``fourier`` and ``forest`` draw.

    Attributes
    ----------
    n_features_in_ : int
    feature_names_in_ : (n_features_in_,) array of str
        If X had names.
    preprocessing_ : dict
        The fitted encoding, as plain JSON.
    notes_ : list of str
        What was left out, or read in a way that you may want to know about.

    Examples
    --------
    >>> import gpubp
    >>> X = {"rooms": [1, 2, 3, 4, 5, 6], "colour": ["red", None, "blue", "red", "red", "blue"]}
    >>> encoder = gpubp.TableEncoder("standard+piecewise(2, leaf=1)").fit(X, y=[1.0, 1.1, 0.9, 7.0, 7.2, 7.1])
    >>> encoder.transform({"rooms": [3.5], "colour": ["green"]}).tolist()
    [[0.0, 1.0, 0.0, 0.0, 0.0, 0.0]]
    >>> encoder.get_feature_names_out().tolist()
    ['number_0', 'number_1', 'number_2', 'colour_blue', 'colour_red', 'colour_missing']
    """

    def __init__(self, numbers: str = "robust+piecewise", *, dtype: Any = np.float32, random_state: int = 0) -> None:
        self.numbers = numbers
        self.dtype = dtype
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the encoding of all columns.

        Parameters
        ----------
        X : pandas or polars data frame, (m, n) array, or dict of str to (m,) array
        y : (m,) or (m, n) array, optional
            The target that bins and leaves should separate; without it, bins lie between quantiles, and leaves are
            those of trees on random numbers.

        Returns
        -------
        TableEncoder
            Itself.

        Raises
        ------
        DataError
            If X cannot be read, or a target is missing.
        """
        seed = checks.whole("random_state", self.random_state, 0)
        _float_type(self.dtype)
        data = as_table(X)
        to_predict = None if y is None else _as_target(y, data.rows)
        encoding = features.fit(data, features.ALL_ROWS, self.numbers, to_predict, seed)
        self.preprocessing_ = with_schema(encoding, data) | {"target": {"name": None}}
        self.notes_ = list(data.notes)
        self.n_features_in_ = len(data.columns)
        if hasattr(X, "columns"):
            self.feature_names_in_ = np.array(list(data.columns), dtype=object)
        return self

    def transform(self, X: Any) -> Any:
        """Encode rows.

        Returns
        -------
        (m, n_inputs) array, or scipy.sparse CSR matrix where that would be large and mostly zeros

        Raises
        ------
        DataError
            If a column is missing, or a value is not a number in a column that held only numbers in `fit`.
        """
        check_is_fitted(self, "preprocessing_")
        table = as_table(X, self.preprocessing_)
        check_width(X, table, self)
        data = as_trained(self.preprocessing_, table, with_target=False)
        encoded = features.apply(self.preprocessing_["features"], data, features.ALL_ROWS, _float_type(self.dtype))
        return encoded.matrix if isinstance(encoded, SparseRows) else encoded

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Name the columns of what `transform` returns.

        Returns
        -------
        (n_inputs,) array of str
            ``number_0``, … for the encoded numbers; ``NAME_missing``; ``NAME_CATEGORY``.
        """
        check_is_fitted(self, "preprocessing_")
        encoding = self.preprocessing_["features"]
        numbers = encoding["numbers"]
        fitted = numbers.get("encodings")
        width = numbers["width"] if fitted is None else encodings.width(fitted)
        names = list(numbers["names"]) if fitted is None else [f"number_{i}" for i in range(width)]
        names += [f"{numbers['names'][j]}_missing" for j in numbers["indicators"]]
        for column in encoding["categories"]:
            names += [f"{column['name']}_{value}" for value in column["values"]]
            names += [f"{column['name']}_missing"] * column["indicator"]
        return np.array(names, dtype=object)


def _float_type(dtype: Any) -> np.dtype[Any]:
    with suppress(TypeError):
        float_type: np.dtype[Any] = np.dtype(dtype)
        if dtype is not None and float_type.kind == "f":
            return float_type
    raise UsageError(f"dtype={dtype!r} does not fit; use a floating-point type, such as float32")


def _as_target(y: Any, rows: int) -> encodings.Target:
    """The target that bins should separate: classes, unless y has numbers with decimals."""
    values = column_of_targets(y)
    if len(values) != rows:
        raise UsageError(f"y has {len(values)} rows and X {rows}; give one target a row")
    if type_of_target(values).startswith("continuous"):
        return encodings.Target(_standardized(values), classes=False)
    return encodings.Target(np.unique(values, return_inverse=True)[1] if values.ndim == 1 else values, classes=True)


def _standardized(values: NDArray[Any]) -> NDArray[np.float64]:
    """Columns of mean 0 and deviation 1: a tree takes tiny values for equal, and rounding swamps values far from 0."""
    from sklearn.preprocessing import StandardScaler

    columns = values.reshape(len(values), -1).astype(np.float64)
    scaled: NDArray[np.float64] = StandardScaler().fit_transform(columns).reshape(values.shape)
    return scaled
