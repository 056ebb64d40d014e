"""The small data sets that come with scikit-learn, by their names there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gpubp.data.source import RawData


def _load_digits() -> RawData:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return RawData(name="digits", kind="arrays", X=X, y=y, one_unit=True)


def _load_table(name: str, target: str) -> RawData:
    import sklearn.datasets

    bunch: Any = getattr(sklearn.datasets, f"load_{name}")()
    columns = {str(column): values for column, values in zip(bunch.feature_names, bunch.data.T, strict=True)}
    classes = bunch.get("target_names")
    columns[target] = bunch.target if classes is None else np.asarray(classes, dtype=object)[bunch.target]
    return RawData(name=name, kind="table", columns=columns, target=target)


BUILTIN: dict[str, Callable[[], RawData]] = {
    "digits": _load_digits,
    "breast_cancer": partial(_load_table, "breast_cancer", "diagnosis"),
    "wine": partial(_load_table, "wine", "cultivar"),
    "diabetes": partial(_load_table, "diabetes", "progression"),
    "iris": partial(_load_table, "iris", "species"),
}
