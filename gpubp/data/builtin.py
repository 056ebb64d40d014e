"""scikit-learn's small data sets, under their own names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gpubp.data.source import RawData


def _digits() -> RawData:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return RawData("digits", "arrays", X=X, y=y, one_unit=True)


def _table(name: str, target: str) -> RawData:
    import sklearn.datasets

    bunch: Any = getattr(sklearn.datasets, f"load_{name}")()
    columns = {str(column): values for column, values in zip(bunch.feature_names, bunch.data.T, strict=True)}
    classes = bunch.get("target_names")
    columns[target] = bunch.target if classes is None else np.asarray(classes, dtype=object)[bunch.target]
    return RawData(name, "table", columns=columns, target=target)


BUILTIN: dict[str, Callable[[], RawData]] = {
    "digits": _digits,
    "breast_cancer": partial(_table, "breast_cancer", "diagnosis"),
    "wine": partial(_table, "wine", "cultivar"),
    "diabetes": partial(_table, "diabetes", "progression"),
    "iris": partial(_table, "iris", "species"),
}
