"""An ensemble to disk and back: the file of a stack of networks, with what scikit-learn's side needs besides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpubp import serialization
from gpubp.errors import DataError
from gpubp.estimators import file
from gpubp.network import MLP
from gpubp.serialization import check_metadata
from gpubp.stack import Stack

ABOUT = {
    "class": str,
    "parameters": {},
    "estimator": {"precision": (None, str)},
    "members": [file.COUNTED],
    "feature_names": [str],
    "classes": (None, file.CLASSES),
}


def save(path: str | Path, ensemble: Any, stack: Stack) -> None:
    """Write a fitted ensemble, whose members' weights `stack` holds."""
    first = ensemble.estimators_[0]
    about = {
        "class": type(ensemble).__name__,
        "parameters": file.json_able({**ensemble.get_params(deep=False), "estimator": first}),
        "estimator": file.json_able({**first.get_params(deep=False), "random_state": None}),
        "members": [
            file.json_able({name: getattr(est, name) for name in ("random_state", *file.COUNTERS)})
            for est in ensemble.estimators_
        ],
        "feature_names": getattr(ensemble, "feature_names_in_", np.array([])).tolist(),
        "classes": file.classes(path, first) if hasattr(first, "classes_") else None,
    }
    metadata = {**stack.describe(), "preprocessing": None, "ensemble": about}
    serialization.save(path, stack.tensors(), metadata)


def load(path: str | Path, cls: Any, device: str, records: dict[str, Any]) -> Any:
    """The ensemble of class `cls` that `save` wrote.

    Raises
    ------
    DataError
        If there is no such file, it holds something else, or it is damaged.
    """
    about = serialization.load(path)[1].get("ensemble")
    if not isinstance(about, dict):
        raise DataError(f"{path}: holds no ensemble; networks that MLP.save wrote are loaded with gpubp.MLP.load")
    if about.get("class") != cls.__name__:
        raise DataError(f"{path}: holds an {about.get('class')}; load it with {about.get('class')}.load")
    stack = MLP.load(path, device, **records).stack
    try:
        check_metadata("ensemble", about, ABOUT)
        ensemble = cls(file.unfitted(cls._member_class, stack, about["estimator"], device), **about["parameters"])
        attributes = {
            **file.attributes_of_shape(stack, about["feature_names"]),
            **file.class_attributes(cls, stack, about["classes"]),
        }
        ensemble.estimators_ = [
            file.fitted(ensemble.estimator, stack, k, about_member, attributes)
            for k, about_member in zip(range(stack.models), about["members"], strict=True)
        ]
        ensemble._copy_data_attributes()
    except file.DAMAGED as error:
        raise file.damaged(path, "ensemble", error) from None
    return ensemble
