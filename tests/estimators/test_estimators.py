"""What MLPClassifier and MLPRegressor have beyond scikit-learn's, what they refuse, and how they are kept."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from scipy import sparse
from sklearn import neural_network
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning

import gpubp
from gpubp import DataError, MLPClassifier, MLPRegressor, UsageError, from_sklearn, to_sklearn
from gpubp.activations import relu
from gpubp.losses import huber
from gpubp.training.device_data import SparseRows
from gpubp.training.step import TrainingStep
from support.package import PACKAGE

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def iris():
    X, y = load_iris(return_X_y=True)
    return (X - X.mean(axis=0)) / X.std(axis=0), y


def classifier(**parameters):
    return MLPClassifier(
        **{"hidden_layer_sizes": (8,), "max_iter": 6, "random_state": 0, "device": "cpu", **parameters}
    )


def regressor(**parameters):
    return MLPRegressor(**{"hidden_layer_sizes": (8,), "max_iter": 6, "random_state": 0, "device": "cpu", **parameters})


def weights_of(estimator):
    return np.concatenate([w.ravel() for w in estimator.coefs_ + estimator.intercepts_])


# -- coefs_ and intercepts_ are the truth ------------------------------------------------------------------


def test_weights_are_views_and_changing_them_counts(iris):
    X, y = iris
    clf = classifier().fit(X, y)
    assert all(np.shares_memory(W, clf._stack.theta) for W in clf.coefs_ + clf.intercepts_)
    before = clf.predict_proba(X)
    clf.coefs_[0][:] *= 2
    assert not np.allclose(clf.predict_proba(X), before)
    clf.coefs_[0] = clf.coefs_[0] / 2
    np.testing.assert_array_equal(clf.predict_proba(X), before)
    clf.coefs_ = [np.zeros_like(W) for W in clf.coefs_]
    clf.intercepts_ = [np.zeros(8), np.array([0.0, 3.0, 0.0])]
    assert (clf.predict(X) == 1).all()
    clf.partial_fit(X, y)
    assert clf.coefs_[1].any()


def test_a_fit_leaves_the_weights_of_the_last_one_alone(iris):
    clf = classifier().fit(*iris)
    kept = clf.coefs_[0]
    values = kept.copy()
    clf.set_params(random_state=1).fit(*iris)
    np.testing.assert_array_equal(kept, values)


def test_a_fit_that_is_refused_leaves_the_last_one_as_it_was(iris):
    X, y = iris
    clf = MLPClassifier((5,), max_iter=3, random_state=0, device="cpu").fit(X, y)
    before, predicted = dict(vars(clf)), clf.predict(X)
    names = np.array(["a", "b", "c"])[y]
    refused = [
        lambda: clf.fit(X[:, :2], names, sample_weight=np.ones(3)),
        lambda: clf.fit(X, names, validation_data=(X[:, :3], names)),
        lambda: clf.set_params(init=([], [])).fit(X[:, :3], names),
        lambda: clf.set_params(init="auto", class_weight={"a": "much"}).fit(X[:, :2], names),
        lambda: clf.set_params(class_weight=None, early_stopping=True, validation_fraction=0.001).fit(X[:, :2], names),
    ]
    for fit in refused:
        with pytest.raises((ValueError, TypeError)):
            fit()
        assert set(vars(clf)) == set(before)
        np.testing.assert_array_equal(clf.predict(X), predicted)
    incremental = MLPClassifier((5,), random_state=0, device="cpu")
    before = dict(vars(incremental))
    for rows, labels, classes in ((X * np.nan, y, [0, 1]), (X, y, [0, 1]), (X[:3], y, [0, 1])):
        with pytest.raises(ValueError):
            incremental.partial_fit(rows, labels, classes=classes)
        assert vars(incremental) == before
    assert incremental.partial_fit(X, y, classes=[0, 1, 2]).classes_.tolist() == [0, 1, 2]
    table = gpubp.TabularClassifier("fast", epochs=1, device="cpu").fit(X, y)
    predicted = table.predict(X)
    with pytest.raises(DataError):
        table.fit(X[:0], names)
    with pytest.raises(UsageError):
        table.set_params(time_limit=-1).fit(X, names)
    np.testing.assert_array_equal(table.predict(X), predicted)


def test_weights_of_another_shape_are_refused_by_a_warm_start(iris):
    clf = classifier(warm_start=True).fit(*iris)
    with pytest.raises(UsageError, match=r"layers \[4, 8, 3\].*ask for \[4, 5, 3\].*warm_start=False"):
        clf.set_params(hidden_layer_sizes=(5,)).fit(*iris)


@pytest.mark.parametrize("keep", [copy.deepcopy, lambda est: pickle.loads(pickle.dumps(est)), "joblib"])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_a_copy_predicts_and_goes_on_alike(keep, solver, iris, tmp_path):
    """Moments and random numbers included; and it shares no memory."""
    clf = classifier(solver=solver, random_state=np.random.RandomState(3)).fit(*iris)
    if keep == "joblib":
        joblib.dump(clf, tmp_path / "clf")
        twin = joblib.load(tmp_path / "clf", mmap_mode="r")
    else:
        twin = keep(clf)
    np.testing.assert_array_equal(clf.predict_proba(iris[0]), twin.predict_proba(iris[0]))
    if solver != "lbfgs":
        clf.partial_fit(*iris), twin.partial_fit(*iris)
        np.testing.assert_array_equal(weights_of(clf), weights_of(twin))
        assert not np.shares_memory(clf.coefs_[0], twin.coefs_[0])


def test_a_warm_start_may_keep_the_moments(iris):
    """So that training in two calls is training in one, as far as the orders agree."""
    once = classifier(max_iter=6, shuffle=False).fit(*iris)
    keep = {"max_iter": 3, "shuffle": False, "warm_start": True, "keep_moments": True}
    twice = classifier(**keep).fit(*iris).fit(*iris)
    np.testing.assert_array_equal(weights_of(once), weights_of(twice))
    assert once.loss_curve_ == twice.loss_curve_ and twice.n_iter_ == 3 and twice.t_ == once.t_
    other = classifier(**keep).fit(*iris).set_params(solver="sgd").fit(*iris)
    assert len(other._optimizer.slots) == 1  # another solver begins with its own


# -- what scikit-learn refuses -----------------------------------------------------------------------------


def test_validation_data_are_recorded_and_watched(iris):
    X, y = iris
    clf = classifier(max_iter=30).fit(X[::2], y[::2], validation_data=(X[1::2], y[1::2]))
    assert len(clf.validation_loss_curve_) == len(clf.loss_curve_) == 30
    loss = -np.log(clf.predict_proba(X[1::2])[np.arange(75), y[1::2]]).mean()
    assert clf.validation_loss_curve_[-1] == pytest.approx(loss)
    assert clf.validation_scores_ is None
    weight = np.linspace(0, 1, 75)
    clf = classifier(max_iter=300, early_stopping=True, n_iter_no_change=3, learning_rate_init=0.05)
    clf.fit(X[::2], y[::2], validation_data=[X[1::2], y[1::2], weight])
    assert clf.n_iter_ < 300 and len(clf.validation_scores_) == len(clf.validation_loss_curve_) == clf.n_iter_
    assert clf.score(X[1::2], y[1::2], weight) == clf.best_validation_score_
    assert clf.t_ == 75 * clf.n_iter_  # nothing of X was set aside
    found = regressor(solver="lbfgs").fit(X, X[:, 0], validation_data=(X, X[:, 0]))
    assert len(found.validation_loss_curve_) == found.n_iter_
    assert found.validation_loss_curve_[-1] == pytest.approx(((found.predict(X) - X[:, 0]) ** 2).mean() / 2)


def test_an_activation_per_layer_and_a_record(iris):
    X, y = iris
    clf = classifier(hidden_layer_sizes=(6, 5), activation=["gelu", "logistic"]).fit(X, y)
    assert [a.name for a in clf._stack.activations] == ["gelu", "sigmoid"]
    one = classifier(activation=relu()).fit(X, y)
    np.testing.assert_array_equal(weights_of(one), weights_of(classifier(activation="relu").fit(X, y)))
    with pytest.raises(UsageError, match="activations names 3, but there are 2 hidden layers"):
        classifier(hidden_layer_sizes=(6, 5), activation=["relu"] * 3).fit(X, y)
    with pytest.raises(UsageError, match='unknown activation "rulu"; did you mean "relu"'):
        classifier(activation="rulu").fit(X, y)


def test_losses_of_the_registry(iris):
    X, y = iris
    assert classifier(loss="cross_entropy").fit(X, y > 0).predict_proba(X).shape == (150, 2)
    one_against_rest = classifier(loss="binary_cross_entropy", max_iter=99, learning_rate_init=0.05).fit(X, y)
    assert one_against_rest.out_activation_ == "logistic" and one_against_rest.score(X, y) > 0.8
    np.testing.assert_allclose(one_against_rest.predict_proba(X).sum(axis=1), 1)
    low, high = (
        regressor(loss=f"quantile({q})", max_iter=300).fit(X, X[:, 0] + X[:, 1]).predict(X) for q in (0.1, 0.9)
    )
    assert (low < high).mean() > 0.9
    assert np.isfinite(regressor(loss=huber(0.5)).fit(X, X[:, :2]).loss_)
    with pytest.raises(UsageError, match='"huber" is for values; MLPClassifier takes "auto"'):
        classifier(loss="huber").fit(X, y)
    with pytest.raises(UsageError, match='"cross_entropy" is for classes; MLPRegressor takes "squared_error"'):
        regressor(loss="cross_entropy").fit(X, y)
    with pytest.raises(UsageError, match="several labels"):
        classifier(loss="cross_entropy").fit(X, X > 0)
    with pytest.raises(DataError, match=r'y\[0, 0\] = -1.0 is outside .*"poisson"'):
        regressor(loss="poisson").fit(X, np.full(150, -1.0))


def test_class_weight_is_a_sample_weight(iris):
    X, y = iris[0], np.array(["a", "b", "c"])[iris[1]]
    weight = np.select([y == "a", y == "b"], [3.0, 0.5], 1.0)
    by_class = classifier(class_weight={"a": 3.0, "b": 0.5}).fit(X, y)
    np.testing.assert_array_equal(weights_of(by_class), weights_of(classifier().fit(X, y, weight)))
    both = classifier(class_weight={"a": 3.0, "b": 0.5}).fit(X, y, np.full(150, 2.0))
    np.testing.assert_array_equal(weights_of(both), weights_of(classifier().fit(X, y, 2 * weight)))
    few = np.r_[0:50, 50:60, 100:150]
    balanced = classifier(class_weight="balanced").fit(X[few], y[few])
    weight = np.select([y[few] == "b"], [110 / 30], 110 / 150)
    np.testing.assert_array_equal(weights_of(balanced), weights_of(classifier().fit(X[few], y[few], weight)))
    with pytest.raises(ValueError, match="'balanced' is not supported for partial_fit"):
        classifier(class_weight="balanced").partial_fit(X, y, classes=np.unique(y))


def test_schedules_concern_every_solver(iris):
    """A rate that is 0 from the second epoch on: weights no longer change, whatever the solver."""

    def first_epoch_only(progress):
        return (progress.epoch == 0).astype(float)

    for solver in ("sgd", "adam", "adamw"):
        one = classifier(solver=solver, max_iter=1, momentum=0).fit(*iris)
        clf = classifier(solver=solver, max_iter=4, momentum=0, learning_rate=first_epoch_only).fit(*iris)
        np.testing.assert_array_equal(weights_of(clf), weights_of(one))
    cosine = classifier(learning_rate="cosine").fit(*iris)
    assert not np.allclose(weights_of(cosine), weights_of(classifier().fit(*iris)))
    theirs = neural_network.MLPClassifier((8,), max_iter=6, random_state=0, learning_rate="adaptive").fit(*iris)
    np.testing.assert_allclose(weights_of(classifier(learning_rate="adaptive").fit(*iris)), weights_of(theirs))
    with pytest.raises(UsageError, match='unknown schedule "cosin"; did you mean "cosine"'):
        classifier(learning_rate="cosin").fit(*iris)


def test_a_schedule_goes_on_over_passes(iris):
    """partial_fit counts its steps: a training of max_iter epochs in single passes is that in one."""
    parameters = {"learning_rate": "exponential(0.5)", "max_iter": 4, "shuffle": False}
    passes = classifier(**parameters)
    for _ in range(4):
        passes.partial_fit(*iris, classes=[0, 1, 2])
    np.testing.assert_array_equal(weights_of(passes), weights_of(classifier(**parameters).fit(*iris)))


@pytest.mark.parametrize("schedule", ["cosine", "reduce_on_plateau(0, 0.1, 0.5)"])
def test_a_schedule_begins_anew_with_every_fit(schedule, iris):
    """Without momentum, a warm start from some weights is a fit from them."""
    parameters = {"solver": "sgd", "momentum": 0, "learning_rate": schedule, "shuffle": False, "warm_start": True}
    twice = classifier(**parameters).fit(*iris)
    other = classifier(**parameters, max_iter=1).fit(*iris)
    del other._optimizer, other.loss_curve_
    other.coefs_, other.intercepts_ = [W.copy() for W in twice.coefs_], [b.copy() for b in twice.intercepts_]
    np.testing.assert_array_equal(weights_of(twice.fit(*iris)), weights_of(other.set_params(max_iter=6).fit(*iris)))


def test_regularizers_do_what_train_does(iris):
    """dropout, decoupled decay, clipping and smoothing against `gpubp.train` from the same weights."""
    X, y = iris
    chosen = {"dropout": 0.3, "weight_decay": 0.1, "max_grad_norm": 0.2, "label_smoothing": 0.1}
    clf = classifier(solver="adamw", alpha=0.0, shuffle=False, batch_size=50, max_iter=3, **chosen).fit(X, y)
    first = classifier(solver="adamw", max_iter=1, learning_rate_init=1e-300, weight_decay=1e-300).fit(X, y)
    net = gpubp.MLP([4, 8, 3], loss="cross_entropy", device="cpu", precision="float64", seed=clf._dropout_seed)
    for view, values in zip(net.weights + net.biases, first.coefs_ + first.intercepts_, strict=True):
        view[...] = values
    gpubp.train(net, X, y, optimizer="adamw", batch_size=50, epochs=3, shuffle=False, seed=0, **chosen)
    np.testing.assert_allclose(weights_of(clf), np.concatenate([w.ravel() for w in net.weights + net.biases]))
    for name in chosen:
        plain = classifier(solver="adamw", alpha=0.0, shuffle=False, batch_size=50, max_iter=3)
        plain.set_params(**{k: v for k, v in chosen.items() if k != name}).fit(X, y)
        assert not np.allclose(weights_of(plain), weights_of(clf)), name
    for name, value in {"dropout": 0.5, "weight_decay": 0.1, "max_grad_norm": 1.0}.items():
        with pytest.raises(UsageError, match=f'{name}={value} is for the solvers "adam", "adamw" and "sgd"'):
            classifier(solver="lbfgs", **{name: value}).fit(X, y)


def test_adamw_decays_unless_told_otherwise(iris):
    found = [classifier(solver="adamw", **chosen).fit(*iris) for chosen in ({}, {"weight_decay": 0.01})]
    np.testing.assert_array_equal(*map(weights_of, found))


def test_precision(iris):
    X, y = iris
    assert classifier(precision="float32").fit(X, y).coefs_[0].dtype == np.float32
    assert classifier(precision="float64").fit(X.astype(np.float32), y).coefs_[0].dtype == np.float64
    assert classifier().fit(X.astype(np.float16), y).coefs_[0].dtype == np.float64
    large = np.where(X == X.max(), 1e300, X)
    with pytest.raises(DataError, match=r"X\[15, 1\] = 1e\+300 is too large for float32"):
        classifier(precision="float32").fit(large, y)
    with pytest.raises(DataError, match="too large for float32"):
        classifier(precision="float32").fit(X, y).predict(sparse.csr_array(large))
    with pytest.raises(UsageError, match='precision "tf32" needs a GPU'):
        classifier(precision="tf32").fit(X, y)


# -- what goes wrong ---------------------------------------------------------------------------------------


def test_divergence_names_its_cause_and_keeps_finite_weights(iris):
    X, y = iris
    wild = regressor(solver="sgd", learning_rate_init=1e9, batch_size=10)
    with pytest.raises(ValueError, match=r"(?s)non-finite parameter weights.*diverged at step \d+ .*learning rate"):
        wild.fit(X * 1e6, y)
    assert np.isfinite(weights_of(wild)).all() and np.shares_memory(wild.coefs_[0], wild._stack.theta)
    slower = regressor(solver="sgd", learning_rate_init=0.6, max_iter=200)
    with pytest.raises(ValueError, match=r"diverged at step \d+ \(epoch \d+"):
        slower.fit(X * 10, y)
    assert slower.n_iter_ > 2 and not np.allclose(
        weights_of(slower), weights_of(regressor(max_iter=1).fit(X, y)), atol=1
    )
    with pytest.warns(
        ConvergenceWarning, match="diverged at step .* first weights, which no epoch made better, are kept"
    ):
        wild.set_params(early_stopping=True).fit(X * 1e6, y)
    assert np.isfinite(weights_of(wild)).all() and np.isnan(wild.validation_scores_[-1])


def test_an_interrupt_ends_the_training_and_keeps_what_there_is(iris, monkeypatch):
    epoch, calls = TrainingStep.train_epoch, []

    def interrupted(step, table, *where):
        calls.append(table)
        if len(calls) == 3:
            raise KeyboardInterrupt
        epoch(step, table, *where)

    monkeypatch.setattr(TrainingStep, "train_epoch", interrupted)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        clf = classifier().fit(*iris)
    assert clf.n_iter_ == 2
    np.testing.assert_array_equal(weights_of(clf), weights_of(classifier(max_iter=2).fit(*iris)))


@pytest.mark.parametrize("change", [{"dropout": 1.0}, {"device": 3}, {"precision": "float8"}, {"max_grad_norm": 0.0}])
def test_parameters_are_checked(change, iris):
    with pytest.raises(ValueError, match=f"The '{next(iter(change))}' parameter of MLPClassifier must be"):
        classifier(**change).fit(*iris)


def test_validation_data_that_do_not_fit(iris):
    X, y = iris
    with pytest.raises(UsageError, match="validation_data does not fit; give"):
        classifier().fit(X, y, validation_data=X)
    with pytest.raises(ValueError, match="has 3 features, but MLPClassifier is expecting 4"):
        classifier().fit(X, y, validation_data=(X[:, :3], y))
    with pytest.raises(ValueError, match="classes not in `self.classes_`"):
        classifier().fit(X[:100], y[:100], validation_data=(X, y))


NAMES_OF_POLARS = sklearn.__version__ >= "1.9"  # older ones do not read them


# -- kinds of input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array, sparse.csc_array, pd.DataFrame, pl.DataFrame])
def test_the_same_values_train_the_same_network(kind, solver, iris):
    X, y = iris
    if kind in (pd.DataFrame, pl.DataFrame):
        given = pd.DataFrame(X, columns=list("abcd")) if kind is pd.DataFrame else pl.DataFrame(X, schema=list("abcd"))
    else:
        given = kind(X)
    plain, clf = classifier(solver=solver).fit(X, y), classifier(solver=solver).fit(given, y)
    np.testing.assert_array_equal(weights_of(clf), weights_of(plain))
    np.testing.assert_array_equal(clf.predict_proba(given), plain.predict_proba(X))
    if kind is pd.DataFrame or (kind is pl.DataFrame and NAMES_OF_POLARS):
        assert clf.feature_names_in_.tolist() == list("abcd")


def test_sparse_rows_are_made_dense_batch_by_batch(iris, monkeypatch):
    X, y = iris
    dense = classifier(batch_size=20, early_stopping=True).fit(X, y)
    monkeypatch.setattr("gpubp.training.device_data._DENSE", 2 * 45 * 6 * 8)
    largest, take = [0], SparseRows.__getitem__

    def counted(rows, which):
        found = take(rows, which)
        largest[0] = max(largest[0], len(found))
        return found

    monkeypatch.setattr(SparseRows, "__getitem__", counted)
    clf = classifier(batch_size=20, early_stopping=True).fit(sparse.csr_array(X), y)
    np.testing.assert_array_equal(weights_of(clf), weights_of(dense))
    assert largest[0] <= 40


def test_a_sparse_matrix_of_labels():
    X, y = load_digits(return_X_y=True)
    labels = (y[:300, None] % np.array([2, 3, 5]) == 0).astype(int)
    dense, clf = (classifier().fit(X[:300], Y) for Y in (labels, sparse.csr_array(labels)))
    np.testing.assert_array_equal(weights_of(clf), weights_of(dense))
    assert clf.predict(X).shape == (1797, 3)


# -- conversion --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("task", ["binary", "classes", "labels", "value", "values", "poisson"])
def test_conversion_both_ways(task, activation, iris):
    X, y = iris
    target = {"binary": y > 0, "classes": y, "labels": X[:, :3] > 0, "value": X[:, 0], "values": X[:, :2], "poisson": y}
    given = {"activation": activation, "max_iter": 5, "random_state": 0, "hidden_layer_sizes": (7, 5)}
    if task in ("binary", "classes", "labels"):
        theirs = neural_network.MLPClassifier(**given).fit(X, target[task])
    else:
        loss = "poisson" if task == "poisson" else "squared_error"
        theirs = neural_network.MLPRegressor(loss, **given).fit(X, target[task])
    ours = from_sklearn(theirs, device="cpu")
    back = to_sklearn(ours)
    assert type(back) is type(theirs) and back.get_params() == theirs.get_params()
    for method in {"predict_proba", "predict"} & set(dir(theirs)):
        expected = getattr(theirs, method)(X)
        np.testing.assert_allclose(getattr(ours, method)(X), expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(getattr(back, method)(X), expected)
    assert ours.loss_curve_ == theirs.loss_curve_ and ours.loss_curve_ is not theirs.loss_curve_
    ours.partial_fit(X, target[task]), back.partial_fit(X, target[task])
    np.testing.assert_allclose(weights_of(ours), weights_of(back), rtol=1e-10, atol=1e-12)


def test_what_scikit_learn_lacks_does_not_convert(iris):
    X, y = iris
    for refused in ({"activation": "gelu"}, {"hidden_layer_sizes": (4, 4), "activation": ["relu", "tanh"]}):
        with pytest.raises(UsageError, match="scikit-learn has no activation"):
            to_sklearn(classifier(**refused).fit(X, y))
    with pytest.raises(UsageError, match='scikit-learn has no loss="binary_cross_entropy"'):
        to_sklearn(classifier(loss="binary_cross_entropy").fit(X, y))
    clf = classifier(solver="adamw", learning_rate="cosine", dropout=0.1, activation=["tanh"])
    clf.fit(X, y, validation_data=(X, y))
    assert not hasattr(to_sklearn(clf), "validation_loss_curve_")
    np.testing.assert_allclose(to_sklearn(clf).predict_proba(X), clf.predict_proba(X), rtol=1e-12)
    assert to_sklearn(clf).get_params()["activation"] == "tanh"
    for convert in (from_sklearn, to_sklearn):
        with pytest.raises(UsageError, match="is neither an MLPClassifier nor an MLPRegressor"):
            convert(np)


def test_clones_keep_lists_and_records():
    clf = classifier(activation=["relu", relu()], loss="auto")
    assert clone(clf).activation[0] == "relu" and clone(clf).activation[1].name == "relu"


@pytest.mark.backends  # processes of its own
def test_a_pickle_opens_without_the_network_of_its_device(iris, tmp_path):
    """What was trained on a GPU is NumPy's when it is kept, so a process without CuPy reads it."""
    clf = classifier(device="auto").fit(*iris)
    (tmp_path / "clf").write_bytes(pickle.dumps(clf))
    code = (
        "import pickle, sys; sys.modules['cupy'] = None; clf = pickle.load(open(sys.argv[1], 'rb'));"
        "print(clf.predict([[0.0] * 4]).shape)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "clf")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent, timeout=120)
    assert done.stdout.strip() == "(1,)", done.stderr
