"""MLPClassifier and MLPRegressor against scikit-learn's, step for step, on every machine."""

from __future__ import annotations

from itertools import cycle, product

import numpy as np
import pytest
from sklearn import neural_network

import gpubp
from support.machines import by_tier

PAIRS = {
    "classifier": (gpubp.MLPClassifier, neural_network.MLPClassifier),
    "regressor": (gpubp.MLPRegressor, neural_network.MLPRegressor),
}
TOLERANCE = 1e-12  # normwise, per tensor, in float64
# 230 rows in batches of 50 are 5 steps an epoch, the last of 30 rows.
HUNDRED_STEPS = {"batch_size": 50, "max_iter": 20, "hidden_layer_sizes": (16, 8), "alpha": 0.5, "random_state": 3}
SOLVERS = {
    "sgd": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.02},
    "nesterov": {"solver": "sgd", "learning_rate_init": 0.02},
    "without momentum": {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.02},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5, "power_t": 0.3},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.5, "n_iter_no_change": 1},
    "adam": {"solver": "adam", "learning_rate_init": 0.01},
    "adam with a large epsilon": {"solver": "adam", "epsilon": 0.1, "beta_1": 0.8, "beta_2": 0.9},
}
TASKS = ("binary", "classes", "labels", "value", "values")
FEW = set(zip(cycle(TASKS), SOLVERS, cycle((False, True))))  # of a hundred steps, by default: every solver and task

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def data(task, rng):
    X = rng.standard_normal((230, 10))
    if task == "binary":
        return X, np.where(X[:, 0] > 0.3, 7, -1)
    if task == "classes":
        return X, (3 * X[:, 0] + X[:, 1]).astype(int).clip(-2, 2)
    if task == "labels":
        return X, (X[:, :4] > 0.2).astype(int)
    return (X, X[:, 0] + np.sin(X[:, 1])) if task == "value" else (X, X[:, :3] ** 2)


def pair_for(task, **parameters):
    """Ours and scikit-learn's, for a task."""
    ours, theirs = PAIRS["regressor" if task.startswith("value") else "classifier"]
    return ours(**parameters), theirs(**parameters)


def assert_same(ours, theirs, tolerance=TOLERANCE):
    for name in ("coefs_", "intercepts_"):
        for found, expected in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)
    np.testing.assert_allclose(ours.loss_, theirs.loss_, rtol=tolerance)
    assert ours.n_iter_ == theirs.n_iter_ and ours.t_ == theirs.t_
    assert ours.out_activation_ == theirs.out_activation_ and ours.n_layers_ == theirs.n_layers_


@pytest.mark.parametrize("task, solver, weighted", by_tier(product(TASKS, SOLVERS, (False, True)), FEW.__contains__))
def test_a_hundred_steps(machine, task, solver, weighted, rng):
    """Shuffled, with L2, with a short last batch: weights, losses and learning rates are scikit-learn's."""
    X, y = data(task, rng)
    weight = rng.uniform(0.1, 2.0, len(X)) if weighted else None
    ours, theirs = pair_for(task, **HUNDRED_STEPS, **SOLVERS[solver])
    ours.fit(X, y, weight)
    theirs.fit(X, y, weight)
    assert_same(ours, theirs)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=TOLERANCE)
    np.testing.assert_allclose(ours.best_loss_, theirs.best_loss_, rtol=TOLERANCE)
    if SOLVERS[solver]["solver"] == "sgd":
        assert ours._optimizer.learning_rate == theirs._optimizer.learning_rate
    if not task.startswith("value"):
        np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-9)
        np.testing.assert_allclose(ours.predict_log_proba(X), theirs.predict_log_proba(X), rtol=1e-9, atol=1e-9)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y), rel=1e-10)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("changed", [{"shuffle": False}, {"batch_size": 230}, {"alpha": 0.0}, {"batch_size": 1}])
def test_activations_and_batches(activation, changed, rng):
    X, y = data("classes", rng)
    ours, theirs = pair_for("classes", **{**HUNDRED_STEPS, "max_iter": 3, "activation": activation, **changed})
    assert_same(ours.fit(X, y), theirs.fit(X, y))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_early_stopping(task, weighted, rng):
    """The same rows are set aside, the same scores watched, the same weights returned to."""
    X, y = data(task, rng)
    weight = rng.uniform(0.1, 2.0, len(X)) if weighted else None
    ours, theirs = pair_for(task, early_stopping=True, max_iter=60, n_iter_no_change=3, random_state=0, tol=1e-3)
    assert_same(ours.fit(X, y, weight), theirs.fit(X, y, weight))
    np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=1e-10)
    assert ours.best_validation_score_ == pytest.approx(theirs.best_validation_score_, rel=1e-10)
    assert ours.best_loss_ is None


@pytest.mark.parametrize("task", ["classes", "value"])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_partial_fit_keeps_the_moments(machine, task, solver, rng):
    """Ten passes over two halves of the data, each call shuffling with the same random numbers."""
    X, y = data(task, rng)
    ours, theirs = pair_for(task, solver=solver, batch_size=30, random_state=1, alpha=0.1)
    for _ in range(10):
        for half in (slice(0, 100), slice(100, 230)):
            classes = {"classes": np.unique(y)} if task == "classes" else {}
            ours.partial_fit(X[half], y[half], **classes)
            theirs.partial_fit(X[half], y[half], **classes)
    assert_same(ours, theirs)


@pytest.mark.parametrize("rate", ["adaptive", "invscaling", "constant"])
def test_a_warm_start_begins_with_the_first_learning_rate(rate, rng):
    """Without momentum, where ours and scikit-learn's keep the same: nothing but the weights."""
    X, y = data("classes", rng)
    parameters = {"solver": "sgd", "momentum": 0.0, "learning_rate": rate, "tol": 0.5, "n_iter_no_change": 1}
    ours, theirs = pair_for("classes", warm_start=True, max_iter=9, random_state=0, **parameters)
    assert_same(ours.fit(X, y).fit(X, y), theirs.fit(X, y).fit(X, y))
    assert ours._optimizer.learning_rate == theirs._optimizer.learning_rate


@pytest.mark.parametrize("changed", [SOLVERS["adaptive"], {"early_stopping": True, "tol": 0.3, "n_iter_no_change": 2}])
def test_it_says_what_scikit_learn_says(changed, rng, capsys):
    X, y = data("classes", rng)
    said = []
    for estimator in pair_for("classes", random_state=0, max_iter=20, verbose=True, **changed):
        estimator.fit(X, y)
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and ("Setting learning rate" in said[0] or "Stopping." in said[0])


def test_poisson(machine, rng):
    X = rng.standard_normal((230, 10))
    y = rng.poisson(np.exp(0.5 * X[:, :2]))
    ours, theirs = pair_for("value", loss="poisson", **HUNDRED_STEPS)
    assert_same(ours.fit(X, y), theirs.fit(X, y))
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-10)


@pytest.mark.parametrize("task", ["classes", "labels", "values"])
def test_lbfgs(machine, task, rng):
    """The same path as scikit-learn's, whose sums are in another order, for as long as that leads to the same place."""
    X, y = data(task, rng)
    weight = rng.uniform(0.1, 2.0, len(X))
    ours, theirs = pair_for(task, solver="lbfgs", max_iter=15, alpha=0.5, random_state=0, activation="tanh")
    assert_same(ours.fit(X, y, weight), theirs.fit(X, y, weight), tolerance=1e-8)


def test_lbfgs_sums_the_gradient_over_blocks_of_rows(rng, monkeypatch):
    X, y = data("classes", rng)
    parameters = {"solver": "lbfgs", "max_iter": 5, "random_state": 0, "activation": "tanh"}
    whole = gpubp.MLPClassifier(**parameters, device="cpu").fit(X, y)
    monkeypatch.setattr("gpubp.estimators.solvers.lbfgs._CHUNK", 100 * 37)  # 37 rows of 100 columns
    assert_same(gpubp.MLPClassifier(**parameters, device="cpu").fit(X, y), whole)


def test_a_loss_is_never_clipped(rng):
    """scikit-learn cuts −ln p off at 36 in float64 and 16 in float32; ours is the logit's."""
    X, y = np.array([[1.0]]), np.array([1])
    clf = gpubp.MLPClassifier(hidden_layer_sizes=(), solver="sgd", max_iter=1, alpha=0.0, device="cpu")
    clf.partial_fit(X, y, classes=[0, 1])
    clf.coefs_, clf.intercepts_ = [np.array([[-800.0]])], [np.array([0.0])]
    clf.partial_fit(X, y)
    assert clf.loss_ == 800.0


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_float32_is_computed_in_float32(machine, solver, rng):
    X, y = data("classes", rng)
    parameters = {**HUNDRED_STEPS, "solver": solver, "max_iter": 5}
    ours, theirs = pair_for("classes", **parameters)
    assert_same(ours.fit(X.astype(np.float32), y), theirs.fit(X.astype(np.float32), y), tolerance=1e-4)
    assert {W.dtype for W in ours.coefs_ + ours.intercepts_} == {np.dtype(np.float32)}
    assert ours.predict_proba(X.astype(np.float32)).dtype == np.float32
