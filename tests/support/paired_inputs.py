"""Cases of `support.paired`: kinds of inputs and targets, copies and warm starts, and what is refused."""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
from scipy import sparse
from sklearn import neural_network
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from support.paired import (
    BINARY,
    CLASSES,
    COLUMNS,
    FRAME,
    HALF,
    LABELS,
    VALUES,
    WEIGHT,
    Case,
    Side,
    X,
    predictions,
)

# -- inputs -------------------------------------------------------------------------------------------------


def read_only(array: Any) -> Any:
    array = np.array(array)
    array.flags.writeable = False
    return array


def mapped(array: Any) -> Any:
    """An array that lies in a file, opened for reading."""
    path = f"{tempfile.mkdtemp()}/array"
    joblib.dump(np.asarray(array), path)
    return joblib.load(path, mmap_mode="r")


FORMS: dict[str, Callable[[Any], Any]] = {
    "list": lambda X: X.tolist(),
    "tuple": lambda X: tuple(map(tuple, X)),
    "DataFrame": lambda X: pd.DataFrame(X, columns=COLUMNS),
    "DataFrame with numbered columns": lambda X: pd.DataFrame(X),
    "DataFrame of nullable numbers": lambda X: pd.DataFrame(X, columns=COLUMNS).convert_dtypes(),
    "DataFrame of mixed types": lambda X: pd.DataFrame(X, columns=COLUMNS).astype({"a": "float32", "b": "int8"}),
    "DataFrame with an index": lambda X: pd.DataFrame(X, columns=COLUMNS, index=np.arange(len(X))[::-1]),
    "polars": lambda X: pl.DataFrame(X, schema=COLUMNS),
    "csr_matrix": sparse.csr_matrix,
    "csc_matrix": sparse.csc_matrix,
    "coo_matrix": sparse.coo_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "lil_matrix": sparse.lil_matrix,
    "dok_matrix": sparse.dok_matrix,
    "csr of float32": lambda X: sparse.csr_matrix(X.astype(np.float32)),
    "csr of integers": lambda X: sparse.csr_matrix((8 * X).astype(int)),
    "Fortran order": np.asfortranarray,
    "every other column": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    "rows backwards": lambda X: X[::-1].copy()[::-1],
    "float16": lambda X: X.astype(np.float16),
    "float32": lambda X: X.astype(np.float32),
    "long double": lambda X: X.astype(np.longdouble),
    "big-endian": lambda X: X.astype(">f8"),
    "int8": lambda X: (8 * X).astype(np.int8),
    "int64": lambda X: (8 * X).astype(np.int64),
    "uint8": lambda X: (8 * X + 30).astype(np.uint8),
    "bool": lambda X: X > 0,
    "objects": lambda X: X.astype(object),
    "numbers as texts": lambda X: X.round(3).astype(str).astype(object),
    "read-only": read_only,
    "memory map": mapped,
    "subclass of ndarray": lambda X: np.ma.masked_array(X).view(np.matrix).view(type("Rows", (np.ndarray,), {})),
    "one column": lambda X: X[:, :1],
}
CLASS_TARGETS: dict[str, Callable[[Any], Any]] = {
    "list": lambda y: y.tolist(),
    "Series": pd.Series,
    "categorical": lambda y: pd.Series(pd.Categorical(y)),
    "polars": lambda y: pl.Series(y),
    "objects": lambda y: y.astype(object),
    "column": lambda y: y.reshape(-1, 1),
    "negative numbers": lambda y: np.unique(y, return_inverse=True)[1] - 5,
    "floats": lambda y: np.unique(y, return_inverse=True)[1].astype(float),
    "int8": lambda y: np.unique(y, return_inverse=True)[1].astype(np.int8),
    "truth values": lambda y: y == "setosa",
    "two texts": lambda y: np.where(y == "setosa", "yes", "no"),
    "labels": lambda y: LABELS,
    "labels as truth values": lambda y: LABELS.astype(bool),
    "sparse labels": lambda y: sparse.csr_matrix(LABELS),
    "one-hot rows": lambda y: np.eye(3, dtype=int)[np.unique(y, return_inverse=True)[1]],
    "read-only": read_only,
}
VALUE_TARGETS: dict[str, Callable[[Any], Any]] = {
    "list": lambda y: y.tolist(),
    "Series": pd.Series,
    "DataFrame": lambda y: pd.DataFrame({"p": y, "q": y**2}),
    "column": lambda y: y.reshape(-1, 1),
    "integers": lambda y: (5 * y).astype(int),
    "float32": lambda y: y.astype(np.float32),
    "truth values": lambda y: y > 0,
    "objects": lambda y: y.astype(object),
    "three columns": lambda y: np.column_stack([y, y**2, np.cos(y)]),
    "polars": lambda y: pl.Series(y),
}


def fitted_on(est: Any, X: Any, y: Any) -> Any:
    est.fit(X, y)
    learnt = [est.n_features_in_, getattr(est, "feature_names_in_", None), est.n_outputs_, est.loss_, est.coefs_]
    return predictions(est, X), est.score(X, y), learnt


INPUTS: dict[str, Case] = {
    **{
        f"X, {name}, classes": lambda side, form=form: fitted_on(side.classifier(), form(X), CLASSES)
        for name, form in FORMS.items()
    },
    **{
        f"X, {name}, values": lambda side, form=form: fitted_on(side.regressor(), form(X), VALUES)
        for name, form in FORMS.items()
    },
    **{
        f"y, {name}": lambda side, form=form: fitted_on(side.classifier(), X, form(CLASSES))
        for name, form in CLASS_TARGETS.items()
    },
    **{
        f"values, {name}": lambda side, form=form: fitted_on(side.regressor(), X, form(VALUES))
        for name, form in VALUE_TARGETS.items()
    },
    **{
        f"weights, {name}": lambda side, form=form: predictions(side.classifier().fit(X, CLASSES, form(WEIGHT)))
        for name, form in {
            "list": list,
            "Series": pd.Series,
            "integers": lambda w: np.ceil(w).astype(int),
            "zeros": lambda w: w * HALF,
        }.items()
    },
}

# -- copies and parameters ------------------------------------------------------------------------------------


def through_a_file(est: Any) -> Any:
    path = f"{tempfile.mkdtemp()}/estimator"
    joblib.dump(est, path)
    return joblib.load(path)


def passed_through(copied: Callable[[Any], Any]) -> Case:
    """A fitted estimator that is copied, and both trained on."""

    def case(side: Side) -> Any:
        est = side.classifier(solver="sgd", early_stopping=False).fit(FRAME, CLASSES)
        other = copied(est)
        results = [predictions(e.partial_fit(FRAME, CLASSES), FRAME) for e in (est, other)]
        return results, list(other.feature_names_in_), other.n_iter_, other.t_

    return case


def assigned(side: Side) -> Any:
    est = side.regressor().fit(X, VALUES)
    est.coefs_ = [2 * W for W in est.coefs_]
    return predictions(est), predictions(est.partial_fit(X, VALUES))


def warm_started(changed: Mapping[str, Any]) -> Case:
    def case(side: Side) -> Any:
        est = side.classifier(warm_start=True, max_iter=3).fit(X, CLASSES)
        est.set_params(**changed).fit(X, CLASSES)
        return predictions(est), est.loss_curve_, est.n_iter_, est.t_

    return case


COPIES: dict[str, Case] = {
    **{
        f"copied by {name}": passed_through(copied)
        for name, copied in {
            "pickle": lambda est: pickle.loads(pickle.dumps(est)),
            "the oldest pickle": lambda est: pickle.loads(pickle.dumps(est, protocol=2)),
            "deepcopy": copy.deepcopy,
            "joblib": through_a_file,
        }.items()
    },
    "cloned": lambda side: [
        hasattr(clone(side.classifier(alpha=0.3).fit(X, CLASSES)), "coefs_"),
        clone(side.classifier(alpha=0.3)).get_params()["alpha"],
    ],
    "parameters": lambda side: {
        name: value
        for name, value in side.classifier(alpha=0.3).get_params().items()
        if name in neural_network.MLPClassifier().get_params()
    },
    "parameters of a regressor": lambda side: sorted(
        side.regressor().get_params().keys() & neural_network.MLPRegressor().get_params().keys()
    ),
    "set in a pipeline": lambda side: predictions(
        make_pipeline(StandardScaler(), side.classifier()).set_params(mlpclassifier__alpha=2.0).fit(X, CLASSES)
    ),
    "kinds": lambda side: [
        is_classifier(side.classifier()),
        is_regressor(side.classifier()),
        is_regressor(side.regressor()),
    ],
    "classes": lambda side: side.classifier().fit(X, CLASSES).classes_,
    **{
        f"warm start, then {changed}": warm_started(changed)
        for changed in (
            {},
            {"solver": "sgd"},
            {"alpha": 1.0},
            {"learning_rate_init": 0.01},
            {"batch_size": 30},
            {"shuffle": False},
            {"max_iter": 2},
            {"warm_start": False},
            {"random_state": 3},
        )
    },
    "partial fits": lambda side: predictions(
        side.classifier().partial_fit(X[HALF], CLASSES[HALF], classes=np.unique(CLASSES)).partial_fit(X, CLASSES)
    ),
    "partial fits of values": lambda side: predictions(
        side.regressor().partial_fit(X[HALF], VALUES[HALF]).partial_fit(X, VALUES)
    ),
    "weights that are assigned": assigned,
}


# -- what is refused --------------------------------------------------------------------------------------------

REFUSALS: dict[str, Case] = {
    "not fitted": lambda side: side.classifier().predict(X),
    "another number of columns": lambda side: side.classifier().fit(X, CLASSES).predict(X[:, :2]),
    "other names of columns": lambda side: (
        side.classifier().fit(FRAME, CLASSES).predict(FRAME.rename(columns={"a": "z"}))
    ),
    "NaN in X": lambda side: side.classifier().fit(np.where(X > 2, np.nan, X), CLASSES),
    "infinite X": lambda side: side.regressor().fit(np.where(X > 2, np.inf, X), VALUES),
    "NaN in y": lambda side: side.regressor().fit(X, np.where(VALUES > 1, np.nan, VALUES)),
    "values as classes": lambda side: side.classifier().fit(X, VALUES),
    "texts as values": lambda side: side.regressor().fit(X, CLASSES),
    "rows of X and y": lambda side: side.classifier().fit(X, CLASSES[:-1]),
    "rows of weights": lambda side: side.classifier().fit(X, CLASSES, WEIGHT[:-1]),
    "one dimension": lambda side: side.classifier().fit(X[:, 0], CLASSES),
    "three dimensions": lambda side: side.classifier().fit(X.reshape(-1, 2, 2), CLASSES),
    "no rows": lambda side: side.classifier().fit(X[:0], CLASSES[:0]),
    "complex numbers": lambda side: side.classifier().fit(X + 1j, CLASSES),
    "texts in X": lambda side: side.classifier().fit(np.array([["a", "b"]] * 6), CLASSES[:6]),
    "no y": lambda side: side.classifier().fit(X, None),
    "several classes a row": lambda side: side.classifier().fit(X, np.column_stack([CLASSES, CLASSES])),
    "an unknown class": lambda side: side.classifier().fit(X, BINARY).partial_fit(X, BINARY + 1),
    "no classes in a first partial fit": lambda side: side.classifier().partial_fit(X, CLASSES),
    "other classes in a later one": lambda side: (
        side.classifier().partial_fit(X, BINARY, classes=[0, 1]).partial_fit(X, BINARY, classes=[0, 1, 2])
    ),
    "partial fit by L-BFGS": lambda side: side.classifier(solver="lbfgs").partial_fit,
    "partial fit with early stopping": lambda side: side.classifier(early_stopping=True).partial_fit(
        X, BINARY, classes=[0, 1]
    ),
    "too few rows for early stopping": lambda side: side.classifier(early_stopping=True).fit(X[:9], BINARY[:9]),
    "no layer": lambda side: side.classifier(hidden_layer_sizes=(0,)).fit(X, CLASSES),
    **{
        f"{name}={value!r}": lambda side, changed={name: value}: side.classifier(**changed).fit(X, CLASSES)
        for name, value in {
            "alpha": -1,
            "learning_rate_init": 0,
            "max_iter": 0,
            "momentum": 2,
            "shuffle": "yes",
            "tol": -1.0,
            "validation_fraction": 1.5,
            "beta_1": 1.0,
            "epsilon": -1e-8,
            "n_iter_no_change": -1,
            "power_t": "a",
        }.items()
    },
    "unknown parameter": lambda side: side.classifier().set_params(alhpa=1.0),
}
