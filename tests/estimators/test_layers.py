"""Hidden activations and logits, and the private methods that code written for scikit-learn calls."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import neural_network
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelBinarizer
from test_estimators_parity import PAIRS, data

import gpubp
from gpubp import MLPClassifier, MLPEnsembleClassifier, MLPEnsembleRegressor, MLPRegressor, UsageError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
PARAMETERS = {"hidden_layer_sizes": (6, 5), "max_iter": 4, "random_state": 0}


def fitted_pair(task, rng, **parameters):
    """Ours, and scikit-learn's with the same weights."""
    X, y = data(task, rng)
    ours, theirs = PAIRS["regressor" if task.startswith("value") else "classifier"]
    mlp = ours(**{**PARAMETERS, **parameters}).fit(X, y)
    other = theirs(**{**PARAMETERS, **parameters}).fit(X, y)
    other.coefs_, other.intercepts_ = ([np.array(a) for a in arrays] for arrays in (mlp.coefs_, mlp.intercepts_))
    return X, y, mlp, other


# -- hidden activations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic"])
def test_hidden_activations(machine, activation, rng):
    X, y, mlp, theirs = fitted_pair("classes", rng, activation=activation)
    activations = theirs._forward_pass([X, None, None, None])
    for layer, expected in ((0, activations[1]), (1, activations[2]), (-1, activations[2]), (-2, activations[1])):
        np.testing.assert_allclose(mlp.transform(X, layer=layer), expected, rtol=1e-12, atol=1e-14)
    with pytest.raises(UsageError, match="layer=2 does not fit; the network has hidden layers 0 to 1"):
        mlp.transform(X, layer=2)
    assert mlp.transform(X.astype(np.float32)).dtype == np.float64
    np.testing.assert_array_equal(clone(mlp).fit_transform(X, y), mlp.transform(X))


def test_they_are_features_of_a_pipeline():
    X, y = load_iris(return_X_y=True, as_frame=True)
    pipeline = make_pipeline(MLPClassifier(**PARAMETERS, device="cpu"), LogisticRegression())
    pipeline.set_output(transform="pandas").fit(X, y)
    assert list(pipeline[:1].transform(X).columns) == [f"mlpclassifier{i}" for i in range(5)]
    assert pipeline.predict(X).shape == y.shape
    with pytest.raises(UsageError, match="has no hidden layer"):
        MLPRegressor(hidden_layer_sizes=(), max_iter=2, device="cpu").fit(X, y).transform(X)


@pytest.mark.parametrize("make", [MLPEnsembleClassifier, MLPEnsembleRegressor])
def test_those_of_an_ensembles_members_stand_side_by_side(make, rng):
    X, y = data("classes", rng)
    member = make._member_class(**PARAMETERS, device="cpu")
    ensemble = make(member, n_estimators=3, random_state=0).fit(X, y)
    side_by_side = np.hstack([est.transform(X, layer=0) for est in ensemble.estimators_])
    np.testing.assert_allclose(ensemble.transform(X, layer=0), side_by_side, rtol=1e-12)
    assert ensemble.transform(X).shape == (len(X), 15) == (len(X), len(ensemble.get_feature_names_out()))


def test_those_of_a_stack():
    net = gpubp.MLP([3, 4, 2], "tanh", models=2, precision="float64", device="cpu-reference")
    X = np.eye(3)
    assert net.stack.layer_values(X, 0).shape == (2, 3, 4) and net.stack.layer_values(X, -1).shape == (2, 3, 2)
    np.testing.assert_allclose(net.stack.layer_values(X, 0), np.tanh(X @ net.weights[0] + net.biases[0][:, None]))
    z = net.stack.layer_values(X, -1)
    np.testing.assert_allclose(net.forward(X), np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True))


# -- logits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["binary", "classes", "labels"])
def test_logits(machine, task, rng):
    X, y, mlp, _ = fitted_pair(task, rng)
    z, probabilities = mlp.decision_function(X), mlp.predict_proba(X)
    if task == "binary":
        assert z.shape == (len(X),)
        np.testing.assert_allclose(1 / (1 + np.exp(-z)), probabilities[:, 1], rtol=1e-12)
    elif task == "classes":
        np.testing.assert_allclose(np.exp(z) / np.exp(z).sum(axis=1, keepdims=True), probabilities, rtol=1e-12)
    else:
        np.testing.assert_allclose(1 / (1 + np.exp(-z)), probabilities, rtol=1e-12)
    assert not hasattr(MLPRegressor(), "decision_function")


@pytest.mark.parametrize("task", ["binary", "classes", "labels"])
def test_logits_of_an_ensemble_are_those_of_its_probabilities(task, rng):
    X, y = data(task, rng)
    ensemble = MLPEnsembleClassifier(MLPClassifier(**PARAMETERS, device="cpu"), n_estimators=3, random_state=0)
    z, mean = ensemble.fit(X, y).decision_function(X), ensemble.predict_proba(X)
    if task == "classes":
        np.testing.assert_allclose(np.exp(z), mean)
    else:
        np.testing.assert_allclose(1 / (1 + np.exp(-z)), mean[:, 1] if task == "binary" else mean)
    assert np.isfinite(z).all()


def test_two_classes_with_an_output_each(rng):
    X, y = data("binary", rng)
    clf = MLPClassifier(**PARAMETERS, loss="cross_entropy", device="cpu").fit(X, y)
    np.testing.assert_allclose(1 / (1 + np.exp(-clf.decision_function(X))), clf.predict_proba(X)[:, 1])


# -- scikit-learn's private methods ------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("task", ["binary", "classes", "labels", "value", "values"])
def test_forward_and_backward_passes(machine, task, weighted, rng):
    """Loss, gradients, activations and deltas are those of scikit-learn's methods of these names."""
    X, y, mlp, theirs = fitted_pair(task, rng, activation="tanh", alpha=0.5)
    np.testing.assert_allclose(mlp._forward_pass_fast(X), theirs._forward_pass_fast(X), rtol=1e-12, atol=1e-14)
    targets = y.reshape(len(y), -1).astype(float)
    if not task.startswith("value"):
        targets = LabelBinarizer().fit_transform(y).astype(float)
    weight = rng.uniform(0.1, 2.0, len(X)) if weighted else None
    results = []
    for est in (mlp, theirs):
        activations, deltas = [X, None, None, None], [None] * 3
        buffers = [np.empty_like(W) for W in est.coefs_], [np.empty_like(b) for b in est.intercepts_]
        loss, coef_grads, intercept_grads = est._backprop(X, targets, weight, activations, deltas, *buffers)
        packed = np.hstack([a.ravel() for a in (*est.coefs_, *est.intercepts_)])
        grad = np.hstack([a.ravel() for a in (*coef_grads, *intercept_grads)])
        results.append([np.array([loss]), grad, *activations[1:], *deltas])
        if est is mlp:  # scikit-learn's can after a fit by L-BFGS alone
            again = est._loss_grad_lbfgs(packed, X, targets, weight, activations, deltas, *buffers)
            assert again[0] == loss
            np.testing.assert_array_equal(again[1], grad)
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-13)


def test_a_network_without_a_fit(rng):
    """As evolutionary searches do it: initialize, assign weights, run forward."""
    outputs = []
    for make in (MLPRegressor, neural_network.MLPRegressor):
        mlp = make(hidden_layer_sizes=(4,), activation="tanh", random_state=0)
        mlp._random_state = np.random.RandomState(0)
        mlp._initialize(np.zeros((1, 2)), [3, 4, 2], np.float64)
        assert (mlp.n_layers_, mlp.n_outputs_, mlp.out_activation_, mlp.n_iter_) == (3, 2, "identity", 0)
        mlp.coefs_[1] = np.ones((4, 2))
        mlp.out_activation_ = "tanh"
        outputs.append(mlp._forward_pass_fast(np.eye(3), check_input=False))
        mlp.n_features_in_ = 3
        np.testing.assert_array_equal(mlp.predict(np.eye(3)), outputs[-1])
    np.testing.assert_allclose(*outputs, rtol=1e-12)


@pytest.mark.parametrize("name", ["identity", "logistic", "softmax", "tanh", "relu"])
def test_an_assigned_output_activation_is_the_truth(name, rng):
    X, _, mlp, theirs = fitted_pair("classes", rng)
    mlp.out_activation_ = theirs.out_activation_ = name
    np.testing.assert_allclose(mlp._forward_pass_fast(X), theirs._forward_pass_fast(X), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(mlp.predict(X), theirs.predict(X))
