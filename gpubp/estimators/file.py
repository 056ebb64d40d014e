"""An estimator to disk and back: the file of a network, with what scikit-learn's side needs besides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, clone
from sklearn.preprocessing import LabelBinarizer

from gpubp import serialization
from gpubp.errors import DataError, UsageError
from gpubp.estimators.numerics import sklearn_name
from gpubp.network import MLP
from gpubp.serialization import check_metadata, class_values
from gpubp.stack import Stack

COUNTERS = ("n_iter_", "t_")
DAMAGED = (LookupError, TypeError, ValueError, AttributeError, OverflowError)
COUNTED = dict.fromkeys(COUNTERS, int)
CLASSES = {"values": [], "dtype": str, "labels?": bool}
ABOUT = {
    "class": str,
    "parameters": {"precision": (None, str)},
    "counters": COUNTED,
    "feature_names": [str],
    "classes": (None, CLASSES),
}


def save(path: str | Path, est: Any, stack: Stack) -> None:
    """Write a fitted estimator, whose weights `stack` holds."""
    about = {
        "class": _public_class(est),
        "parameters": json_able(est.get_params(deep=False)),
        "counters": json_able({name: getattr(est, name) for name in COUNTERS}),
        "feature_names": getattr(est, "feature_names_in_", np.array([])).tolist(),
        "classes": classes(path, est) if hasattr(est, "classes_") else None,
    }
    serialization.save(path, stack.tensors(), {**stack.describe(), "preprocessing": None, "estimator": about})


def load(path: str | Path, cls: Any, device: str, records: dict[str, Any]) -> Any:
    """The estimator of class `cls` that `save` wrote.

    Raises
    ------
    DataError
        If there is no such file, it holds something else, or it is damaged.
    """
    about = serialization.load(path)[1].get("estimator")
    if not isinstance(about, dict):
        raise DataError(f"{path}: holds no single estimator; networks that MLP.save wrote are loaded with MLP.load")
    if about.get("class") not in [base.__name__ for base in cls.__mro__]:
        raise DataError(f"{path}: holds an {about.get('class')}; load it with {about.get('class')}.load")
    stack = MLP.load(path, device, **records).stack
    try:
        check_metadata("estimator", about, ABOUT)
        attributes = {
            **attributes_of_shape(stack, about["feature_names"]),
            **class_attributes(cls, stack, about["classes"]),
        }
        est = unfitted(cls, stack, about["parameters"], device)
        return fitted(est, stack, 0, {"random_state": est.random_state, **about["counters"]}, attributes)
    except DAMAGED as error:
        raise damaged(path, "estimator", error) from None


def damaged(path: str | Path, kind: str, error: Exception) -> DataError:
    """The error for a file from which no `kind` could be made."""
    reason = error if isinstance(error, DataError) else repr(error)
    return DataError(f"{path}: its {kind} is damaged or from another version ({reason})")


def _public_class(est: Any) -> str:
    """The name of the gpubp class of an estimator."""
    return next(base.__name__ for base in type(est).__mro__ if base.__module__.startswith("gpubp."))


def json_able(values: dict[str, Any]) -> dict[str, Any]:
    """The values that JSON represents unchanged."""
    of_python = {
        name: value.tolist() if isinstance(value, np.ndarray | np.generic) else value for name, value in values.items()
    }
    return {name: value for name, value in of_python.items() if _is_json_able(value)}


def _is_json_able(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_json_able, value))
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and bool(np.isfinite(value)))


def classes(path: str | Path, first: Any) -> dict[str, Any]:
    """The classes of a classifier, JSON-serializable."""
    values, dtype = first._host_classes.tolist(), first._host_classes.dtype
    if dtype.kind not in "biufUO" or not _is_json_able(values):
        raise UsageError(f"{path}: classes of type {dtype} ({values[0]!r}, …) cannot be saved; use text or numbers")
    return {"values": values, "dtype": dtype.str, "labels": first._target_type == "multilabel-indicator"}


def unfitted(cls: Any, stack: Stack, parameters: dict[str, Any], device: str) -> Any:
    """An estimator in its unfitted state; records, which files do not hold, are those of the network."""
    records = {"activation": list(stack.activations), "loss": stack.loss}
    saved = {name: tuple(value) if isinstance(value, list) else value for name, value in parameters.items()}
    precision = None if parameters["precision"] is None else stack.backend.precision
    of_network = {"hidden_layer_sizes": stack.layer_sizes[1:-1], "device": device, "precision": precision}
    return cls(**{**records, **saved, **of_network})


def attributes_of_shape(stack: Stack, feature_names: list[str]) -> dict[str, Any]:
    """What every member knows about inputs, layers and outputs."""
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


def class_attributes(cls: Any, stack: Stack, classes: dict[str, Any] | None) -> dict[str, Any]:
    """What every member of a classifier knows about its classes; empty for other estimators."""
    if (classes is not None) != issubclass(cls, ClassifierMixin):
        raise ValueError(f"{cls.__name__} with classes {classes}")
    if classes is None:
        return {}
    values = class_values("classes", classes["values"], classes["dtype"])
    outputs = stack.layer_sizes[-1]
    if outputs != len(values) and not (outputs == 1 and len(values) <= 2):
        raise ValueError(f"{len(values)} classes for {outputs} outputs")
    binarizer = LabelBinarizer().fit(np.eye(outputs, dtype=np.int64) if classes["labels"] else values)
    return {"classes_": values, "_label_binarizer": binarizer}


def fitted(estimator: Any, stack: Stack, k: int, about: dict[str, Any], attributes: dict[str, Any]) -> Any:
    """Member k with its weights, what the file says about it, and the fitted attributes that all members have."""
    member = clone(estimator).set_params(random_state=about.get("random_state"))
    weights, biases = stack.parameters_of(k)
    member.coefs_ = [stack.backend.to_host(W) for W in weights]
    member.intercepts_ = [stack.backend.to_host(b) for b in biases]
    for name, value in {**attributes, **{name: about[name] for name in COUNTERS}}.items():
        setattr(member, name, value)
    return member
