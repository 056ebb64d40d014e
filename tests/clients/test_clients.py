"""Packages that work on scikit-learn's estimators, each on ours and on scikit-learn's in the same process.

pip install '.[test,clients]' && pytest -m clients
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import gpubp
from support.raw_rows import run

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]
PARAMETERS = {"hidden_layer_sizes": (8,), "max_iter": 30, "random_state": 0, "learning_rate_init": 0.01}
PAIRS = {"classifier": (gpubp.MLPClassifier, MLPClassifier), "regressor": (gpubp.MLPRegressor, MLPRegressor)}


def package(name):
    return pytest.importorskip(name, reason=f"{name} is not installed; it is in the extra clients")


@pytest.fixture
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X[:, :6]), y


@pytest.fixture
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return StandardScaler().fit_transform(X), (y - y.mean()) / y.std()


def pair(kind, **parameters):
    """Ours and scikit-learn's, not fitted."""
    return [make(**{**PARAMETERS, **parameters}) for make in PAIRS[kind]]


def assert_alike(results, tolerance=1e-9):
    ours, theirs = results
    np.testing.assert_allclose(np.asarray(ours, float), np.asarray(theirs, float), rtol=tolerance, atol=tolerance)


def test_skops(cancer):
    io = package("skops.io")
    X, y = cancer
    predicted = []
    for est in pair("classifier"):
        data = io.dumps(est.fit(X, y))
        again = io.loads(data, trusted=io.get_untrusted_types(data=data))
        np.testing.assert_array_equal(again.predict_proba(X), est.predict_proba(X))
        predicted.append(again.predict_proba(X))
    assert_alike(predicted)


def test_imbalanced_learn(cancer):
    pipeline = package("imblearn.pipeline")
    sampler = package("imblearn.over_sampling").RandomOverSampler(random_state=0)
    X, y = cancer
    assert_alike([pipeline.make_pipeline(sampler, est).fit(X, y).predict_proba(X) for est in pair("classifier")])


def test_optuna(cancer):
    optuna = package("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    values = []
    for est in pair("classifier"):

        def objective(trial, est=est):
            est.set_params(alpha=trial.suggest_float("alpha", 1e-5, 1.0, log=True))
            for epoch in range(3):
                est.partial_fit(*cancer, classes=[0, 1])
                trial.report(est.loss_, epoch)
            return est.loss_

        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        study.optimize(objective, n_trials=3)
        values.append([trial.value for trial in study.trials])
    assert_alike(values)


def test_mapie(diabetes):
    regression = package("mapie.regression")
    X, y = diabetes
    bounds = []
    for est in pair("regressor"):
        conformal = regression.SplitConformalRegressor(est, confidence_level=0.8, prefit=False)
        conformal.fit(X[:200], y[:200]).conformalize(X[200:300], y[200:300])
        points, intervals = conformal.predict_interval(X[300:])
        bounds.append(np.column_stack([points, intervals.reshape(len(points), -1)]))
    assert_alike(bounds)


def test_fairlearn(cancer):
    postprocessing = package("fairlearn.postprocessing")
    X, y = cancer
    group = (X[:, 0] > 0).astype(int)
    predicted = []
    for est in pair("classifier"):
        fair = postprocessing.ThresholdOptimizer(estimator=est, predict_method="predict_proba")
        fair.fit(X, y, sensitive_features=group)
        predicted.append(fair.predict(X, sensitive_features=group, random_state=0))
    assert_alike(predicted)


def test_interpret(cancer):
    blackbox = package("interpret.blackbox")
    X, y = cancer
    curves = []
    for est in pair("classifier"):
        explained = blackbox.PartialDependence(est.fit(X, y), X).explain_global()
        curves.append(np.concatenate([np.ravel(explained.data(i)["scores"]) for i in range(X.shape[1])]))
    assert_alike(curves)


def test_shap(diabetes):
    shap = package("shap")
    X, y = diabetes
    values = [
        shap.Explainer(est.fit(X, y).predict, X[:20], algorithm="permutation", seed=0)(X[:5]).values
        for est in pair("regressor")
    ]
    assert_alike(values, tolerance=1e-8)


def test_skl2onnx(cancer):
    skl2onnx, runtime = package("skl2onnx"), package("onnxruntime")
    X, y = cancer
    probabilities = []
    for est in (gpubp.to_sklearn(pair("classifier")[0].fit(X, y)), pair("classifier")[1].fit(X, y)):
        model = skl2onnx.to_onnx(make_pipeline(StandardScaler(), est).fit(X, y), X[:1], options={"zipmap": False})
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        probabilities.append(session.run(None, {"X": X})[1])
    assert_alike(probabilities, tolerance=1e-6)


def test_skl2onnx_with_activations_that_scikit_learn_lacks(cancer):
    package("skl2onnx"), package("onnxruntime")
    X, y = cancer
    X = X.astype(np.float32)
    ours = {**PARAMETERS, "activation": "gelu"}
    classifier, regressor = gpubp.MLPClassifier(**ours), gpubp.MLPRegressor(**ours)
    ensemble = gpubp.MLPEnsembleClassifier(classifier, 3, random_state=0)
    for est in (classifier, ensemble):
        for classes in (y, np.array(["malign", "benign"])[y]):
            pipeline = make_pipeline(StandardScaler(), est).fit(X, classes)
            label, probabilities = run(gpubp.to_onnx(pipeline), {"X": X}).values()
            assert_alike([probabilities, pipeline.predict_proba(X)], tolerance=1e-5)
            np.testing.assert_array_equal(label, pipeline.predict(X))
    search = gpubp.MLPSearchCV(make_pipeline(StandardScaler(), regressor), {"mlpregressor__alpha": [1e-4, 1]}, cv=2)
    (values,) = run(gpubp.to_onnx(search.fit(X, X[:, 0])), {"X": X}).values()
    assert_alike([values[:, 0], search.predict(X)], tolerance=1e-5)


def test_sktime():
    compose = package("sktime.forecasting.compose")
    series = np.sin(np.arange(80) / 3) + np.arange(80) / 80
    forecasts = []
    for est in pair("regressor"):
        forecaster = compose.make_reduction(est, window_length=6, strategy="recursive")
        forecasts.append(np.ravel(forecaster.fit(series, fh=[1, 2, 3]).predict()))
    assert_alike(forecasts)


def test_mlxtend(cancer):
    classifiers = package("mlxtend.classifier")
    X, y = cancer
    results = []
    for est, meta in zip(pair("classifier"), pair("classifier", hidden_layer_sizes=(3,)), strict=True):
        stack = classifiers.StackingClassifier([est, est], meta, use_probas=True)
        results.append(stack.fit(X, y).predict_proba(X))
    assert_alike(results)
