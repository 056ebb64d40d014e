"""Multilayer perceptrons trained by backpropagation written out by hand."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> module; resolved on first use, so that importing gpubp costs nothing beyond NumPy
_PUBLIC = {
    "MLP": "network",
    "Gradients": "layout",
    "Trace": "trace",
    "MLPClassifier": "estimators",
    "MLPRegressor": "estimators",
    "MLPSearchCV": "estimators.search",
    "MLPEnsembleClassifier": "estimators.ensemble",
    "MLPEnsembleRegressor": "estimators.ensemble",
    "TabularClassifier": "tabular.estimators",
    "TabularRegressor": "tabular.estimators",
    "TableEncoder": "tabular.encoder",
    "from_sklearn": "estimators",
    "from_state_dict": "interchange",
    "register_with_skl2onnx": "interchange",
    "to_onnx": "interchange",
    "to_sklearn": "estimators",
    "load": "tabular.predictor",
    "to_state_dict": "interchange",
    "train": "training",
    "History": "training.history",
    "check_gradients": "diagnostics",
    "Activation": "activations",
    "Loss": "losses",
    "Optimizer": "optimizers",
    "Initializer": "initializers",
    "Schedule": "schedules",
    "GpubpError": "errors",
    "UsageError": "errors",
    "DataError": "errors",
    "DeviceError": "errors",
    "DivergenceError": "errors",
    "CheckpointError": "errors",
    "RankError": "errors",
    "TrainingInterrupted": "errors",
}

_MODULES = ("activations", "initializers", "losses", "optimizers", "plots", "schedules")  # modules, as attributes too

__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:
    from gpubp import activations as activations
    from gpubp import initializers as initializers
    from gpubp import losses as losses
    from gpubp import optimizers as optimizers
    from gpubp import plots as plots
    from gpubp import schedules as schedules
    from gpubp.activations import Activation as Activation
    from gpubp.diagnostics import check_gradients as check_gradients
    from gpubp.errors import CheckpointError as CheckpointError
    from gpubp.errors import DataError as DataError
    from gpubp.errors import DeviceError as DeviceError
    from gpubp.errors import DivergenceError as DivergenceError
    from gpubp.errors import GpubpError as GpubpError
    from gpubp.errors import RankError as RankError
    from gpubp.errors import TrainingInterrupted as TrainingInterrupted
    from gpubp.errors import UsageError as UsageError
    from gpubp.estimators import MLPClassifier as MLPClassifier
    from gpubp.estimators import MLPRegressor as MLPRegressor
    from gpubp.estimators import from_sklearn as from_sklearn
    from gpubp.estimators import to_sklearn as to_sklearn
    from gpubp.estimators.ensemble.ensembles import MLPEnsembleClassifier as MLPEnsembleClassifier
    from gpubp.estimators.ensemble.ensembles import MLPEnsembleRegressor as MLPEnsembleRegressor
    from gpubp.estimators.search.search_cv import MLPSearchCV as MLPSearchCV
    from gpubp.initializers import Initializer as Initializer
    from gpubp.interchange import from_state_dict as from_state_dict
    from gpubp.interchange import register_with_skl2onnx as register_with_skl2onnx
    from gpubp.interchange import to_onnx as to_onnx
    from gpubp.interchange import to_state_dict as to_state_dict
    from gpubp.layout import Gradients as Gradients
    from gpubp.losses import Loss as Loss
    from gpubp.network import MLP as MLP
    from gpubp.optimizers import Optimizer as Optimizer
    from gpubp.schedules import Schedule as Schedule
    from gpubp.tabular.encoder import TableEncoder as TableEncoder
    from gpubp.tabular.estimators import TabularClassifier as TabularClassifier
    from gpubp.tabular.estimators import TabularRegressor as TabularRegressor
    from gpubp.tabular.predictor import load as load
    from gpubp.trace import Trace as Trace
    from gpubp.training import train as train
    from gpubp.training.history import History as History


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"gpubp.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'gpubp' has no attribute {name!r}")
    value = getattr(import_module(f"gpubp.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
