"""Loads a model file as the kind of object that was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpubp import serialization
from gpubp.errors import DataError, UsageError
from gpubp.tabular.model import TabularModel
from gpubp.tabular.predictor import load_network


def load(path: str | Path, device: str = "auto") -> Any:
    """The network, estimator or ensemble in a model file.

    Raises
    ------
    DataError
        If there is no such file, or it holds something else.
    """
    saved = serialization.load(path)[1]
    if TabularModel.is_in(path):
        raise UsageError(
            f"{path}: holds the networks of a preset, and one network is exported; train one with --preset fast"
        )
    about = saved.get("estimator", saved.get("ensemble"))
    if about is None:
        return load_network(path, device)
    from gpubp.estimators import MLPClassifier, MLPRegressor
    from gpubp.estimators.ensemble import MLPEnsembleClassifier, MLPEnsembleRegressor

    kinds: dict[str, Any] = {
        kind.__name__: kind for kind in (MLPClassifier, MLPRegressor, MLPEnsembleClassifier, MLPEnsembleRegressor)
    }
    name = about.get("class") if isinstance(about, dict) else None
    if name not in kinds:
        raise DataError(f"{path}: holds an estimator of class {name}, which gpubp does not have")
    return kinds[name].load(path, device)
