"""Estimators trained together: each as by itself, whatever the others do."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold

from gpubp import MLPClassifier, MLPRegressor
from gpubp.estimators.stacked_fits import FitTask, StackedFits, fit_together

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
CHECKED = ("n_iter_", "t_", "loss_", "best_loss_", "loss_curve_", "validation_scores_", "best_validation_score_")
CHECKED += ("validation_loss_curve_",)


def data(classes=3, rows=97):
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((rows, 6)), rng.integers(0, classes, rows)
    X[np.arange(rows), y] += 2
    return X, np.array(["ash", "birch", "cedar"])[y]


SETTINGS = [
    {},
    {"alpha": 0.1, "learning_rate_init": 0.01},
    {"alpha": 0.0, "beta_1": 0.8, "epsilon": 1e-6, "shuffle": False},
    {"early_stopping": True, "n_iter_no_change": 2, "validation_fraction": 0.2, "learning_rate_init": 0.05},
    {"early_stopping": True, "n_iter_no_change": 30},
    {"dropout": 0.3, "label_smoothing": 0.1, "max_grad_norm": 0.5},
    {"class_weight": "balanced", "learning_rate": "cosine"},
    {"tol": 1.0, "n_iter_no_change": 3},
    {"max_iter": 4, "weight_decay": 0.05},
]


def make_tasks(X, y, weight=None, base=None, settings=SETTINGS):
    """Every setting on every fold; folds have unequal sizes."""
    base = base or MLPClassifier((7, 5), batch_size=16, max_iter=12, device="cpu")
    folds = [train for train, _ in StratifiedKFold(3).split(X, y)] if y.dtype.kind == "U" else [np.arange(5, 80), None]
    return [
        FitTask(clone(base).set_params(random_state=10 + i, **chosen), X, y, rows, weight)
        for i, chosen in enumerate(settings)
        for rows in folds
    ]


def alone(task):
    given = (task.X, task.y, task.sample_weight)
    X, y, weight = (a if a is None or task.rows is None else a[task.rows] for a in given)
    return clone(task.est).fit(X, y, weight)


def assert_alike(task, exact):
    """The same weights, curves and predictions as by itself."""
    assert task.done and task.error is None, task.error
    own, est = alone(task), task.est
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-7, "atol": 1e-9}
    for name in CHECKED:
        found, wanted = getattr(est, name, None), getattr(own, name, None)
        assert (found is None) == (wanted is None), name
        if wanted is not None:
            np.testing.assert_allclose(found, wanted, err_msg=name, **tolerance)
    for found, wanted in zip((*est.coefs_, *est.intercepts_), (*own.coefs_, *own.intercepts_), strict=True):
        np.testing.assert_allclose(found, wanted, **tolerance)
    np.testing.assert_allclose(est.predict(task.X).astype("U") == own.predict(task.X).astype("U"), True)
    assert vars(est).keys() == vars(own).keys()
    assert est.out_activation_ == own.out_activation_


def test_classifiers(machine):
    """Two thirds of the settings with sample weights of the user's."""
    X, y = data()
    weight = np.random.default_rng(0).random(len(X))
    tasks = (
        make_tasks(X, y, None, settings=SETTINGS[::3]) + make_tasks(X, y, weight)[1::3] + make_tasks(X, y, weight)[2::3]
    )
    fit_together(tasks)
    for task in tasks:
        assert_alike(task, machine == "reference")


@pytest.mark.parametrize("learning_rate", ["adaptive", "invscaling"])
def test_regressors_with_sgd(machine, learning_rate):
    X, _ = data()
    y = np.stack([X[:, 0] ** 2, X[:, 1] - X[:, 2]], axis=1)
    base = MLPRegressor(
        hidden_layer_sizes=8,
        activation="tanh",
        solver="sgd",
        learning_rate=learning_rate,
        batch_size=20,
        max_iter=15,
        tol=1e-2,
        n_iter_no_change=2,
    )
    settings = [{"momentum": 0.5}, {"alpha": 1.0, "early_stopping": True}, {"learning_rate_init": 0.05}]
    tasks = make_tasks(X, y, None, base, settings)
    fit_together(tasks)
    for task in tasks:
        assert_alike(task, machine == "reference")


def test_different_shapes_are_stacks_of_their_own(capsys):
    X, y = data()
    settings = [
        {},
        {"hidden_layer_sizes": 4},
        {"activation": "tanh"},
        {"batch_size": 50},
        {"solver": "sgd"},
        {"alpha": 1},
    ]
    tasks = make_tasks(X, y, settings=[*settings, {"solver": "lbfgs"}, {"precision": "float32"}])
    fit_together(tasks, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["6", "3", "3", "3", "3", "3"]
    assert all("in 1 stack, " in line for line in lines)
    for task in tasks:
        assert task.done and task.error is None
        np.testing.assert_allclose(task.est.coefs_[0], alone(task).coefs_[0], rtol=1e-4, atol=1e-6)


def test_a_fold_without_a_class():
    X, y = data()
    rows = np.flatnonzero(y != "birch")
    base = MLPClassifier(5, batch_size=16, max_iter=3, random_state=0, device="cpu-reference")
    tasks = [
        FitTask(clone(base), X, y, rows),
        FitTask(clone(base), X, y, np.arange(60)),
        FitTask(clone(base), X, y, rows[:50]),
    ]
    fit_together(tasks)
    assert tasks[0].est.classes_.tolist() == ["ash", "cedar"]
    assert tasks[1].est.classes_.tolist() == ["ash", "birch", "cedar"]
    for task in tasks:
        assert_alike(task, exact=True)


def test_one_that_diverges_says_so_and_the_others_go_on(machine):
    X, y = data()
    settings = [{"learning_rate_init": 1e-2}, {"learning_rate_init": 1e300}, {"learning_rate_init": 2e-2}]
    base = MLPClassifier(6, solver="sgd", batch_size=16, max_iter=6, device="cpu", nesterovs_momentum=False)
    tasks = make_tasks(X, y, None, base, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        fit_together(tasks)
    for i, task in enumerate(tasks):
        if i // 3 == 1:
            assert "diverged at step" in str(task.error) and "learning rate 1e+300" in str(task.error)
            assert all(np.isfinite(W).all() for W in task.est.coefs_)
        else:
            assert_alike(task, machine == "reference")


def test_what_cannot_be_fitted_has_an_error_of_its_own():
    X, y = data()
    settings = [{}, {"alpha": -1}, {"activation": "rleu"}, {"early_stopping": True, "validation_fraction": 0.001}]
    tasks = make_tasks(X, y, settings=settings)
    fit_together(tasks)
    errors = [task.error for task in tasks[::3]]
    assert errors[0] is None
    assert "alpha" in str(errors[1]) and 'did you mean "relu"' in str(errors[2]) and "too small" in str(errors[3])
    assert all(task.done for task in tasks)


def test_nan_in_the_data_is_the_error_of_all():
    X, y = data()
    X[3, 2] = np.nan
    tasks = make_tasks(X, y)
    fit_together(tasks)
    assert all("NaN" in str(task.error) for task in tasks)


def test_results_do_not_depend_on_how_work_is_spread():
    X, y = data()
    settings = SETTINGS[:6]
    base = MLPClassifier((7, 5), batch_size=16, max_iter=5, device="cpu-reference")
    together, spread = make_tasks(X, y, None, base, settings), make_tasks(X, y, None, base, settings)
    fit_together(together)
    fit_together(spread, n_jobs=2)
    for one, other in zip(together, spread, strict=True):
        assert one.est.loss_curve_ == other.est.loss_curve_
        for mine, theirs in zip(one.est.coefs_, other.est.coefs_, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_solver_has_its_moments_whenever_the_others_of_a_stack_have_ended(solver):
    X, y = data()
    base = MLPClassifier((7, 5), batch_size=16, solver=solver, random_state=3, device="cpu-reference")
    tasks = make_tasks(X, y, None, base, [{"max_iter": 2}, {"max_iter": 6}, {"max_iter": 4}])
    fit_together(tasks)
    for task in tasks:
        alone = clone(task.est).fit(*((X, y) if task.rows is None else (X[task.rows], y[task.rows])))
        for est in (alone, task.est):
            est.partial_fit(X, y)
        for mine, theirs in zip(task.est.coefs_, alone.coefs_, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_training_goes_on_where_it_paused(n_jobs):
    X, y = data()
    schedule = "reduce_on_plateau(0, 0.5, 0.9)"  # which goes by the losses of all epochs
    base = MLPClassifier((7, 5), batch_size=16, max_iter=9, learning_rate=schedule, device="cpu-reference")
    tasks = make_tasks(X, y, None, base)
    stacked_fits = StackedFits(tasks, n_jobs)
    stacked_fits.train(until=2)
    assert all(task.est.n_iter_ <= 2 for task in tasks)
    half = tasks[::2]
    stacked_fits.keep_only(half)
    stacked_fits.train(until=5)
    stacked_fits.train()
    for task in half:
        assert_alike(task, exact=True)
    assert all(task.est.n_iter_ <= 2 for task in tasks[1::2])


@pytest.mark.parametrize("n_jobs, times", [(None, 3), (2, 2)])
def test_progress_counts_the_epochs_of_networks(n_jobs, times):
    """After every epoch; of other processes when a stack is done."""
    X, y = data()
    seen = []
    tasks = make_tasks(X, y, None, MLPClassifier(4, max_iter=3, device="cpu-reference"), [{}, {"max_iter": 2}])
    fit_together(tasks, n_jobs, progress=seen.append)
    assert sum(seen) == 3 * 3 + 3 * 2 and len(seen) == times


def test_ctrl_c_leaves_what_is_finished(monkeypatch):
    X, y = data()
    tasks = make_tasks(
        X, y, None, MLPClassifier(4, max_iter=3, device="cpu-reference"), [{}, {"hidden_layer_sizes": 5}]
    )

    def interrupted(networks):
        seen.append(networks)
        if len(seen) == 4:
            raise KeyboardInterrupt

    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        fit_together(tasks, progress=interrupted)
    assert [task.done for task in tasks] == [True] * 3 + [False] * 3
    for task in tasks[:3]:
        assert_alike(task, exact=True)


def test_the_warning_of_too_few_epochs_is_scikit_learns():
    X, y = data()
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        fit_together(make_tasks(X, y, settings=[{"max_iter": 2}]))
