"""89 combinations of parameters, each fitted twice in a row: weights, curves, epochs and warnings are scikit-learn's.

What L-BFGS finds is compared in test_estimators_parity.py, as far as sums in another order lead to the same place.
"""

from __future__ import annotations

import warnings
from itertools import cycle, product

import numpy as np
import pytest
from test_estimators_parity import TASKS, assert_same, data, pair_for

# Adam's step is g / √v: where g is little but the penalty of a weight near 0, rounding grows a hundredfold in some
# hundred steps (an ulp in scikit-learn's own weights becomes 1e-13). So batches of one row are trained for two epochs.
ROWS = 60
SMALL = {"hidden_layer_sizes": (6, 4), "max_iter": 6, "batch_size": 16, "learning_rate_init": 0.02, "random_state": 1}
STOCHASTIC = ("sgd", "adam")
SGD = ("sgd",)
# Parameters with the values that each has with all of the others'.
GRIDS = [
    {"solver": STOCHASTIC, "activation": ("identity", "logistic", "tanh", "relu")},
    {
        "solver": SGD,
        "learning_rate": ("constant", "invscaling", "adaptive"),
        "momentum": (0.0, 0.9),
        "nesterovs_momentum": (False, True),
    },
    {"solver": STOCHASTIC, "early_stopping": (True,), "validation_fraction": (0.1, 0.3), "tol": (1e-4, 0.05)},
    {"solver": STOCHASTIC, "batch_size": (1, 17, ROWS, 500, "auto"), "max_iter": (2,)},
    {"solver": STOCHASTIC, "alpha": (0.0, 0.1, 10.0)},
    {"solver": STOCHASTIC, "shuffle": (False,)},
    {"solver": STOCHASTIC, "n_iter_no_change": (1, 3, np.inf), "tol": (0.0, 0.5)},
    {"solver": STOCHASTIC, "hidden_layer_sizes": ((), 4, (5,), (7, 3), (4, 4, 4))},
    {"solver": ("adam",), "beta_1": (0.0, 0.5, 0.9), "beta_2": (0.9, 0.999), "epsilon": (1e-8, 0.1)},
    {"solver": SGD, "learning_rate": ("invscaling",), "power_t": (0.1, 1.0)},
    {"solver": STOCHASTIC, "learning_rate_init": (1e-4, 0.1)},
    {"loss": ("poisson",), "solver": STOCHASTIC},
    {"loss": ("poisson",), "early_stopping": (True,)},
]
GRID = [dict(zip(grid, values, strict=True)) for grid in GRIDS for values in product(*grid.values())]
# The tasks in turn, with and without sample weights.
CASES = [
    ("value" if "loss" in changed else task, weighted, changed)
    for changed, task, weighted in zip(GRID, cycle(TASKS), cycle((True, False, True)))
]


def fitted(est, *given):
    """What was said while `est` was fitted, as category and text."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        est.fit(*given)
    return [(warning.category, str(warning.message)) for warning in said]


def name(value):
    return " ".join(f"{key}={value[key]}" for key in value) if isinstance(value, dict) else None


def test_the_grid_is_whole():
    assert len(GRID) == 89 and len({name(changed) for changed in GRID}) == 89
    assert {(task, weighted) for task, weighted, _ in CASES} == set(product(TASKS, (False, True)))


@pytest.mark.thorough
@pytest.mark.parametrize("task, weighted, changed", CASES, ids=name)
def test_weights_curves_epochs_and_warnings_are_scikit_learns(task, weighted, changed, rng):
    X, y = (array[:ROWS] for array in data(task, rng))
    if "loss" in changed:
        y = rng.poisson(np.exp(0.5 * X[:, 0]))
    given = (X, y, rng.uniform(0.1, 2.0, ROWS)) if weighted else (X, y)
    ours, theirs = pair_for(task, **{**SMALL, **changed})
    for warm_start in (False, True):
        for est in (ours, theirs):
            est.set_params(warm_start=warm_start)
        assert fitted(ours, *given) == fitted(theirs, *given)
        assert_same(ours, theirs)
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-12)
        assert (ours.validation_scores_ is None) == (theirs.validation_scores_ is None)
        if ours.validation_scores_ is not None:
            np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-9)
