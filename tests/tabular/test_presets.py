"""Presets for tables: what they train, how recipes are weighed, and what happens to odd tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import log_loss

import gpubp
from gpubp.errors import DataError, UsageError
from gpubp.losses import get_loss
from gpubp.tabular import fitting, fold_rows
from gpubp.tabular.epochs import arguments_on_all_rows
from gpubp.tabular.model import TabularModel
from gpubp.tabular.recipes import PRESETS, RECIPES, get_preset
from gpubp.tabular.selection import greedy_weights, row_losses

QUICK: dict[str, Any] = {"epochs": 2, "device": "cpu"}


def columns(rng: np.random.Generator, rows: int = 90) -> tuple[dict[str, Any], np.ndarray]:
    """A table with a missing number and a category, and values that follow from it."""
    x = rng.normal(size=(2, rows))
    colour = rng.choice(["red", "blue", "green"], rows).astype(object)
    y = 10 * x[0] + 5 * (colour == "red") + 100
    x[1, ::7], colour[::11] = np.nan, None
    return {"a": x[0], "b": x[1], "colour": colour}, y


def rows_of(table: dict[str, Any], rows: Any) -> dict[str, Any]:
    return {name: values[rows] for name, values in table.items()}


# -- recipes and weights -------------------------------------------------------------------------------


def test_presets_name_recipes_that_there_are() -> None:
    for preset in PRESETS.values():
        assert set(preset.recipes) <= set(RECIPES)
    with pytest.raises(UsageError, match='unknown preset "bst"; did you mean "best"'):
        get_preset("bst")


def test_losses_of_rows_are_those_of_scikit_learn(rng: np.random.Generator) -> None:
    p, y = rng.dirichlet(np.ones(3), 50), np.arange(50) % 3
    assert row_losses(get_loss("cross_entropy"), p, y).mean() == pytest.approx(log_loss(y, p))
    z, targets = rng.normal(size=(2, 50, 1))
    squares = row_losses(get_loss("half_squared_error"), z, targets)
    np.testing.assert_allclose(squares, (z - targets)[:, 0] ** 2 / 2)
    labels = (rng.random((50, 2)) > 0.5).astype(float)
    expected = np.mean([log_loss(labels[:, j], p[:, j], labels=[0, 1]) for j in range(2)])
    assert row_losses(get_loss("binary_cross_entropy"), p[:, :2], labels).mean() == pytest.approx(expected)


def test_weights_prefer_what_improves_the_mean(rng: np.random.Generator) -> None:
    y, noise = rng.normal(size=(400, 1)), rng.normal(size=(3, 400, 1))
    loss = get_loss("half_squared_error")
    alike = greedy_weights(loss, [y + noise[0], y + noise[1]], y)
    np.testing.assert_allclose(alike, 0.5, atol=0.1)  # errors that are independent cancel
    assert greedy_weights(loss, [y + noise[0], y + 30 * noise[1]], y).tolist() == [1, 0]
    of_first_half = np.repeat([1.0, 0.0], 200)
    halves = [np.where(np.arange(400)[:, None] < 200, y, 9.0), np.where(np.arange(400)[:, None] < 200, 9.0, y)]
    assert greedy_weights(loss, halves, y, of_first_half).tolist() == [1, 0]


# -- estimators ----------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_regressor_learns_a_table_and_survives_a_file(tmp_path: Path, rng: np.random.Generator) -> None:
    table, y = columns(rng, 240)
    reg = gpubp.TabularRegressor("good", epochs=60, device="cpu").fit(rows_of(table, slice(200)), y[:200])
    assert reg.score(rows_of(table, slice(200, None)), y[200:]) > 0.9
    assert reg.oof_score_ > 0.9 and reg.oof_prediction_.shape == (200,)
    assert reg.recipe_weights_ == {"forest": 1.0} and reg.model_.models == 8
    predicted = reg.predict(rows_of(table, slice(200, None)))
    assert predicted.min() >= y[:200].min() and predicted.max() <= y[:200].max()  # within the range of training
    reg.save(tmp_path / "m.safetensors")
    loaded = gpubp.TabularRegressor.load(tmp_path / "m.safetensors", "cpu")
    np.testing.assert_array_equal(loaded.predict(rows_of(table, slice(200, None))), predicted)
    assert loaded.get_params() == reg.get_params()
    with pytest.raises(DataError, match="load it with TabularRegressor.load"):
        gpubp.TabularClassifier.load(tmp_path / "m.safetensors")
    with pytest.raises(DataError, match="networks of a preset for tables"):
        gpubp.MLP.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("kind", [gpubp.TabularClassifier, gpubp.TabularRegressor])
@pytest.mark.parametrize("method", ["predict", "predict_proba", "score", "permutation_importances", "save"])
def test_what_is_not_fitted_says_so(kind: Any, method: str) -> None:
    if not hasattr(kind, method):
        return
    arguments = {"save": ("model.safetensors",), "predict": ([[1.0]],), "predict_proba": ([[1.0]],)}
    with pytest.raises(NotFittedError, match=f"This {kind.__name__} instance is not fitted yet"):
        getattr(kind(), method)(*arguments.get(method, ([[1.0]], [1.0])))


def test_out_of_fold_predictions_come_from_networks_that_did_not_see_the_row(rng: np.random.Generator) -> None:
    """Targets that follow from nothing cannot be predicted out of fold, however well they are learned by heart."""
    X, y = rng.normal(size=(80, 5)), rng.normal(size=80)
    reg = gpubp.TabularRegressor("good", epochs=80, device="cpu").fit(X, y)
    assert reg.oof_score_ + 0.1 < reg.score(X, y)


@pytest.mark.thorough
def test_a_classifier_has_the_classes_of_its_targets(tmp_path: Path, rng: np.random.Generator) -> None:
    table, values = columns(rng)
    labels = np.where(values > 100, "high", "low")
    clf = clone(gpubp.TabularClassifier("best", class_weight="balanced", **QUICK)).fit(table, labels)
    assert clf.classes_.tolist() == ["high", "low"]
    assert clf.oof_proba_.shape == (90, 2) and not np.isnan(clf.oof_proba_).any()
    np.testing.assert_allclose(clf.predict_proba(table).sum(axis=1), 1, rtol=1e-6)
    assert set(clf.predict(table)) <= {"high", "low"}
    assert sum(clf.recipe_weights_.values()) == pytest.approx(1)
    clf.save(tmp_path / "m.safetensors")
    again = gpubp.TabularClassifier.load(tmp_path / "m.safetensors", "cpu")
    assert again.predict(table).tolist() == clf.predict(table).tolist()
    assert again.classes_.dtype == clf.classes_.dtype


def test_fast_is_one_network_with_a_part_to_validate_on(rng: np.random.Generator) -> None:
    table, y = columns(rng)
    reg = gpubp.TabularRegressor("fast", **QUICK).fit(table, y)
    assert reg.model_.models == 1
    assert np.isnan(reg.oof_prediction_).sum() == 72


def test_fast_ends_on_all_rows_and_its_validation_does_not_see_it(rng: np.random.Generator) -> None:
    table, y = columns(rng)
    given: dict[str, Any] = {"epochs": 10, "device": "cpu"}
    reg = gpubp.TabularRegressor("fast", **given).fit(table, y)
    validated = ~np.isnan(reg.oof_prediction_)
    assert validated.sum() == 18
    seen = reg.predict(rows_of(table, validated))
    assert np.abs(seen - y[validated]).mean() < np.abs(reg.oof_prediction_[validated] - y[validated]).mean()


def test_epochs_are_spent_on_training_rows_and_then_on_all() -> None:
    fast, good = get_preset("fast").spend(60), get_preset("good").spend(60)
    assert (fast.validated, fast.on_all_rows, fast.patience) == (48, 12, 24)
    assert (good.validated, good.on_all_rows, good.patience) == (60, 0, 60)
    assert get_preset("fast").spend(1).validated == 1
    assert [arguments_on_all_rows(0.1, 12, best)["epochs"] for best in (0, 6, 47)] == [1, 3, 12]
    assert arguments_on_all_rows(0.1, 12, [6, 47])["epochs"] == [3, 12]


def test_epochs_on_all_rows_that_diverge_leave_the_validated_network(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, y = columns(rng)
    monkeypatch.setattr("gpubp.tabular.epochs.RATE_ON_ALL_ROWS", 1e33)
    reg = gpubp.TabularRegressor("fast", epochs=10, device="cpu").fit(table, y)
    validated = ~np.isnan(reg.oof_prediction_)
    np.testing.assert_allclose(reg.predict(rows_of(table, validated)), reg.oof_prediction_[validated], rtol=1e-5)


def test_sample_weights_count(rng: np.random.Generator) -> None:
    """Rows of weight 0 might as well have any target."""
    X, weight = rng.normal(size=(60, 2)), np.repeat([1.0, 0.0], 30)
    y = X[:, 0].copy()
    spoilt = np.where(weight > 0, y, y[::-1])
    one, other = (
        gpubp.TabularRegressor("fast", **QUICK).fit(X, t, sample_weight=weight).model_.members[0].net
        for t in (y, spoilt)
    )
    assert one.models == 1
    with pytest.raises(DataError, match="sample_weight"):
        gpubp.TabularRegressor("fast", **QUICK).fit(X, y, sample_weight=-weight)
    with pytest.raises(DataError, match="sample_weight leaves every row"):
        gpubp.TabularRegressor("good", **QUICK).fit(X, y, sample_weight=np.arange(len(y)) == 0)
    assert other.parameters == one.parameters


@pytest.mark.thorough
def test_data_frames_and_importances(rng: np.random.Generator) -> None:
    pandas = pytest.importorskip("pandas")
    table, y = columns(rng, 150)
    frame = pandas.DataFrame(table)
    reg = gpubp.TabularRegressor("fast", epochs=60, device="cpu").fit(frame, y)
    assert reg.feature_names_in_.tolist() == ["a", "b", "colour"]
    importances = reg.permutation_importances(frame, y, n_repeats=2)
    assert next(iter(importances)) == "a" and importances["a"][0] > importances["b"][0]
    np.testing.assert_array_equal(reg.predict(frame[["colour", "b", "a"]]), reg.predict(frame))


def test_several_values_are_predicted_at_once(rng: np.random.Generator) -> None:
    table, y = columns(rng)
    reg = gpubp.TabularRegressor("fast", **QUICK).fit(table, np.column_stack([y, -y]))
    assert reg.predict(table).shape == (90, 2)


def test_what_a_fold_does_not_see_is_not_in_its_encoding(rng: np.random.Generator) -> None:
    table, y = columns(rng)
    table["colour"][5] = "violet"  # once: seven folds of eight know it
    reg = gpubp.TabularRegressor("good", **QUICK).fit(table, y)
    (member,) = reg.model_.members
    known = ["violet" in encoding["categories"][0]["values"] for encoding in member.encodings]
    assert sum(known) == 7
    assert len({json.dumps(encoding["numbers"]) for encoding in member.encodings}) == 8


def test_without_memory_for_an_encoding_each_folds_share_one(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, y = columns(rng)
    monkeypatch.setattr(fold_rows, "MOST_BYTES", 1000)
    reg = gpubp.TabularRegressor("good", **QUICK).fit(table, y)
    first, *others = reg.model_.members[0].encodings
    assert all(encoding == first for encoding in others)


# -- odd tables ----------------------------------------------------------------------------------------


def test_three_rows_are_enough_for_values() -> None:
    reg = gpubp.TabularRegressor("good", **QUICK).fit([[1.0], [2.0], [4.0]], [1.0, 2.0, 3.0])
    assert reg.model_.models == 3 and 1 <= reg.predict([[3.0]])[0] <= 3


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ([[1.0]], [1.0], "1 row"),
        ([[1.0], [2.0]], [5.0, 5.0], "5 in all 2 rows; there is nothing to learn"),
        ([[1.0], [2.0]], [5.0, np.nan], "the target of row 1 is missing"),
        ([[1.0], [2.0]], ["a", "b"], "y: holds texts"),
        ([[1.0], [1.0]], [1.0, 2.0], "no column is left to learn from"),
        ([[1.0], [2.0]], [1.0], "y has 1 rows and X 2"),
        (np.empty((0, 2)), [], "some of both"),
        ({}, [], "one at least"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(X: Any, y: Any, message: str) -> None:
    with pytest.raises((DataError, UsageError)) as error:
        gpubp.TabularRegressor("fast", **QUICK).fit(X, y)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("y", "message"),
    [(["a"] * 12, "nothing to learn"), ([1.5, 2.5] * 6, "give a class a row"), (range(12), "too many")],
)
def test_what_are_no_classes_is_refused(y: Any, message: str) -> None:
    with pytest.raises(DataError) as error:
        gpubp.TabularClassifier("fast", **QUICK).fit(np.arange(24.0).reshape(12, 2), list(y))
    assert message in str(error.value)


def test_a_class_may_be_absent_from_folds(capsys: pytest.CaptureFixture[str], rng: np.random.Generator) -> None:
    y = np.array(["a"] * 20 + ["b"] * 20 + ["rare"])
    clf = gpubp.TabularClassifier("good", verbose=True, **QUICK).fit(rng.normal(size=(41, 2)), y)
    assert clf.predict_proba(np.zeros((1, 2))).shape == (1, 3)
    assert 'class "rare": 1 training row(s) for 8 folds' in capsys.readouterr().out


@pytest.mark.thorough
def test_all_columns_may_be_categories_and_one_may_swallow_the_target(rng: np.random.Generator) -> None:
    y = np.array(["yes", "no"] * 30)
    table = {"says": np.where(y == "yes", "1a", "0b"), "other": rng.choice(["u", "v"], 60)}
    clf = gpubp.TabularClassifier("fast", epochs=60, device="cpu").fit(table, y)
    assert clf.score(table, y) == 1


def test_very_many_columns_are_just_scaled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rng: np.random.Generator
) -> None:
    monkeypatch.setattr(fold_rows, "MOST_INPUTS", 300)
    X = rng.normal(size=(40, 50))
    reg = gpubp.TabularRegressor("good", verbose=True, **QUICK).fit(X, X[:, 0])
    assert reg.model_.members[0].net.layer_sizes[0] == 50
    assert "numbers: robust, since" in capsys.readouterr().out


def test_a_time_limit_is_kept_or_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    X = rng.normal(size=(100, 3))
    with pytest.raises(UsageError, match="too short for one epoch"):
        gpubp.TabularRegressor("best", time_limit=1e-9, device="cpu").fit(X, X[:, 0])
    for limit in (0, "5", np.nan):
        with pytest.raises(UsageError, match=f"time_limit={limit!r} does not fit; give seconds"):
            gpubp.TabularRegressor("best", time_limit=limit, device="cpu").fit(X, X[:, 0])
    monkeypatch.setattr(fitting._PresetFit, "_seconds_of_epoch", lambda *_: 10.0)
    reg = gpubp.TabularRegressor("best", time_limit=200.0, epochs=40, device="cpu", verbose=True).fit(X, X[:, 0])
    said = capsys.readouterr().out
    assert 1 <= len(reg.recipe_weights_) < 3
    assert "no time for the recipes" in said and "of the epochs" in said


def test_a_damaged_file_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    from gpubp import serialization

    serialization.save(tmp_path / "m.safetensors", {}, {"tabular": [{"recipe": "quantiles"}]})
    with pytest.raises(DataError, match="damaged or from another version"):
        TabularModel.load(tmp_path / "m.safetensors")
    gpubp.MLP([2, 1], loss="half_squared_error", device="cpu-reference").save(tmp_path / "net.safetensors")
    with pytest.raises(DataError, match="load it with gpubp.MLP.load"):
        gpubp.TabularRegressor.load(tmp_path / "net.safetensors")
