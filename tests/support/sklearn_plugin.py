"""A pytest plugin that runs scikit-learn's own tests of its MLPs on gpubp's.

    pytest -p support.sklearn_plugin --pyargs sklearn.neural_network.tests.test_mlp [--backend cuda-host]

It rebinds the two names before the tests are collected and reports how many fits it intercepted: a run
that intercepted none has tested scikit-learn, and fails. What the tests ask of scikit-learn's private
interface beyond what gpubp's estimators have of their own is here and nowhere else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.neural_network

import gpubp.network
from gpubp import estimators
from gpubp.estimators.data import Subset
from gpubp.estimators.solvers.lbfgs import Objective
from support.machines import BACKENDS, GPU_BACKENDS

intercepted = {"fits": 0}


class _Counted:
    def _fit(self, *args: Any, **kwargs: Any) -> Any:
        intercepted["fits"] += 1
        return super()._fit(*args, **kwargs)


class MLPClassifier(_Counted, estimators.MLPClassifier):
    """gpubp's, with the private method that ``test_gradient`` calls."""

    def _loss_grad_lbfgs(self, packed: Any, X: Any, Y: Any, sample_weight: Any, *buffers: Any) -> Any:
        """Loss and gradient at weights and biases packed as scikit-learn packs them, for one-hot Y."""
        net = self._network()
        y = Y if Y.shape[1] == 1 else Y.argmax(axis=1)
        objective = Objective(net, Subset(X, y, sample_weight, np.arange(len(X))), self.alpha, label_smoothing=0.0)
        arrays, start = [], 0
        theta = np.zeros(net.theta.shape)
        layers = net.layout.layers(theta)
        for view in [*(layer.W for layer in layers), *(layer.b for layer in layers)]:
            view[...] = packed[start : start + view.size].reshape(view.shape)
            start += view.size
        loss, gradient = objective(theta[0])
        layers = net.layout.layers(gradient[None])
        arrays = [*(layer.W for layer in layers), *(layer.b for layer in layers)]
        return loss, np.hstack([array.ravel() for array in arrays])


class MLPRegressor(_Counted, estimators.MLPRegressor):
    """gpubp's."""


sklearn.neural_network.MLPClassifier = MLPClassifier
sklearn.neural_network.MLPRegressor = MLPRegressor


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", help="what every estimator computes on: reference, compiled, cuda-host, cuda")


def pytest_configure(config: pytest.Config) -> None:
    if name := config.getoption("--backend"):
        gpubp.network.get_backend = lambda device, precision: {**BACKENDS, **GPU_BACKENDS}[f"{name}-{precision}"]()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"gpubp: {intercepted['fits']} fits intercepted")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not intercepted["fits"]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
