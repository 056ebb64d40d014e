"""Deep ensembles: members that are their solo fits, one pass for all of them, and one file."""

from __future__ import annotations

import copy
import json
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import gpubp
from gpubp import (
    DataError,
    MLPClassifier,
    MLPEnsembleClassifier,
    MLPEnsembleRegressor,
    MLPRegressor,
    UsageError,
    serialization,
)
from gpubp.activations import Activation, relu
from gpubp.stack import Stack
from gpubp.training.step import TrainingStep
from support.cuda_host.arrays import DeviceArray

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

OF_MEMBER = {"hidden_layer_sizes": (8,), "max_iter": 6, "device": "cpu-reference"}


@pytest.fixture
def iris():
    X, y = load_iris(return_X_y=True)
    return (X - X.mean(axis=0)) / X.std(axis=0), y


def classifier(of_member=(), **parameters):
    member = MLPClassifier(**{**OF_MEMBER, **dict(of_member)})
    return MLPEnsembleClassifier(member, **{"n_estimators": 4, "random_state": 0, **parameters})


def regressor(of_member=(), **parameters):
    member = MLPRegressor(**{**OF_MEMBER, **dict(of_member)})
    return MLPEnsembleRegressor(member, **{"n_estimators": 4, "random_state": 0, **parameters})


def weights_of(estimator):
    return np.concatenate([w.ravel() for w in estimator.coefs_ + estimator.intercepts_])


def drawn(ensemble, m, size=None):
    """The members' seeds and how often each draws each row, by hand."""
    rng = np.random.RandomState(ensemble.random_state)
    seeds, counts = [], []
    for _ in range(ensemble.n_estimators):
        seeds.append(rng.randint(np.iinfo(np.int32).max))
        if ensemble.bootstrap:
            counts.append(np.bincount(rng.randint(0, m, m if size is None else size), minlength=m))
    return seeds, np.array(counts)


# -- members -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_members_are_solo_fits(solver, iris):
    X, y = iris
    weight = np.linspace(0.5, 2, 150)
    ensemble = classifier({"solver": solver, "dropout": 0.1 * (solver == "adam")}).fit(X, y, weight)
    seeds, _ = drawn(ensemble, 150)
    assert [member.random_state for member in ensemble.estimators_] == seeds and len(set(seeds)) == 4
    for member in ensemble.estimators_:
        np.testing.assert_array_equal(weights_of(member), weights_of(clone(member).fit(X, y, weight)))


def test_a_bootstrap_is_a_sample_weight(iris):
    X, y = iris
    weight = np.linspace(0.5, 2, 150)
    for size, given in ((150, None), (40, 40), (75, 0.5)):
        ensemble = regressor(bootstrap=True, max_samples=given).fit(X, X[:, :2], weight)
        _, counts = drawn(ensemble, 150, size)
        assert counts.sum(axis=1).tolist() == [size] * 4
        for member, count in zip(ensemble.estimators_, counts, strict=True):
            alone = clone(member).fit(X, X[:, :2], count * weight)
            np.testing.assert_array_equal(weights_of(member), weights_of(alone))


def test_a_smaller_ensemble_is_the_first_of_a_larger_one(iris):
    small, large = (classifier(bootstrap=True, n_estimators=n).fit(*iris) for n in (2, 4))
    for one, other in zip(small.estimators_, large.estimators_, strict=False):
        np.testing.assert_array_equal(weights_of(one), weights_of(other))


def test_a_class_that_a_member_did_not_draw_is_known_to_it(iris):
    X, y = iris
    y = np.where(np.arange(150) == 149, "rare", np.where(y > 0, "b", "a"))
    ensemble = classifier(bootstrap=True, n_estimators=12).fit(X, y)
    _, counts = drawn(ensemble, 150)
    assert 0 < (counts[:, 149] == 0).sum() < 12  # some have not seen it
    assert all(member.classes_.tolist() == ["a", "b", "rare"] for member in ensemble.estimators_)
    assert ensemble.predict_proba(X).shape == (150, 3)
    one_sided = classifier(bootstrap=True, max_samples=1).fit(X, y)  # each has seen a single row
    assert one_sided.predict_proba(X).shape == (150, 3)


def test_early_stopping_sets_rows_aside_that_were_not_trained_on(iris):
    """And not copies of them."""
    X, y = iris
    ensemble = classifier({"early_stopping": True}, bootstrap=True, n_estimators=2).fit(X, y)
    for member, count in zip(ensemble.estimators_, drawn(ensemble, 150)[1], strict=True):
        assert member.t_ == 135 * member.n_iter_
        np.testing.assert_array_equal(weights_of(member), weights_of(clone(member).fit(X, y, count)))


def test_those_that_diverge_are_left_out(iris):
    """A row that is too large for plain SGD: it takes the members that drew it."""
    X, y = iris[0].copy(), iris[0][:, 0]
    X[19] = 1e120
    ensemble = regressor({"solver": "sgd", "momentum": 0}, bootstrap=True, n_estimators=6, oob_score=True)
    _, counts = drawn(ensemble, 150)
    taken = counts[:, 19] > 0
    assert taken.tolist() == [True, False, False, False, True, False]
    message = (
        rf"{taken.sum()} of 6 members could not be trained and are left out; member {taken.argmax()}: .*non-finite"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.warns(FitFailedWarning, match=f"(?s){message}"):
            ensemble.fit(X, y)
    assert len(ensemble.estimators_) == 6 - taken.sum()
    assert np.isfinite(ensemble.predict(iris[0], return_std=True)).all()
    np.testing.assert_array_equal(np.isnan(ensemble.oob_prediction_), (counts[~taken] > 0).all(axis=0))
    with pytest.raises(ValueError, match=r"non-finite parameter weights.*diverged at step"):
        regressor({"solver": "sgd", "learning_rate_init": 1e9}).fit(iris[0] * 1e6, y)


def test_an_interrupt_keeps_what_there_is(iris, monkeypatch):
    epoch, calls = TrainingStep.train_epoch, []

    def interrupted(step, table, *where):
        calls.append(table)
        if len(calls) == 3:
            raise KeyboardInterrupt
        epoch(step, table, *where)

    monkeypatch.setattr(TrainingStep, "train_epoch", interrupted)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        ensemble = classifier().fit(*iris)
    two_epochs = classifier({"max_iter": 2}).fit(*iris)
    np.testing.assert_array_equal(ensemble.predict_proba(iris[0]), two_epochs.predict_proba(iris[0]))
    calls[:] = [None, None]
    with pytest.raises(KeyboardInterrupt):
        monkeypatch.setattr("gpubp.estimators.ensemble.base.fit_together", lambda *_: interrupted(None, None))
        classifier().fit(*iris)


# -- predictions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["binary", "classes", "labels", "one against the rest"])
@pytest.mark.parametrize("members", [1, 4])
def test_probabilities_are_means(kind, members, iris):
    X, y = iris
    target = {"binary": np.where(y > 0, "yes", "no"), "labels": (X[:, :3] > 0).astype(int)}.get(kind, y)
    loss = "binary_cross_entropy" if kind == "one against the rest" else "auto"
    ensemble = classifier({"loss": loss}, n_estimators=members).fit(X, target)
    each = np.array([member.predict_proba(X) for member in ensemble.estimators_])
    mean, std = ensemble.predict_proba(X, return_std=True)
    np.testing.assert_allclose(mean, each.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, each.std(axis=0), rtol=1e-9, atol=1e-15)
    np.testing.assert_array_equal(ensemble.predict_proba(X), mean)
    np.testing.assert_array_equal(ensemble.predict_log_proba(X), np.log(mean))
    expected = mean > 0.5 if kind == "labels" else ensemble.classes_[mean.argmax(axis=1)]
    np.testing.assert_array_equal(ensemble.predict(X), expected)
    assert ensemble.score(X, target) == accuracy_score(target, expected)


@pytest.mark.parametrize("outputs", [1, 2])
def test_values_are_means(outputs, iris):
    X = iris[0]
    y = X[:, 0] if outputs == 1 else X[:, :2]
    ensemble = regressor().fit(X, y)
    each = np.array([member.predict(X) for member in ensemble.estimators_])
    mean, std = ensemble.predict(X, return_std=True)
    assert mean.shape == std.shape == y.shape
    np.testing.assert_allclose(mean, each.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, each.std(axis=0), rtol=1e-9)
    np.testing.assert_array_equal(ensemble.predict(X), mean)
    assert ensemble.score(X, y) == r2_score(y, mean)


def test_all_members_predict_in_one_pass(iris, monkeypatch):
    X, y = iris
    ensemble = classifier().fit(X, y)
    expected = np.mean([member.predict_proba(X) for member in ensemble.estimators_], axis=0)
    passes, each_batch = [], Stack.each_batch

    def counted(stack, *args):
        passes.append(stack.models)
        each_batch(stack, *args)

    monkeypatch.setattr(Stack, "each_batch", counted)
    np.testing.assert_allclose(ensemble.predict_proba(X), expected, rtol=1e-12)
    assert passes == [4]


def test_batches_are_put_together(iris, monkeypatch):
    ensemble = regressor(bootstrap=True, oob_score=True, n_estimators=12).fit(iris[0], iris[0][:, :2])
    monkeypatch.setattr("gpubp.stack._CHUNK", 12 * 8 * 7)  # seven rows
    mean, std = ensemble.predict(iris[0], return_std=True)
    again = clone(ensemble).fit(iris[0], iris[0][:, :2])
    monkeypatch.undo()
    np.testing.assert_allclose([mean, std], ensemble.predict(iris[0], return_std=True), rtol=1e-9)
    np.testing.assert_allclose(again.oob_prediction_, ensemble.oob_prediction_, rtol=1e-9)


def test_weights_of_members_are_the_truth(iris):
    X, y = iris
    ensemble = classifier().fit(X, y)
    before = ensemble.predict_proba(X)
    members, theta = ensemble.estimators_, ensemble._network().theta
    assert all(np.shares_memory(W, theta) for member in members for W in member.coefs_ + member.intercepts_)
    assert not any("_stack" in vars(member) for member in members)  # held once

    def by_hand():
        return np.mean([copy.deepcopy(member).predict_proba(X) for member in ensemble.estimators_], axis=0)

    members[1].coefs_[0][:] *= 2  # in place
    assert not np.allclose(ensemble.predict_proba(X), before)
    np.testing.assert_allclose(ensemble.predict_proba(X), by_hand())
    assert ensemble._network().theta is theta
    members[1].coefs_[0] = members[1].coefs_[0] / 2
    np.testing.assert_array_equal(ensemble.predict_proba(X), before)
    members[2].partial_fit(X, y)
    np.testing.assert_allclose(ensemble.predict_proba(X), by_hand())
    expected, of_each = ensemble.predict_proba(X), [weights_of(member) for member in members]
    ensemble.estimators_ = members[::-1]
    np.testing.assert_allclose(ensemble.predict_proba(X), expected)
    ensemble.estimators_ = members[1:3]
    np.testing.assert_allclose(ensemble.predict_proba(X), by_hand())
    for member, weights in zip(members, of_each, strict=True):
        np.testing.assert_array_equal(weights_of(member), weights)  # nobody wrote into them


def test_a_fit_leaves_the_members_of_the_last_one_alone(iris):
    ensemble = classifier().fit(*iris)
    kept, values = ensemble.estimators_, [weights_of(member) for member in ensemble.estimators_]
    ensemble.set_params(random_state=1).fit(*iris)
    for member, weights in zip(kept, values, strict=True):
        np.testing.assert_array_equal(weights_of(member), weights)


def test_names_of_columns_and_kinds_of_input(iris):
    X, y = iris
    frame = pd.DataFrame(X, columns=list("abcd"))
    plain, named, thin = (classifier().fit(given, y) for given in (X, frame, sparse.csr_array(X)))
    assert named.feature_names_in_.tolist() == list("abcd") and not hasattr(plain, "feature_names_in_")
    for ensemble, given in ((named, frame), (thin, sparse.csr_array(X))):
        np.testing.assert_array_equal(ensemble.predict_proba(given), plain.predict_proba(X))
    with pytest.raises(ValueError, match="feature names should match"):
        named.predict(frame.rename(columns={"a": "e"}))
    with pytest.raises(ValueError, match="has 3 features, but MLPEnsembleClassifier is expecting 4"):
        plain.predict(X[:, :3])
    assert not hasattr(named.fit(X, y), "feature_names_in_")
    labels = sparse.csr_array((X[:, :3] > 0).astype(int))
    ensemble = classifier(bootstrap=True, oob_score=True, n_estimators=12).fit(X, labels)
    assert ensemble.predict(X).shape == (150, 3) and 0 < ensemble.oob_score_ < 1
    assert classifier().fit(X.astype(np.float32), y).predict_proba(X.astype(np.float32)).dtype == np.float32


# -- out of bag --------------------------------------------------------------------------------------------


def test_out_of_bag(iris):
    X, y = iris[0], np.array(["a", "b", "c"])[iris[1]]
    ensemble = classifier(bootstrap=True, oob_score=True)
    with pytest.warns(UserWarning, match=r"\d+ of 150 rows were drawn by every member.*more than 4 members"):
        ensemble.fit(X, y)
    left_out = drawn(ensemble, 150)[1] == 0
    each = np.array([member.predict_proba(X) for member in ensemble.estimators_])
    expected = np.full((150, 3), np.nan)
    for row in np.flatnonzero(left_out.any(axis=0)):
        expected[row] = each[left_out[:, row], row].mean(axis=0)
    np.testing.assert_allclose(ensemble.oob_decision_function_, expected, rtol=1e-12)
    seen = ~np.isnan(expected[:, 0])
    assert 0 < (~seen).sum() < 150
    assert ensemble.oob_score_ == np.mean(ensemble.classes_[expected[seen].argmax(axis=1)] == y[seen])


@pytest.mark.parametrize("outputs", [1, 2])
def test_out_of_bag_values(outputs, iris):
    X = iris[0]
    y = X[:, 0] if outputs == 1 else X[:, :2]
    ensemble = regressor(bootstrap=True, oob_score=True, max_samples=60, n_estimators=12).fit(X, y)
    left_out = drawn(ensemble, 150, 60)[1] == 0
    each = np.array([member.predict(X) for member in ensemble.estimators_])
    expected = np.array([each[left_out[:, row], row].mean(axis=0) for row in range(150)])
    np.testing.assert_allclose(ensemble.oob_prediction_, expected, rtol=1e-12)
    assert ensemble.oob_score_ == pytest.approx(r2_score(y, expected))


def test_no_row_out_of_bag():
    with pytest.warns(UserWarning, match="1 of 1 rows"):
        ensemble = regressor(bootstrap=True, oob_score=True).fit([[1.0, 2.0]], [3.0])
    assert np.isnan(ensemble.oob_score_) and np.isnan(ensemble.oob_prediction_).all()


# -- files -------------------------------------------------------------------------------------------------

TARGETS = {
    "binary": lambda X, y: np.where(y > 0, "yes", "no"),
    "text": lambda X, y: np.array(["a", "b", "c"], object)[y],
    "numbers": lambda X, y: y.astype(np.int32) * 10,
    "truth": lambda X, y: y > 0,
    "labels": lambda X, y: (X[:, :3] > 0).astype(int),
    "value": lambda X, y: X[:, 0],
    "values": lambda X, y: X[:, :2],
}


@pytest.mark.parametrize("precision", ["float32", None])
@pytest.mark.parametrize("target", TARGETS)
def test_what_is_saved_predicts_alike(target, precision, iris, tmp_path):
    X, y = pd.DataFrame(iris[0], columns=list("abcd")), TARGETS[target](*iris)
    kind = regressor if target.startswith("value") else classifier
    of_member = {"precision": precision, "activation": ["tanh"], "alpha": 0.01, "n_iter_no_change": np.int64(5)}
    ensemble = kind(of_member, n_estimators=3).fit(X, y)
    ensemble.save(tmp_path / "ensemble.safetensors")
    again = type(ensemble).load(tmp_path / "ensemble.safetensors", device="cpu-reference")
    methods = ["predict"] if kind is regressor else ["predict", "predict_proba", "predict_log_proba"]
    for method in methods:
        expected = getattr(ensemble, method)(X)
        found = getattr(again, method)(X)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
        for one, other in zip(again.estimators_, ensemble.estimators_, strict=True):
            np.testing.assert_array_equal(getattr(one, method)(X), getattr(other, method)(X))
    assert again.feature_names_in_.tolist() == list("abcd")
    kept = {**ensemble.get_params(), "estimator": again.estimator, "estimator__activation": ("tanh",)}
    assert again.get_params() == kept
    assert [est.random_state for est in again.estimators_] == [est.random_state for est in ensemble.estimators_]
    refitted = clone(again).fit(X, y)
    np.testing.assert_array_equal(refitted.predict(X), ensemble.predict(X))
    again.estimators_[0].partial_fit(X, y)
    again.save(tmp_path / "ensemble.safetensors")


def test_the_file_is_one_of_networks_and_holds_no_code(iris, tmp_path):
    X, y = iris
    ensemble = classifier().fit(X, y)
    ensemble.save(tmp_path / "ensemble")
    net = gpubp.MLP.load(tmp_path / "ensemble", device="cpu-reference")
    assert net.models == 4
    np.testing.assert_array_equal(net.forward(X).mean(axis=0), ensemble.predict_proba(X))
    assert [path.name for path in tmp_path.iterdir()] == ["ensemble"]


def test_parameters_that_no_file_holds(iris, tmp_path):
    """Infinity, dicts by number and records; the networks' own are taken from the networks."""
    X, y = iris
    mine = Activation("mine", relu().f, relu().derivative, derivative_from="a", init="he_normal")
    of_member = {"activation": mine, "class_weight": {0: 2.0}, "n_iter_no_change": np.inf}
    ensemble = MLPEnsembleClassifier(MLPClassifier(**{**OF_MEMBER, **of_member}), 2, random_state=0).fit(X, y)
    ensemble.save(tmp_path / "ensemble")
    with pytest.raises(DataError, match='unknown activation "mine"'):
        MLPEnsembleClassifier.load(tmp_path / "ensemble")
    again = MLPEnsembleClassifier.load(tmp_path / "ensemble", "cpu-reference", activations=mine)
    np.testing.assert_array_equal(again.predict_proba(X), ensemble.predict_proba(X))
    assert again.estimator.class_weight is None and again.estimator.activation == [mine]
    member = MLPRegressor(max_iter=1, hidden_layer_sizes=(np.int64(3), 2), device="cpu-reference")
    small = MLPEnsembleRegressor(member, 2).fit(X, y)
    small.estimator = None
    small.save(tmp_path / "small")
    assert MLPEnsembleRegressor.load(tmp_path / "small").estimator.hidden_layer_sizes == (3, 2)
    odd = classifier(n_estimators=1).fit(X, y)
    odd.estimators_[0].classes_ = np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "datetime64[D]")
    with pytest.raises(UsageError, match="classes of type datetime64.* cannot be saved; use text or numbers"):
        odd.save(tmp_path / "odd")
    assert not (tmp_path / "odd").exists()


def test_a_precision_of_gpus_is_loaded_on_a_processor(iris, tmp_path):
    X, y = iris
    ensemble = classifier({"precision": "float32"}).fit(X, y)
    ensemble.save(tmp_path / "ensemble")
    about = header_of(tmp_path / "ensemble")
    about["precision"] = about["ensemble"]["estimator"]["precision"] = "bfloat16"
    serialization.save(tmp_path / "ensemble", load_file(tmp_path / "ensemble"), about)
    again = MLPEnsembleClassifier.load(tmp_path / "ensemble", "cpu-reference")
    assert again.estimator.precision == "float32"
    np.testing.assert_array_equal(again.predict_proba(X), ensemble.predict_proba(X))


def header_of(path):
    whole = path.read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    return json.loads(header["__metadata__"]["gpubp"])


def test_files_that_are_refused(iris, tmp_path):
    path = tmp_path / "ensemble"
    classifier().fit(*iris).save(path)
    tensors, whole, header = load_file(path), path.read_bytes(), json.dumps(header_of(path))

    def refused(message, **changes):
        about = json.loads(header)
        about["ensemble"].update(changes)
        serialization.save(path, tensors, about)
        with pytest.raises(DataError, match=message):
            MLPEnsembleClassifier.load(path)

    refused("damaged or from another version .*1 feature names for 4 inputs", feature_names=["a"])
    refused("damaged or from another version .*2 classes for 3 outputs", classes={"values": [0, 1], "dtype": "<i8"})
    refused("damaged or from another version .*'dtype'", classes={"values": [0, 1, 2]})
    refused("damaged or from another version", members=[{"n_iter_": 1, "t_": 1}])
    refused("damaged or from another version .*n_iter_", members=[{}] * 4)
    refused("damaged or from another version .*estimatr", parameters={"estimatr": 1})
    refused(
        "holds an MLPEnsembleRegressor; load it with MLPEnsembleRegressor.load", **{"class": "MLPEnsembleRegressor"}
    )
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a readable safetensors file"):
        MLPEnsembleClassifier.load(path)
    with pytest.raises(DataError, match="no such file"):
        MLPEnsembleClassifier.load(tmp_path / "nothing")
    gpubp.MLP([4, 3], device="cpu-reference").save(path)
    with pytest.raises(DataError, match=r"holds no ensemble; .*gpubp\.MLP\.load"):
        MLPEnsembleClassifier.load(path)
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(DataError, match="not written by gpubp"):
        MLPEnsembleClassifier.load(path)
    with pytest.raises(NotFittedError):
        classifier().save(path)


def test_a_pickle_and_a_copy_predict_alike(iris):
    X, y = iris
    ensemble = classifier().fit(X, y)
    for twin in (pickle.loads(pickle.dumps(ensemble)), copy.deepcopy(ensemble)):
        np.testing.assert_array_equal(twin.predict_proba(X), ensemble.predict_proba(X))
        twin.estimators_[0].coefs_[0][:] = 0
        assert not np.allclose(twin.predict_proba(X), ensemble.predict_proba(X))
        assert ensemble.estimators_[0].coefs_[0].any()


# -- among scikit-learn's ----------------------------------------------------------------------------------


@pytest.mark.backends  # as are scikit-learn's checks of the members
@pytest.mark.parametrize("make", [classifier, regressor])
def test_check_estimator(make):
    estimator = make({"max_iter": 40, "learning_rate_init": 0.03}, n_estimators=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, on_skip=None, on_fail=None)
    bad = [r for r in results if r["status"] not in ("passed", "skipped")]
    assert not bad, bad
    allowed = {"check_array_api_input", "check_array_api_mixed_inputs", "check_array_api_same_namespace"}
    allowed |= {"check_classifiers_multilabel_output_format_decision_function"}  # there is no decision_function
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= allowed
    assert sum(r["status"] == "passed" for r in results) >= 50


def test_parameters(iris):
    ensemble = clone(classifier(bootstrap=True, oob_score=False))
    assert ensemble.get_params()["estimator__max_iter"] == 6
    assert ensemble.set_params(estimator__max_iter=3).estimator.max_iter == 3
    assert isinstance(MLPEnsembleClassifier(n_estimators=1).fit(iris[0][::50], [0, 1, 2]).estimators_[0], MLPClassifier)
    for change in ({"oob_score": True}, {"max_samples": 0.5}):
        with pytest.raises(UsageError, match=f"{next(iter(change))}=.*set bootstrap=True"):
            classifier(**change).fit(*iris)
    for wrong in ({"n_estimators": 0}, {"max_samples": 1.5}, {"estimator": MLPRegressor()}):
        with pytest.raises(ValueError, match=f"The '{next(iter(wrong))}' parameter of MLPEnsembleClassifier must be"):
            classifier().set_params(**wrong).fit(*iris)
    with pytest.raises(ValueError, match="The 'alpha' parameter of MLPClassifier must be"):
        classifier({"alpha": -1}).fit(*iris)


def test_pipelines_and_searches(iris):
    pipeline = make_pipeline(StandardScaler(), classifier({"learning_rate_init": 0.03, "max_iter": 30}))
    grid = {"mlpensembleclassifier__estimator__alpha": [1e-4, 1e-2], "mlpensembleclassifier__n_estimators": [1, 3]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(*iris)
    assert search.best_score_ > 0.8


# -- a GPU -------------------------------------------------------------------------------------------------


@pytest.mark.backends  # by default, members' arrays: test_estimators_arrays.py
def test_arrays_on_the_gpu_stay_there(gpu, iris):
    X, y = iris
    there = gpu.to_device(X)
    on_host = classifier({"device": "auto"}, bootstrap=True, oob_score=True, n_estimators=12).fit(X, y)
    ensemble = clone(on_host).fit(there, gpu.to_device(y))
    for method in ("predict", "predict_proba", "predict_log_proba"):
        found = getattr(ensemble, method)(there)
        assert isinstance(found, DeviceArray)
        np.testing.assert_allclose(found.get(), getattr(on_host, method)(X), rtol=1e-9)
    np.testing.assert_allclose(ensemble.oob_decision_function_, on_host.oob_decision_function_, rtol=1e-9)
    assert isinstance(ensemble.estimators_[0].coefs_[0], DeviceArray)
    values = regressor({"device": "auto"}, bootstrap=True, oob_score=True, n_estimators=12).fit(
        there, gpu.to_device(X[:, 0])
    )
    mean, std = values.predict(there, return_std=True)
    expected = clone(values).fit(X, X[:, 0]).predict(X, return_std=True)
    np.testing.assert_allclose([mean.get(), std.get()], expected, rtol=1e-9)
    twin = pickle.loads(pickle.dumps(values))
    np.testing.assert_array_equal(twin.predict(there).get(), mean.get())


def test_parameters_of_the_network_may_be_given_directly(iris):
    X, y = iris
    direct = MLPEnsembleClassifier(hidden_layer_sizes=(5,), max_iter=3, device="cpu", n_estimators=3, random_state=0)
    spelled = MLPEnsembleClassifier(MLPClassifier((5,), max_iter=3, device="cpu"), 3, random_state=0)
    assert repr(direct.estimator) == repr(spelled.estimator)
    np.testing.assert_array_equal(clone(direct).fit(X, y).predict_proba(X), spelled.fit(X, y).predict_proba(X))
    with pytest.raises(UsageError, match="give max_iter to the estimator"):
        MLPEnsembleClassifier(MLPClassifier(), max_iter=3)
    with pytest.raises(TypeError, match="hidden"):
        MLPEnsembleClassifier(hidden=3)


def test_classes_come_with_how_far_members_are_apart(iris):
    X, y = iris
    ensemble = MLPEnsembleClassifier(hidden_layer_sizes=(5,), max_iter=5, device="cpu", n_estimators=4, random_state=0)
    labels, std = ensemble.fit(X, y).predict(X, return_std=True)
    np.testing.assert_array_equal(labels, ensemble.predict(X))
    each = np.stack([member.predict_proba(X) for member in ensemble.estimators_])
    place = np.searchsorted(ensemble.classes_, labels)
    np.testing.assert_allclose(std, each.std(axis=0)[np.arange(len(X)), place], atol=1e-12)
