"""Copies and pickles of `gpubp.MLP`, modules after ``import gpubp``, and solvers of the registry."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_iris

import gpubp
from gpubp import MLPClassifier
from gpubp.optimizers import OPTIMIZERS
from support.package import PACKAGE


@pytest.mark.parametrize("keep", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize(
    "arguments",
    [
        {"loss": "cross_entropy", "activations": ["leaky_relu(0.2)"], "models": 3, "seed": [4, 5, 6]},
        {"loss": "half_squared_error", "output_activation": "sigmoid", "precision": "float64"},
        {"loss": "quantile(0.9)", "device": "cpu-reference"},
    ],
)
def test_a_copy_computes_alike_and_shares_nothing(keep, arguments):
    net = gpubp.MLP([3, 4, 2], **{"device": "cpu", **arguments})
    net.preprocessing = {"columns": [1, 2]}
    twin = keep(net)
    X = np.eye(3)
    np.testing.assert_array_equal(net.forward(X), twin.forward(X))
    assert repr(twin) == repr(net) and twin.stack.seeds == net.stack.seeds
    assert twin.stack.backend.name == net.stack.backend.name
    assert twin.preprocessing == net.preprocessing and twin.preprocessing is not net.preprocessing
    twin.theta += 1
    assert not np.allclose(net.theta, twin.theta)


def test_modules_are_there_after_an_import():
    code = "import gpubp; print(gpubp.activations.relu().name, gpubp.losses.huber(2.0).name, 'losses' in dir(gpubp))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.stdout.split() == ["relu", "huber(delta=2.0)", "True"], done.stderr


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", sorted(set(OPTIMIZERS) - {"adam", "sgd"}))
def test_solvers_of_the_registry_do_what_train_does(solver):
    """From the same weights, with the options that the estimator has parameters for."""
    X, y = load_iris(return_X_y=True)
    rule = OPTIMIZERS[solver]()
    options = {"momentum": 0.8, "beta1": 0.8, "beta2": 0.95, "eps": 1e-6}
    parameters = {"momentum": 0.8, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-6}
    net = gpubp.MLP([4, 5, 3], device="cpu", precision="float64")
    first = [W.copy() for W in net.weights], [b.copy() for b in net.biases]
    plain = {"shuffle": False, "alpha": 0.0, "max_iter": 4, "device": "cpu"}
    clf = MLPClassifier((5,), solver=solver, init=first, **plain, **parameters).fit(X, y)
    chosen = {name: value for name, value in options.items() if name in rule.options}
    gpubp.train(net, X, y, optimizer=solver, optimizer_options=chosen, batch_size=150, epochs=4, shuffle=False)
    np.testing.assert_allclose(clf.coefs_[0], net.weights[0], rtol=1e-9)
    pickle.loads(pickle.dumps(clf)).partial_fit(X, y)
    assert gpubp.to_sklearn(clf).solver == "adam"
