"""An ensemble to disk and back: the file of a stack of networks, with what scikit-learn's side needs beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.preprocessing import LabelBinarizer

from gpubp import serialization
from gpubp.errors import DataError, UsageError
from gpubp.estimators.numerics import sklearn_name
from gpubp.network import MLP
from gpubp.stack import Stack

_COUNTERS = ("n_iter_", "t_")


def save(path: str | Path, ensemble: Any, stack: Stack) -> None:
    """Write a fitted ensemble, whose members' weights `stack` holds."""
    first = ensemble.estimators_[0]
    about = {
        "class": type(ensemble).__name__,
        "parameters": _json_able({**ensemble.get_params(deep=False), "estimator": first}),
        "estimator": _json_able({**first.get_params(deep=False), "random_state": None}),
        "members": [
            _json_able({name: getattr(est, name) for name in ("random_state", *_COUNTERS)})
            for est in ensemble.estimators_
        ],
        "feature_names": getattr(ensemble, "feature_names_in_", np.array([])).tolist(),
        "classes": _classes(path, first) if hasattr(first, "classes_") else None,
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
        ensemble = cls(_unfitted_member(cls, stack, about["estimator"], device), **about["parameters"])
        attributes = {
            **_attributes_of_shape(stack, about["feature_names"]),
            **_class_attributes(stack, about["classes"]),
        }
        ensemble.estimators_ = [
            _fitted_member(ensemble.estimator, stack, k, about_member, attributes)
            for k, about_member in zip(range(stack.models), about["members"], strict=True)
        ]
        ensemble._copy_data_attributes()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: its ensemble is damaged or from another version ({error!r})") from None
    return ensemble


def _json_able(values: dict[str, Any]) -> dict[str, Any]:
    """The values that JSON holds as they are."""
    of_python = {
        name: value.tolist() if isinstance(value, np.ndarray | np.generic) else value for name, value in values.items()
    }
    return {name: value for name, value in of_python.items() if _is_json_able(value)}


def _is_json_able(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_json_able, value))
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and bool(np.isfinite(value)))


def _classes(path: str | Path, first: Any) -> dict[str, Any]:
    values, dtype = first._host_classes.tolist(), first._host_classes.dtype
    if dtype.kind not in "biufUO" or not _is_json_able(values):
        raise UsageError(f"{path}: classes of type {dtype} ({values[0]!r}, …) cannot be saved; use text or numbers")
    return {"values": values, "dtype": dtype.str, "labels": first._target_type == "multilabel-indicator"}


def _unfitted_member(cls: Any, stack: Stack, parameters: dict[str, Any], device: str) -> Any:
    """A member as it was before it was fitted; records, which no file holds, are those of the network."""
    records = {"activation": list(stack.activations), "loss": stack.loss}
    saved = {name: tuple(value) if isinstance(value, list) else value for name, value in parameters.items()}
    precision = None if parameters["precision"] is None else stack.backend.precision
    of_network = {"hidden_layer_sizes": stack.layer_sizes[1:-1], "device": device, "precision": precision}
    return cls._member_class(**{**records, **saved, **of_network})


def _attributes_of_shape(stack: Stack, feature_names: list[str]) -> dict[str, Any]:
    """What every member knows of inputs, layers and outputs."""
    n_features, n_outputs = stack.layer_sizes[0], stack.layer_sizes[-1]
    if len(feature_names) not in (0, n_features):
        raise ValueError(f"{len(feature_names)} feature names for {n_features} inputs")
    return {
        "n_features_in_": n_features,
        "n_outputs_": n_outputs,
        "n_layers_": len(stack.layer_sizes),
        "out_activation_": sklearn_name(stack.output_activation.name),
        **({"feature_names_in_": np.array(feature_names, object)} if feature_names else {}),
    }


def _class_attributes(stack: Stack, classes: dict[str, Any] | None) -> dict[str, Any]:
    """What every member of a classifier knows of its classes."""
    if classes is None:
        return {}
    values: NDArray[Any] = np.array(classes["values"], np.dtype(classes["dtype"]))
    outputs = stack.layer_sizes[-1]
    if outputs != len(values) and not (outputs == 1 and len(values) <= 2):
        raise ValueError(f"{len(values)} classes for {outputs} outputs")
    binarizer = LabelBinarizer().fit(np.eye(outputs, dtype=np.int64) if classes["labels"] else values)
    return {"classes_": values, "_label_binarizer": binarizer}


def _fitted_member(estimator: Any, stack: Stack, k: int, about: dict[str, Any], fitted: dict[str, Any]) -> Any:
    """Member k with its weights, what the file says about it, and the fitted attributes that all members have."""
    member = clone(estimator).set_params(random_state=about.get("random_state"))
    weights, biases = stack.parameters_of(k)
    member.coefs_ = [stack.backend.to_host(W) for W in weights]
    member.intercepts_ = [stack.backend.to_host(b) for b in biases]
    for name, value in {**fitted, **{name: about[name] for name in _COUNTERS}}.items():
        setattr(member, name, value)
    return member
