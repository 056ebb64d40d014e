"""Warnings and errors where scikit-learn's users look for them, and its checks and callbacks of a search."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
import sklearn
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_estimator

import gpubp
from gpubp import MLPClassifier, MLPEnsembleClassifier, MLPEnsembleRegressor, MLPRegressor, MLPSearchCV, UsageError

try:
    from sklearn.utils import InvalidParameterError
except ImportError:
    from sklearn.utils._param_validation import InvalidParameterError

with_callbacks = pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 9), reason="scikit-learn has callbacks from 1.9 on"
)


@pytest.fixture
def iris():
    return load_iris(return_X_y=True)


def classifier(**parameters):
    return MLPClassifier(
        **{"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0, "device": "cpu", **parameters}
    )


FITS = {
    "adam": lambda X, y: classifier().fit(X, y),
    "a column of targets": lambda X, y: classifier().fit(X, y[:, None]),
    "a column of values": lambda X, y: MLPRegressor(hidden_layer_sizes=(4,), max_iter=3).fit(X, y[:, None]),
    "a column for an ensemble": lambda X, y: MLPEnsembleClassifier(classifier(), n_estimators=2).fit(X, y[:, None]),
    "lbfgs": lambda X, y: classifier(solver="lbfgs").fit(X, y),
    "clipped": lambda X, y: classifier(batch_size=1000).fit(X, y),
    "ensemble": lambda X, y: MLPEnsembleClassifier(classifier(), n_estimators=2).fit(X, y),
    "search": lambda X, y: MLPSearchCV(classifier(), {"alpha": [0.1]}, cv=2).fit(X, y),
    "within scikit-learn's": lambda X, y: GridSearchCV(classifier(), {"alpha": [0.1]}, cv=2).fit(X, y),
}


@pytest.mark.parametrize("fit", FITS)
def test_filters_for_scikit_learns_module_silence_ours(fit, iris):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="sklearn")
        FITS[fit](*iris)


@pytest.mark.parametrize("fit", FITS)
def test_warnings_point_at_the_callers_line(fit, iris):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        FITS[fit](*iris)
    assert said and {warning.filename for warning in said} == {__file__}
    assert ConvergenceWarning in {warning.category for warning in said}


@pytest.mark.parametrize(
    "parameters", [{"activation": "rleu"}, {"activation": ["tanh", "rleu"]}, {"loss": "l3"}, {"learning_rate": "cosin"}]
)
@pytest.mark.parametrize("make", [MLPClassifier, MLPRegressor])
def test_unknown_names_are_invalid_parameters_too(make, parameters, iris):
    X, y = iris
    with pytest.raises(InvalidParameterError) as refused:
        make(**parameters, device="cpu").fit(X, y)
    assert isinstance(refused.value, UsageError) and "unknown" in str(refused.value)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_swish_is_silu(iris):
    weights = [classifier(activation=name).fit(*iris).coefs_[0] for name in ("swish", "silu")]
    np.testing.assert_array_equal(*weights)
    assert gpubp.MLP([2, 3, 2], "swish").activations[0].name == "silu"


# -- ensembles and searches --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_numbers_in_front_are_layer_sizes(iris):
    ensemble = MLPEnsembleClassifier((4,), max_iter=5, n_estimators=2, device="cpu").fit(*iris)
    assert {est.coefs_[0].shape for est in ensemble.estimators_} == {(4, 4)}
    assert {est.n_iter_ for est in ensemble.estimators_} == {5}
    assert sklearn.base.clone(ensemble).estimator.hidden_layer_sizes == (4,)
    assert MLPEnsembleRegressor(8, loss="poisson").estimator.get_params()["loss"] == "poisson"
    assert MLPEnsembleRegressor([8, 4]).estimator.hidden_layer_sizes == [8, 4]
    with pytest.raises(UsageError, match=r"given twice: \(4,\) and \(5,\)"):
        MLPEnsembleClassifier((4,), hidden_layer_sizes=(5,))
    with pytest.raises(InvalidParameterError, match="'estimator' parameter"):
        MLPEnsembleRegressor("poisson").fit(*iris)


@pytest.mark.parametrize("network", [MLPClassifier, MLPRegressor])
def test_check_estimator_of_a_search(network):
    quick = {"hidden_layer_sizes": (8,), "learning_rate_init": 0.1, "max_iter": 12}  # and as good as the checks ask
    search = MLPSearchCV(network(random_state=0, device="cpu", **quick), {"alpha": [1e-4, 1e-3]}, cv=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(search, on_skip=None, on_fail=None)
    assert not [result for result in results if result["status"] not in ("passed", "skipped")]
    assert sum(result["status"] == "passed" for result in results) >= 45


class Seen:
    """A callback that counts what it is told."""

    def __init__(self):
        self.told = Counter()

    def setup(self, estimator, context):
        self.told["setup"] += 1

    def teardown(self, estimator, context):
        self.told["teardown"] += 1

    def on_fit_task_begin(self, estimator, context):
        self.told["begin", context.task_name] += 1

    def on_fit_task_end(self, estimator, context):
        self.told["end", context.task_name] += 1


class SeenBelow(Seen):
    """It goes on to the estimators that are fitted."""

    max_propagation_depth = None


@with_callbacks
@pytest.mark.parametrize("callback", [Seen, SeenBelow])
@pytest.mark.parametrize("of", ["search", "network"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_callbacks_hear_what_they_hear_in_a_grid_search(callback, of, iris):
    heard = []
    for make in (GridSearchCV, MLPSearchCV):
        seen, network = callback(), classifier()
        if of == "network" and callback is Seen:
            network.set_callbacks(seen)
        search = make(network, {"alpha": [0.1, 1.0]}, cv=2)
        if of == "search" or callback is SeenBelow:
            search.set_callbacks(seen)
        search.fit(*iris)
        heard.append(seen.told)
    assert heard[0] == heard[1]
    assert heard[0]["begin", "iteration"] == (0 if (callback, of) == (Seen, "search") else 3 * 5)
