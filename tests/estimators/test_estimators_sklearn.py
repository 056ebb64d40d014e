"""What scikit-learn itself demands: its own tests of the MLPs, its checks of any estimator, its meta-estimators."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import StackingClassifier, VotingRegressor
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import gpubp
from gpubp import MLPClassifier, MLPRegressor
from support.machines import BACKENDS, GPU_BACKENDS
from support.package import PACKAGE

TESTS = Path(__file__).parents[1]
VERSION = tuple(int(part) for part in sklearn.__version__.split(".")[:2])

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
with_callbacks = pytest.mark.skipif(
    not importlib.util.find_spec("sklearn.callback"), reason="scikit-learn has callbacks from 1.9 on"
)


def own_tests(*options, **environment):
    """scikit-learn's test_mlp in a process of its own, with the plugin that puts our estimators in place of its."""
    path = os.pathsep.join([str(PACKAGE.parent), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "-p", "no:cacheprovider", "-rA", *options]
    suite = ["--pyargs", "sklearn.neural_network.tests.test_mlp"]
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "PYTHONPATH": path, **environment}
    return subprocess.run([*command, *suite], capture_output=True, text=True, env=environment, timeout=900)


ON_MACHINES = pytest.mark.parametrize(
    "machine",
    [
        pytest.param("reference", marks=pytest.mark.thorough),
        pytest.param("compiled", marks=pytest.mark.backends),
        pytest.param("cuda-host", marks=pytest.mark.slow),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
)


@pytest.mark.skipif(VERSION != (1, 9), reason="the 1.9 tests are of 1.9's behaviour")
@ON_MACHINES
def test_its_own_tests_pass(machine):
    {**BACKENDS, **GPU_BACKENDS}[f"{machine}-float64"]()  # skips where it cannot be
    done = own_tests("-p", "support.sklearn_plugin", "--backend", machine)
    found = re.search(r"gpubp: (\d+) fits intercepted", done.stdout)
    assert done.returncode == 0 and found and int(found[1]) > 500, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"^59 passed in ", done.stdout, re.MULTILINE)  # and nothing skipped or expected to fail


@pytest.mark.backends
@pytest.mark.skipif(VERSION != (1, 9), reason="the 1.9 tests are of 1.9's behaviour")
def test_a_run_that_intercepts_nothing_fails():
    """The test of the test above: here every test passes, and none has trained one of ours."""
    done = own_tests("-p", "support.sklearn_plugin", "-k", "test_partial_fit_errors and not fit_errors")
    assert done.returncode != 0
    assert "gpubp: 0 fits intercepted" in done.stdout


# In CI each estimator and each backend once: what is checked are estimators, which are alike on all backends.
CHECKED = [
    pytest.param(MLPClassifier(), "compiled", marks=pytest.mark.backends),
    pytest.param(MLPRegressor(), "reference", marks=pytest.mark.thorough),
    *(pytest.param(MLPClassifier(), machine, marks=pytest.mark.slow) for machine in ("reference", "cuda-host")),
    *(pytest.param(MLPRegressor(), machine, marks=pytest.mark.slow) for machine in ("compiled", "cuda-host")),
    *(pytest.param(estimator, "cuda", marks=pytest.mark.gpu) for estimator in (MLPClassifier(), MLPRegressor())),
]


@pytest.mark.parametrize("estimator, machine", CHECKED, ids=str)
def test_check_estimator(estimator, machine, estimators_on):
    """Dense, sparse, float32, float64: whatever it tries. What it skips is not about us."""
    {**BACKENDS, **GPU_BACKENDS}[f"{machine}-float64"]()  # skips where it cannot be
    estimators_on(machine)
    allowed = {"check_array_api_input", "check_array_api_mixed_inputs", "check_array_api_same_namespace"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, on_skip=None, on_fail=None)
    bad = [r for r in results if r["status"] not in ("passed", "skipped")]
    assert not bad, bad
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= allowed
    assert sum(r["status"] == "passed" for r in results) >= 50


# -- among scikit-learn's own estimators -------------------------------------------------------------------


@pytest.fixture
def cancer():
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    return X.iloc[:200, :6], y.iloc[:200].map({0: "malignant", 1: "benign"})


@pytest.fixture
def classifier():
    return MLPClassifier((8,), max_iter=8, batch_size=20, learning_rate_init=0.02, random_state=0, device="cpu")


def test_pipelines_and_searches(cancer, classifier):
    columns = ColumnTransformer([("a", StandardScaler(), [0, 1, 2]), ("b", MinMaxScaler(), [3, 4, 5])])
    columns.set_output(transform="pandas")
    pipeline = make_pipeline(columns, classifier).fit(*cancer)
    assert pipeline.score(*cancer) > 0.8
    assert list(pipeline[-1].feature_names_in_)[0] == "a__mean radius"
    grid = {"mlpclassifier__hidden_layer_sizes": [(4,), [8]], "mlpclassifier__activation": ["tanh", ["relu"]]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2, error_score="raise").fit(*cancer)
    assert search.best_score_ > 0.7
    assert "MLPClassifier" in search._repr_html_()
    assert np.isfinite(cross_val_score(pipeline, *cancer, cv=2, scoring="roc_auc")).all()


def test_it_is_calibrated_stacked_and_explained(cancer, classifier):
    X, y = cancer
    scaled = make_pipeline(StandardScaler(), classifier)
    assert CalibratedClassifierCV(scaled, cv=2).fit(X, y).predict_proba(X).shape == (200, 2)
    stack = StackingClassifier([("a", scaled), ("b", clone(scaled))], LogisticRegression(), cv=2).fit(X, y)
    assert stack.score(X, y) > 0.8
    found = permutation_importance(scaled.fit(X, y), X, y, n_repeats=2, random_state=0)
    assert found.importances_mean.shape == (6,)


def test_regression_among_others():
    X, y = load_diabetes(return_X_y=True)
    regressor = MLPRegressor(hidden_layer_sizes=(8,), max_iter=40, random_state=0, device="cpu", solver="lbfgs")
    model = TransformedTargetRegressor(make_pipeline(StandardScaler(), regressor), transformer=StandardScaler())
    assert model.fit(X, y).score(X, y) > 0.4
    assert VotingRegressor([("a", model), ("b", clone(model))]).fit(X, y).predict(X).shape == y.shape


def test_sample_weight_is_routed(cancer, classifier):
    X, y = cancer
    with sklearn.config_context(enable_metadata_routing=True):
        asked = classifier.set_fit_request(sample_weight=True, validation_data=True)
        pipeline = make_pipeline(MinMaxScaler(), asked)
        pipeline.fit(X, y, sample_weight=np.ones(len(X)), validation_data=(X.to_numpy()[:20], y[:20]))
    assert len(pipeline[-1].validation_loss_curve_) == 8


# -- callbacks ---------------------------------------------------------------------------------------------


@with_callbacks
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_scoring_monitor_sees_every_iteration(solver):
    from sklearn.callback import ScoringMonitor

    X, y = load_iris(return_X_y=True)
    monitor = ScoringMonitor(scoring="accuracy")
    clf = MLPClassifier(solver=solver, max_iter=6, random_state=0, device="cpu").set_callbacks(monitor).fit(X, y)
    scores = [row["accuracy"] for row in monitor.get_logs().data if row["task_name"] == "iteration"]
    assert len(scores) >= clf.n_iter_ == 6
    assert scores[5] == clf.score(X, y) and scores[0] < scores[5]


@with_callbacks
def test_a_progress_bar_is_shown_and_a_callback_ends_the_fit(capsys):
    from sklearn.callback import ProgressBar

    class After3:
        def setup(self, estimator, context):
            self.seen = 0

        def teardown(self, estimator, context):
            self.torn_down = True

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context):
            self.seen += 1
            return self.seen == 3

    X, y = load_iris(return_X_y=True)
    stop = After3()
    clf = MLPClassifier(max_iter=9, device="cpu", random_state=0).set_callbacks(stop, ProgressBar()).fit(X, y)
    assert clf.n_iter_ == 3 and stop.torn_down
    regressor = MLPRegressor(max_iter=9, solver="lbfgs", device="cpu").set_callbacks(After3()).fit(X, y)
    assert regressor.n_iter_ == 3
    assert "MLPClassifier" in capsys.readouterr().out


def test_the_package_names_them_lazily():
    assert gpubp.MLPClassifier is MLPClassifier and "MLPRegressor" in dir(gpubp)
