"""Fits in a row, other dtypes, sparse labels, other libraries' arrays: what comes of them is scikit-learn's."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import sklearn
from scipy import sparse
from sklearn import neural_network
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from test_estimators_parity import HUNDRED_STEPS, SOLVERS, assert_same, data, pair_for

import gpubp
from support.package import PACKAGE

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("task", ["classes", "value"])
def test_a_warm_start_begins_with_new_moments(task, solver, rng):
    X, y = data(task, rng)
    ours, theirs = pair_for(task, **{**HUNDRED_STEPS, "max_iter": 6, "warm_start": True, **SOLVERS[solver]})
    for _ in range(3):
        assert_same(ours.fit(X, y), theirs.fit(X, y))
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-12)


def test_early_stopping_over_warm_starts(rng):
    X, y = data("classes", rng)
    parameters = {"early_stopping": True, "n_iter_no_change": 3, "tol": 1e-3, "max_iter": 30, "random_state": 0}
    ours, theirs = pair_for("classes", warm_start=True, **parameters)
    for _ in range(3):
        assert_same(ours.fit(X, y), theirs.fit(X, y))
    assert ours.validation_scores_ == pytest.approx(theirs.validation_scores_)


@pytest.mark.parametrize(
    "changed", [{"solver": "sgd"}, {"momentum": 0.1}, {"learning_rate_init": 0.05}, {"beta_1": 0.1}, {"alpha": 1.0}]
)
@pytest.mark.parametrize("before", ["fit", "partial_fit"])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_fit_goes_on_with_the_solver_that_there_is(solver, before, changed, rng):
    """Whatever its parameters have become, until the next fit."""
    X, y = data("classes", rng)
    ours, theirs = pair_for("classes", solver=solver, max_iter=4, random_state=0)
    for est in (ours, theirs):
        est.fit(X, y) if before == "fit" else est.partial_fit(X, y, classes=np.unique(y))
        est.set_params(**changed).partial_fit(X, y).partial_fit(X, y)
    assert_same(ours, theirs)
    assert_same(ours.fit(X, y), theirs.fit(X, y))


def test_early_stopping_may_be_switched_on_and_off(rng):
    X, y = data("classes", rng)
    clf = gpubp.MLPClassifier((8,), max_iter=4, random_state=0, warm_start=True, device="cpu").fit(X, y)
    assert clf.validation_scores_ is None and clf.best_loss_ == min(clf.loss_curve_)
    clf.set_params(early_stopping=True).fit(X, y)
    assert len(clf.validation_scores_) == 4 and clf.best_validation_score_ == max(clf.validation_scores_)
    assert clf.best_loss_ is None and len(clf.loss_curve_) == 8
    clf.set_params(early_stopping=False).partial_fit(X, y)
    assert clf.validation_scores_ is None and clf.best_validation_score_ is None
    assert clf.best_loss_ == clf.loss_curve_[-1]


@pytest.mark.parametrize("task", ["binary", "classes", "labels", "value"])
def test_float64_is_predicted_in_float64_whatever_was_fitted(machine, task, rng):
    X, y = data(task, rng)
    ours, theirs = pair_for(task, max_iter=4, random_state=0)
    ours.fit(X.astype(np.float32), y)
    theirs.fit(X.astype(np.float32), y)
    theirs.coefs_, theirs.intercepts_ = ([np.array(a) for a in arrays] for arrays in (ours.coefs_, ours.intercepts_))
    method = "predict" if task == "value" else "predict_proba"
    for rows in (X, (8 * X).astype(np.int64), (8 * X).astype(np.int8), sparse.csr_array(X), X.astype(np.float32)):
        predicted, expected = getattr(ours, method)(rows), getattr(theirs, method)(rows)
        assert predicted.dtype == expected.dtype
        tolerance = 1e-12 if expected.dtype == np.float64 else 1e-4
        np.testing.assert_allclose(predicted, expected, rtol=tolerance, atol=1e-12 if tolerance < 1e-6 else 1e-6)
    before = getattr(ours, method)(X)
    ours.coefs_[0][...] *= 2
    assert not np.allclose(getattr(ours, method)(X), before)
    ours.set_params(precision="float32")
    assert getattr(ours, method)(X).dtype == np.float32  # a precision that was named is the precision


def test_an_ensemble_predicts_float64_in_float64(rng):
    X, y = data("classes", rng)
    ensemble = gpubp.MLPEnsembleClassifier((8,), max_iter=3, n_estimators=3, random_state=0, device="cpu")
    ensemble.fit(X.astype(np.float32), y)
    mean = np.mean([est.predict_proba(X) for est in ensemble.estimators_], axis=0)
    assert ensemble.predict_proba(X).dtype == np.float64
    np.testing.assert_allclose(ensemble.predict_proba(X), mean, rtol=1e-12)
    assert ensemble.predict_proba(X.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix, np.asarray])
def test_sparse_labels_are_predicted_sparse(form, rng):
    X, y = data("labels", rng)
    ours, theirs = (est.fit(X, form(y)).predict(X) for est in pair_for("labels", max_iter=5, random_state=0))
    assert type(ours) is type(theirs) and ours.dtype == theirs.dtype
    assert abs(ours - theirs).max() == 0
    ensemble = gpubp.MLPEnsembleClassifier((8,), max_iter=3, n_estimators=2, random_state=0, device="cpu")
    assert sparse.issparse(ensemble.fit(X, form(y)).predict(X)) == sparse.issparse(ours)
    assert 0 <= ensemble.score(X, form(y)) <= 1


CROSS_VALIDATION = """
import traceback, warnings
import numpy as np, sklearn, gpubp
import {library} as xp
from gpubp.estimators.arrays import as_numpy
from sklearn.datasets import load_iris
from sklearn.model_selection import cross_val_predict, cross_val_score

warnings.simplefilter("ignore")
X, y = load_iris(return_X_y=True)
X_there, y_there = (xp.asarray(array, {where}) for array in (X, y))
METHODS = ("predict", "predict_proba", "predict_log_proba")


def classifiers(device):
    options = dict(max_iter=5, device=device, random_state=0)
    network = gpubp.MLPClassifier((4,), **options)
    yield network
    yield gpubp.MLPEnsembleClassifier((4,), n_estimators=2, **options)
    yield gpubp.MLPSearchCV(network, {{"alpha": [1e-4, 1.0]}}, cv=2)


def predictions(est, on_host, method):
    expected = cross_val_predict(on_host, X, y, cv=3, method=method)
    with sklearn.config_context(array_api_dispatch=True):
        values = cross_val_predict(est, X_there, y_there, cv=3, method=method)
    assert type(values) is type(X_there) and values.device == X_there.device, (type(values), values.device)
    np.testing.assert_allclose(as_numpy(values), expected, 1e-5, 1e-8)


def scores(est, on_host, scoring):
    with sklearn.config_context(array_api_dispatch=True):
        found = cross_val_score(est, X_there, y_there, cv=3, scoring=scoring)
    np.testing.assert_allclose(found, cross_val_score(on_host, X, y, cv=3, scoring=scoring), 1e-5, 1e-8)


def classes(est, on_host, library):
    with sklearn.config_context(array_api_dispatch=True):
        assert type(est.fit(X_there, y_there).classes_) is type(y_there)
    assert type(est.fit(X, y).classes_) is np.ndarray


CHECKS = [(predictions, method) for method in METHODS] + [(scores, "neg_log_loss"), (classes, "of the library")]
for est, on_host in zip(classifiers("{device}"), classifiers("cpu"), strict=True):
    for check, what in CHECKS:
        try:
            check(est, on_host, what)
            print(type(est).__name__, check.__name__, what, "alike")
        except Exception:
            print(type(est).__name__, check.__name__, what, "DIFFERENT")
            traceback.print_exc()
"""
LIBRARIES = [
    pytest.param("array_api_strict", "", "cpu", id="array_api_strict"),
    # NumPy cannot read arrays of this device by itself, nor can it those of a GPU.
    pytest.param(*("array_api_strict", 'device=xp.Device("device1")', "cpu"), id="device1", marks=pytest.mark.thorough),
    pytest.param("torch", "", "cpu", id="torch"),
    pytest.param("cupy", "", "cuda", id="cupy", marks=[pytest.mark.gpu, pytest.mark.backends]),
    pytest.param("torch", 'device="cuda"', "cuda", id="torch-cuda", marks=[pytest.mark.gpu, pytest.mark.backends]),
]


@pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 9), reason="scikit-learn's helpers are those of 1.9"
)
@pytest.mark.parametrize("library, where, device", LIBRARIES)
def test_cross_validation_of_other_libraries_arrays(library, where, device):
    """In a process of its own: SciPy looks at SCIPY_ARRAY_API when it is imported."""
    pytest.importorskip(library, reason=f"{library} is not installed")
    path = [str(PACKAGE.parent), *filter(None, sys.path)]
    environment = {**os.environ, "SCIPY_ARRAY_API": "1", "PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, "-c", CROSS_VALIDATION.format(library=library, where=where, device=device)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    lines = done.stdout.splitlines()
    assert len(lines) == 15 and all(line.endswith(" alike") for line in lines), done.stdout + done.stderr


@pytest.mark.parametrize("rate", [1e10, 1e30])
@pytest.mark.parametrize("own_validation", [False, True])
def test_a_divergence_under_early_stopping_keeps_what_was_best(rate, own_validation):
    """The first weights, where no epoch was better: as scikit-learn's, which trains on with NaN."""
    X, y = load_diabetes(return_X_y=True)
    y = y * 1e3
    parameters = {"hidden_layer_sizes": (50, 50), "solver": "sgd", "learning_rate_init": rate, "early_stopping": True}
    ours = gpubp.MLPRegressor(**parameters, max_iter=5, random_state=0, device="cpu")
    validation = {"validation_data": (X[:40], y[:40])} if own_validation else {}
    with np.errstate(all="ignore"), pytest.warns(ConvergenceWarning, match="first weights, which no epoch made better"):
        ours.fit(X, y, **validation)
    theirs = neural_network.MLPRegressor(**parameters, max_iter=1, random_state=0)
    with np.errstate(all="ignore"):
        theirs.fit(X, y)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-12)
    if own_validation:
        assert ours.best_validation_score_ == pytest.approx(ours.score(X[:40], y[:40]))


def test_a_member_that_diverges_in_a_stack_keeps_its_first_weights():
    X, y = load_diabetes(return_X_y=True)
    rates = [1e-3, 1e30, 1e-3]
    base = gpubp.MLPRegressor(hidden_layer_sizes=(8,), solver="sgd", max_iter=3, early_stopping=True, device="cpu")
    grid = {"learning_rate_init": rates[:2], "random_state": [0]}
    with np.errstate(all="ignore"):
        search = gpubp.MLPSearchCV(base, grid, cv=2, refit=False).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all() and scores[1] > -100


class TensorOnADevice:
    """As PyTorch's, which NumPy takes on the host and without a gradient only."""

    def __init__(self, values, on_host=False, with_gradient=True):
        self.values, self.on_host, self.with_gradient = values, on_host, with_gradient

    def detach(self):
        return TensorOnADevice(self.values, self.on_host, False)

    def cpu(self):
        return TensorOnADevice(self.values, True, self.with_gradient)

    def __array__(self, dtype=None, copy=None):
        if not self.on_host or self.with_gradient:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return np.array(self.values)


def test_tensors_of_a_device_come_to_the_host():
    from gpubp.estimators.arrays import as_numpy

    np.testing.assert_array_equal(as_numpy(TensorOnADevice([1.5, 2.5])), [1.5, 2.5])
