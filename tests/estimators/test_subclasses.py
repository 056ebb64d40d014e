"""What subclasses override counts, in searches and ensembles too; and first weights of choice."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from sklearn import neural_network
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV

import gpubp
from gpubp import MLPClassifier, MLPEnsembleClassifier, MLPEnsembleRegressor, MLPRegressor, MLPSearchCV, UsageError
from gpubp.backends.notices import say_once

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
PARAMETERS = {"hidden_layer_sizes": (6,), "max_iter": 4, "random_state": 0, "device": "cpu"}
fits = []


class Centred(MLPClassifier):
    """It predicts by what its own `fit` has learnt."""

    def fit(self, X, y):
        fits.append(len(X))
        self.mean_ = np.mean(X, axis=0)
        return super().fit(X - self.mean_, y)

    def predict(self, X):
        return super().predict(X - self.mean_)

    def predict_proba(self, X):
        return super().predict_proba(X - self.mean_)


class Small(MLPRegressor):
    """Its first weights are a tenth."""

    def _init_coef(self, fan_in, fan_out, dtype):
        weights = self._random_state.uniform(-0.1, 0.1, (fan_in, fan_out)).astype(dtype)
        return weights, np.zeros(fan_out, dtype)


class SmallOfTheirs(neural_network.MLPRegressor):
    _init_coef = Small._init_coef


class Named(neural_network.MLPClassifier):
    """scikit-learn's with a parameter more."""

    def __init__(self, name="me", hidden_layer_sizes=(6,), max_iter=4, random_state=0):
        super().__init__(hidden_layer_sizes, max_iter=max_iter, random_state=random_state)
        self.name = name


@pytest.fixture
def iris():
    return load_iris(return_X_y=True)


def test_a_search_calls_the_fit_of_a_subclass(iris, caplog):
    say_once.cache_clear()
    results, calls = [], []
    for make in (GridSearchCV, MLPSearchCV):
        fits.clear()
        search = make(Centred(**PARAMETERS), {"alpha": [1e-4, 1.0]}, cv=3).fit(*iris)
        results.append(search.cv_results_["mean_test_score"])
        calls.append(list(fits))
    assert calls[0] == calls[1] and len(calls[1]) == 7
    np.testing.assert_array_equal(*results)
    said = [record for record in caplog.records if "Centred has a fit of its own" in record.message]
    assert len(said) == 1 and said[0].levelno == logging.WARNING
    with pytest.raises(UsageError, match="which the fit of Centred cannot"):
        MLPSearchCV(Centred(**PARAMETERS), {"alpha": [1e-4, 1.0]}, halving=True).fit(*iris)


def test_an_ensemble_calls_what_its_members_override(iris):
    X, y = iris
    fits.clear()
    ensemble = MLPEnsembleClassifier(Centred(**PARAMETERS), n_estimators=3, random_state=0).fit(X, y)
    assert fits == [150] * 3
    members = [est.predict_proba(X) for est in ensemble.estimators_]
    np.testing.assert_array_equal(ensemble.predict_proba(X), np.mean(members, axis=0))
    mean, std = ensemble.predict_proba(X, return_std=True)
    np.testing.assert_array_equal(std, np.std(members, axis=0))
    assert (ensemble.predict(X) == mean.argmax(axis=1)).all()


def test_overriding_init_coef_counts(iris):
    X, y = iris[0], iris[0][:, 0]
    parameters = {"hidden_layer_sizes": (6,), "max_iter": 4, "random_state": 0}
    ours, theirs = Small(**parameters, device="cpu").fit(X, y), SmallOfTheirs(**parameters).fit(X, y)
    for W, expected in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(W, expected, rtol=1e-10, atol=1e-12)
    search = MLPSearchCV(Small(**parameters, device="cpu"), {"alpha": [1e-4]}, cv=3).fit(X, y)
    expected = GridSearchCV(SmallOfTheirs(**parameters), {"alpha": [1e-4]}, cv=3).fit(X, y)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])
    ensemble = MLPEnsembleRegressor(Small(**PARAMETERS | {"max_iter": 1, "learning_rate_init": 1e-9}), n_estimators=2)
    assert max(abs(est.coefs_[0]).max() for est in ensemble.fit(X, y).estimators_) < 0.1


def test_parameters_of_a_subclass_of_theirs_are_left_out_with_a_word(iris):
    theirs = Named("somebody").fit(*iris)
    with pytest.warns(UserWarning, match="name of Named are left out: MLPClassifier has no such parameters"):
        ours = gpubp.from_sklearn(theirs, device="cpu")
    np.testing.assert_allclose(ours.predict_proba(iris[0]), theirs.predict_proba(iris[0]))


# -- first weights of choice -------------------------------------------------------------------------------


def test_first_weights_by_a_name_or_a_record(iris):
    nowhere = {"max_iter": 1, "learning_rate_init": 1e-300, "alpha": 0.0}
    drawn = MLPClassifier(**PARAMETERS | nowhere, init="orthogonal(2.0)").fit(*iris)
    np.testing.assert_allclose(drawn.coefs_[0] @ drawn.coefs_[0].T, 4 * np.eye(4), atol=1e-12)
    assert max(abs(b).max() for b in drawn.intercepts_) < 1e-200
    ones = gpubp.Initializer("ones", lambda rng, fan_in, fan_out: np.ones((fan_in, fan_out)))
    assert (MLPClassifier(**PARAMETERS | nowhere, init=ones).fit(*iris).coefs_[1] == 1).all()
    with pytest.raises(UsageError, match='unknown initializer "he_norml"; did you mean "he_normal"'):
        MLPClassifier(init="he_norml").fit(*iris)


def test_first_weights_that_are_given(iris, rng):
    X, y = iris
    coefs, intercepts = [rng.normal(size=(4, 6)), rng.normal(size=(6, 3))], [np.ones(6), np.zeros(3)]
    clf = clone(MLPClassifier(**PARAMETERS, shuffle=False, init=(coefs, intercepts)))
    first = coefs[0].copy()
    clf.fit(X, y)
    other = MLPClassifier(**PARAMETERS, shuffle=False, warm_start=True, keep_moments=False).fit(X, y)
    other.coefs_, other.intercepts_ = [W.copy() for W in coefs], [b.copy() for b in intercepts]
    np.testing.assert_array_equal(clf.coefs_[0], other.fit(X, y).coefs_[0])
    np.testing.assert_array_equal(coefs[0], first)
    assert clf.fit(X.astype(np.float32), y).coefs_[0].dtype == np.float32
    search = MLPSearchCV(clf, {"alpha": [1e-4]}, cv=3, error_score="raise").fit(X, y)
    assert search.best_estimator_.coefs_[0].shape == (4, 6)
    with pytest.raises(UsageError, match=r"shapes \[\(\(6, 4\), \(6,\)\)\], but the layers are of shapes \[\(4, 6\), "):
        clf.set_params(init=([coefs[0].T], [intercepts[0]])).fit(X, y)
    with pytest.raises(UsageError, match=r"give \(coefs, intercepts\)"):
        clf.set_params(init=[coefs]).fit(X, y)
