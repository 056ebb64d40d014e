"""Estimators in files, and pipelines, searches and ensembles as scikit-learn's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import neural_network
from sklearn.datasets import load_iris
from sklearn.ensemble import VotingClassifier, VotingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_estimators_parity import PAIRS, data

import gpubp
from gpubp import (
    DataError,
    MLPClassifier,
    MLPEnsembleClassifier,
    MLPEnsembleRegressor,
    MLPRegressor,
    MLPSearchCV,
    UsageError,
    to_sklearn,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
PARAMETERS = {"hidden_layer_sizes": (6,), "max_iter": 4, "random_state": 0, "device": "cpu"}


# -- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("task", ["binary", "classes", "labels", "value", "values"])
def test_an_estimator_in_a_file(task, dtype, rng, tmp_path):
    X, y = data(task, rng)
    make = PAIRS["regressor" if task.startswith("value") else "classifier"][0]
    mlp = make(**PARAMETERS, activation=["tanh"], alpha=0.3).fit(X.astype(dtype), y)
    mlp.save(tmp_path / "mlp.safetensors")
    again = make.load(tmp_path / "mlp.safetensors", device="cpu")
    method = "predict" if task.startswith("value") else "predict_proba"
    for rows in (X, X.astype(np.float32)):
        np.testing.assert_array_equal(getattr(mlp, method)(rows), getattr(again, method)(rows))
    np.testing.assert_array_equal(mlp.predict(X), again.predict(X))
    assert again.alpha == 0.3 and again.random_state == 0 and again.n_iter_ == mlp.n_iter_
    again.partial_fit(X, y)
    net = gpubp.MLP.load(tmp_path / "mlp.safetensors", device="cpu")
    hidden = net.stack.layer_values(np.asarray(X), net.stack.hidden(-1))[0]
    np.testing.assert_allclose(hidden, mlp.transform(X), rtol=1e-4, atol=1e-5)


def test_names_of_columns_and_text_classes_in_a_file(tmp_path):
    X, y = load_iris(return_X_y=True, as_frame=True)
    clf = MLPClassifier(**PARAMETERS).fit(X, y.map({0: "a", 1: "b", 2: "c"}))
    clf.save(tmp_path / "clf")
    again = MLPClassifier.load(tmp_path / "clf", device="cpu")
    assert list(again.feature_names_in_) == list(X) and list(again.classes_) == ["a", "b", "c"]
    assert (again.predict(X) == clf.predict(X)).all()
    with pytest.raises(ValueError, match="feature names"):
        again.predict(pd.DataFrame(X.to_numpy(), columns=list("abcd")))


def test_files_of_something_else_are_refused(tmp_path, rng):
    X, y = data("classes", rng)
    MLPClassifier(**PARAMETERS).fit(X, y).save(tmp_path / "clf")
    MLPEnsembleClassifier(MLPClassifier(**PARAMETERS), n_estimators=2).fit(X, y).save(tmp_path / "ensemble")
    with pytest.raises(DataError, match="holds an MLPClassifier; load it with MLPClassifier.load"):
        MLPRegressor.load(tmp_path / "clf")
    with pytest.raises(DataError, match="holds no single estimator"):
        MLPClassifier.load(tmp_path / "ensemble")
    with pytest.raises(DataError, match="holds no ensemble"):
        MLPEnsembleClassifier.load(tmp_path / "clf")


# -- isinstance --------------------------------------------------------------------------------------------


def test_isinstance_takes_ours_for_scikit_learns():
    for name in ("MLPClassifier", "MLPRegressor"):
        ours, theirs = getattr(gpubp, name), getattr(neural_network, name)
        assert isinstance(ours(), theirs) and issubclass(ours, theirs) and not isinstance(theirs(), ours)
    assert not isinstance(MLPClassifier(), neural_network.MLPRegressor)
    with pytest.raises(UsageError, match="neither an MLPClassifier nor an MLPRegressor of scikit-learn"):
        gpubp.from_sklearn(MLPClassifier())


# -- to scikit-learn ---------------------------------------------------------------------------------------


def test_pipelines_and_searches_as_scikit_learns(rng):
    X, y = data("classes", rng)
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(**PARAMETERS))
    search = MLPSearchCV(pipeline, {"mlpclassifier__alpha": [1e-4, 1.0]}, cv=2).fit(X, y)
    for ours in (pipeline.fit(X, y), search):
        theirs = to_sklearn(ours)
        assert type(theirs[-1]).__module__.startswith("sklearn.")
        np.testing.assert_allclose(theirs.predict_proba(X), ours.predict_proba(X), rtol=1e-12)
    assert isinstance(pipeline[-1], MLPClassifier)


@pytest.mark.parametrize("task", ["binary", "classes", "value"])
def test_an_ensemble_becomes_a_vote(task, rng):
    X, y = data(task, rng)
    y = np.array(list("abcdefgh"))[y + 2] if task == "classes" else y
    if task == "value":
        ours = MLPEnsembleRegressor(MLPRegressor(**PARAMETERS), n_estimators=3, random_state=0).fit(X, y)
        assert isinstance(to_sklearn(ours), VotingRegressor)
    else:
        ours = MLPEnsembleClassifier(MLPClassifier(**PARAMETERS), n_estimators=3, random_state=0).fit(X, y)
        assert isinstance(to_sklearn(ours), VotingClassifier)
        np.testing.assert_allclose(to_sklearn(ours).predict_proba(X), ours.predict_proba(X), rtol=1e-12)
        assert (to_sklearn(ours).predict(X) == ours.predict(X)).all()
    assert to_sklearn(ours).score(X, y) == pytest.approx(ours.score(X, y))


def test_what_no_vote_can_be_is_refused(rng):
    X, y = data("labels", rng)
    with pytest.raises(UsageError, match="VotingClassifier has no labels"):
        to_sklearn(MLPEnsembleClassifier(MLPClassifier(**PARAMETERS), n_estimators=2).fit(X, y))
    with pytest.raises(UsageError, match="VotingRegressor has one output"):
        to_sklearn(MLPEnsembleRegressor(MLPRegressor(**PARAMETERS), n_estimators=2).fit(X, y))
    with pytest.raises(UsageError, match="neither an MLPClassifier"):
        to_sklearn(StandardScaler())
