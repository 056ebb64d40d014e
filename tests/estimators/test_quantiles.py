"""Several quantiles of one target in one network."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import d2_pinball_score, make_scorer, mean_pinball_loss
from test_estimators_parity import assert_same

import gpubp
from gpubp import MLPRegressor, UsageError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
QUANTILES = [0.1, 0.5, 0.9]
PARAMETERS = {"hidden_layer_sizes": (6,), "max_iter": 5, "random_state": 0, "batch_size": 40, "device": "cpu"}


def regressor(quantile=QUANTILES, loss="quantile", **parameters):
    return MLPRegressor(loss, quantile=quantile, **{**PARAMETERS, **parameters})


@pytest.fixture
def noisy(rng):
    X = rng.uniform(-2, 2, (230, 2))
    return X, np.sin(X[:, 0]) + 0.3 * rng.standard_normal(230)


@pytest.mark.thorough
def test_each_output_is_below_its_share_of_the_targets(rng):
    X = rng.uniform(-2, 2, (2000, 1))
    y = np.sin(X[:, 0]) + 0.3 * rng.standard_normal(2000)
    reg = regressor(hidden_layer_sizes=(16,), activation="tanh", max_iter=60, learning_rate_init=0.02).fit(X, y)
    predicted = reg.predict(X)
    assert predicted.shape == (2000, 3) and reg.n_outputs_ == 3
    np.testing.assert_allclose((y[:, None] < predicted).mean(axis=0), QUANTILES, atol=0.03)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_every_machine_learns_the_same(machine, estimators_on, solver, weighted, noisy, rng):
    weight = rng.uniform(0.1, 2.0, 230) if weighted else None
    there = regressor(solver=solver).fit(*noisy, weight)
    estimators_on("reference")
    assert_same(there, regressor(solver=solver).fit(*noisy, weight), tolerance=1e-12 if solver == "adam" else 1e-8)


def test_the_ways_to_name_them(noisy):
    X, y = noisy
    by_parameter = regressor().fit(X, y)
    assert_same(regressor(None, "quantile(0.1, 0.5, 0.9)").fit(X, y), by_parameter, 0)
    assert_same(regressor(np.array(QUANTILES)).fit(X, y.reshape(-1, 1).repeat(3, axis=1)), by_parameter, 0)
    assert_same(regressor(0.9).fit(X, y), regressor(None, "quantile(0.9)").fit(X, y), 0)
    assert regressor([0.9]).fit(X, y).predict(X).shape == (230,)
    assert_same(regressor(None).fit(X, y), regressor(0.5).fit(X, y), 0)


def test_a_network_of_the_engine(noisy):
    X, y = noisy
    nets = [gpubp.MLP([2, 6, 3], "tanh", "quantile(0.1, 0.5, 0.9)", precision="float64", device="cpu") for _ in "ab"]
    for net, targets in zip(nets, (y, np.column_stack([y, y, y])), strict=True):
        gpubp.train(net, X, targets, epochs=3, batch_size=50, validation_data=(X, targets))
        assert gpubp.check_gradients(net, X[:5], targets[:5]).ok
    np.testing.assert_array_equal(nets[0].theta, nets[1].theta)
    expected = sum(
        mean_pinball_loss(y, column, alpha=q) for column, q in zip(nets[0].forward(X).T, QUANTILES, strict=True)
    )
    assert nets[0].evaluate(X, y)["loss"] == pytest.approx(expected)
    with pytest.raises(
        UsageError, match=r'layer_sizes end with 2, but loss "quantile\(0.1, 0.5, 0.9\)" is for 3 outputs'
    ):
        gpubp.MLP([2, 2], [], "quantile(0.1, 0.5, 0.9)")


def test_it_is_scored_by_the_pinball_loss(noisy, rng):
    X, y = noisy
    weight = rng.uniform(0.1, 2.0, 230)
    reg = regressor(early_stopping=True, n_iter_no_change=3, max_iter=20)
    reg.fit(X, y, validation_data=(X, y, weight))
    columns = zip(reg.predict(X).T, QUANTILES, strict=True)
    expected = np.mean([d2_pinball_score(y, column, alpha=q, sample_weight=weight) for column, q in columns])
    assert reg.score(X, y, weight) == pytest.approx(expected)
    assert reg.best_validation_score_ == pytest.approx(expected)

    def lowest(y, predicted):
        assert y.shape == (len(predicted),)
        return d2_pinball_score(y, predicted[:, 0], alpha=0.1)

    own = clone(reg).set_params(early_stopping_metric=make_scorer(lowest)).fit(X, y, validation_data=(X, y))
    assert own.best_validation_score_ == pytest.approx(lowest(y, own.predict(X)))


@pytest.mark.filterwarnings("ignore:.* rows were drawn by every member")
def test_copies_files_searches_and_ensembles(noisy, tmp_path):
    X, y = noisy
    reg = regressor().fit(X, y)
    reg.save(tmp_path / "reg.safetensors")
    again = MLPRegressor.load(tmp_path / "reg.safetensors", device="cpu")
    np.testing.assert_array_equal(again.predict(X), reg.predict(X))
    assert again.score(X, y) == reg.score(X, y)
    assert_same(clone(reg).fit(X, y), reg, 0)
    assert clone(reg).partial_fit(X, y).predict(X).shape == (230, 3)
    grid = {"quantile": [QUANTILES, [0.2, 0.8], 0.5]}
    search = gpubp.MLPSearchCV(regressor(), grid, cv=2, progress=False, error_score="raise").fit(X, y)
    one_by_one = [
        clone(reg).set_params(quantile=q).fit(X[:115], y[:115]).score(X[115:], y[115:]) for q in grid["quantile"]
    ]
    np.testing.assert_allclose(search.cv_results_["split1_test_score"], one_by_one, rtol=1e-12)
    ensemble = gpubp.MLPEnsembleRegressor(regressor(), n_estimators=4, bootstrap=True, oob_score=True).fit(X, y)
    mean = np.mean([est.predict(X) for est in ensemble.estimators_], axis=0)
    np.testing.assert_allclose(ensemble.predict(X), mean)
    assert np.isfinite(ensemble.oob_score_) and ensemble.score(X, y) == pytest.approx(reg._score_of(y, mean, None))


def test_targets_on_a_gpu(gpu, noisy):
    X, y = noisy
    there = regressor(device="auto").fit(gpu.to_device(X), gpu.to_device(y))
    np.testing.assert_allclose(there.predict(X), regressor().fit(X, y).predict(X), rtol=1e-9)


@pytest.mark.parametrize(
    ("parameters", "columns", "message"),
    [
        ({"quantile": 1.5}, 1, "The 'quantile' parameter of MLPRegressor must be"),
        ({"quantile": [0.1, 1.5]}, 1, "quantile: q=1.5 does not fit"),
        ({"quantile": []}, 1, "quantile is empty"),
        ({"quantile": 0.9, "loss": "huber"}, 1, "quantile=0.9 is for loss=\"quantile\", and the loss is 'huber'"),
        ({}, 2, "y has 2 columns, but there are 3 quantiles; .*MultiOutputRegressor"),
    ],
)
def test_what_does_not_fit_is_named(parameters, columns, message, noisy):
    X, y = noisy
    with pytest.raises(ValueError, match=message):
        regressor(**parameters).fit(X, np.column_stack([y] * columns))
