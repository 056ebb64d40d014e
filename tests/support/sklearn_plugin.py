"""A pytest plugin that runs scikit-learn's own tests of its MLPs on gpubp's.

    pytest -p support.sklearn_plugin --pyargs sklearn.neural_network.tests.test_mlp [--backend cuda-host]

It rebinds the two names before the tests are collected and reports how many fits it intercepted: a run
that intercepted none has tested scikit-learn, and fails. It only counts: what the tests ask of scikit-learn's
private interface, gpubp's estimators have.
"""

from __future__ import annotations

from typing import Any

import pytest
import sklearn.neural_network

from gpubp import estimators
from support.estimators import compute_on

intercepted = {"fits": 0}


class _Counted:
    def _fit(self, *args: Any, **kwargs: Any) -> Any:
        intercepted["fits"] += 1
        return super()._fit(*args, **kwargs)


class MLPClassifier(_Counted, estimators.MLPClassifier):
    """gpubp's."""


class MLPRegressor(_Counted, estimators.MLPRegressor):
    """gpubp's."""


sklearn.neural_network.MLPClassifier = MLPClassifier
sklearn.neural_network.MLPRegressor = MLPRegressor


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", help="what every estimator computes on: reference, compiled, cuda-host, cuda")


def pytest_configure(config: pytest.Config) -> None:
    if name := config.getoption("--backend"):
        compute_on(name, pytest.MonkeyPatch())


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"gpubp: {intercepted['fits']} fits intercepted")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not intercepted["fits"]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
