"""What the estimators for tables take as X and y: a column is read alike wherever it comes from."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.metrics import d2_pinball_score

import gpubp
from gpubp.data import read
from gpubp.errors import DataError, UsageError

ROWS = 24
QUICK: dict[str, Any] = {"preset": "fast", "epochs": 1, "device": "cpu-reference"}
NUMBERS = np.arange(ROWS) * 37 % 23 + 0.5
HOURS = np.arange(ROWS) * 37 % 23
TIMES = np.datetime64("2024-01-01T00:00", "ms") + HOURS.astype("timedelta64[h]")
CLASSES = np.arange(ROWS) % 2


def encoded(X: Any) -> np.ndarray:
    encoder = gpubp.TableEncoder("standard", dtype=np.float64).fit(X)
    return np.asarray(encoder.transform(X))


@pytest.mark.parametrize(
    "values",
    [
        NUMBERS,
        [f"${value:,}" for value in 1000 * NUMBERS],
        [str(value) for value in NUMBERS],
        [str(time) for time in TIMES],
        TIMES,
        HOURS.astype("timedelta64[h]").astype("timedelta64[ms]"),
        ["NA" if i % 3 else "x" if i % 2 else "y" for i in range(ROWS)],
        ["true" if i % 3 else "FALSE" for i in range(ROWS)],
        CLASSES > 0,
        [f"{i % 5:03}" for i in range(ROWS)],
        [None if i % 5 == 0 else float(i * 7 % 13) for i in range(ROWS)],
    ],
    ids=["numbers", "money", "texts", "dates", "times", "spans", "missing", "truth", "bool", "codes", "none"],
)
def test_a_column_is_the_same_in_every_container(values: Any) -> None:
    other = NUMBERS[::-1].copy()
    expected = encoded(pd.DataFrame({"c": values, "z": other}))
    assert expected.shape[1] > 1
    for container in (
        pl.DataFrame({"c": values, "z": other}),
        {"c": values, "z": other},
        {"c": list(values), "z": other.tolist()},
    ):
        np.testing.assert_allclose(encoded(container), expected, rtol=1e-12)
    matrix = np.column_stack([np.array(values, object), other.astype(object)])
    np.testing.assert_allclose(encoded(matrix), expected, rtol=1e-12)


def test_spans_of_time_are_seconds_in_whatever_unit_they_are_kept() -> None:
    spans = pd.to_timedelta(HOURS, unit="h")
    assert read(pd.DataFrame({"c": spans.astype("timedelta64[ns]")})).columns["c"].tolist() == (3600.0 * HOURS).tolist()
    encoder = gpubp.TableEncoder("standard").fit(pd.DataFrame({"c": spans.astype("timedelta64[ns]")}))
    expected = encoder.transform(pd.DataFrame({"c": spans.astype("timedelta64[s]")}))
    python_spans = [datetime.timedelta(hours=int(hour)) for hour in HOURS]
    np.testing.assert_array_equal(encoder.transform({"c": python_spans}), expected)
    np.testing.assert_array_equal(encoder.transform(pl.DataFrame({"c": python_spans})), expected)
    assert np.isnan(read(pl.DataFrame({"c": [python_spans[1], None]})).columns["c"][1])


def test_frames_of_polars_need_nothing_but_polars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.DataFrame, "to_pandas", lambda *_: pytest.fail("needs pyarrow"))
    frame = pl.DataFrame(
        {
            "number": pl.Series([Decimal("1.234"), None, Decimal("2.345")] * 8),
            "whole": [1, None, 3] * 8,
            "kind": pl.Series(["1", "2", "1"] * 8, dtype=pl.Enum(["1", "2"])),
            "day": [datetime.date(2024, 1, 1 + i) for i in range(ROWS)],
            "zoned": pl.Series([datetime.datetime(2024, 1, 1, i) for i in range(ROWS)]).dt.replace_time_zone("UTC"),
            "raw": [b"x", b"y"] * 12,
        }
    )
    columns = read(frame).columns
    assert np.nansum(columns["number"]) == pytest.approx(8 * 3.579) and np.isnan(columns["whole"][1])
    assert columns["zoned"][5] - columns["zoned"][0] == 5 * 3600 and columns["day"][1] - columns["day"][0] == 86400
    assert columns["raw"][:2].tolist() == ["x", "y"]
    assert gpubp.TableEncoder().fit(frame[["kind", "whole"]]).get_feature_names_out()[-2:].tolist() == [
        "kind_1",
        "kind_2",
    ]
    clf = gpubp.TabularClassifier(**QUICK).fit(frame, pl.Series(CLASSES))
    assert clf.predict(frame[::-1].reverse()).shape == (ROWS,)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (pd.DataFrame({"c": [[1, 2]] * ROWS}), 'data frame, column "c": values of type list cannot be learned from'),
        (pd.DataFrame({"c": [{"a": 1}] * ROWS}), "values of type dict"),
        (pl.DataFrame({"c": [[1, 2]] * ROWS}), "values of type ndarray"),
        (pl.DataFrame({"c": [{"a": 1}] * ROWS}), "values of type ndarray"),
        (pd.DataFrame({"c": NUMBERS + 1j}), "values of type complex128"),
        (np.column_stack([NUMBERS + 1j, NUMBERS]), 'X, column "0": values of type complex128'),
        (pl.DataFrame({"c": NUMBERS}).lazy(), "X is of type LazyFrame; give a data frame"),
        ("rows.csv", "X is of type str"),
        ([[1, 2], [3]], "all rows need the same length"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_table_is_refused(X: Any, message: str) -> None:
    with pytest.raises(DataError) as error:
        gpubp.TabularRegressor(**QUICK).fit(X, NUMBERS)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_masked_values_are_missing() -> None:
    X = np.ma.masked_less(np.column_stack([NUMBERS, HOURS]), 3.0)
    np.testing.assert_array_equal(encoded(X), encoded(np.ma.filled(X, np.nan)))
    with pytest.raises(DataError, match="the target of row 0 is missing"):
        gpubp.TabularRegressor(**QUICK).fit(HOURS[:, None], np.ma.masked_less(NUMBERS, 1.0))


def test_a_matrix_needs_as_many_columns_as_that_of_fit() -> None:
    X = np.column_stack([NUMBERS, HOURS])
    clf = gpubp.TabularClassifier(**QUICK).fit(X, CLASSES)
    with pytest.raises(DataError, match="X has 3 features, but TabularClassifier is expecting 2 features as input"):
        clf.predict(np.column_stack([CLASSES, X]))
    with pytest.raises(DataError, match="X has 1 features, but TableEncoder is expecting 2"):
        gpubp.TableEncoder().fit(X).transform(X[:, :1])


# -- targets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a", 1] * 12, "y: holds texts and other values, such as 'a' and 1; make all of one type"),
        (pd.Series([pd.NA, 1, 0] * 8, dtype=object), "the target of row 0 is missing"),
        (pd.Series(TIMES).where(CLASSES > 0), "the target of row 0 is missing"),
        (pd.Series(TIMES - TIMES[0]).where(CLASSES == 0), "the target of row 1 is missing"),
        (NUMBERS + 1j, "y: holds complex numbers"),
        (np.full(ROWS, 7), 'y: all 24 rows are of class "7"; there is nothing to learn'),
        (np.zeros((ROWS, 1, 1)), "y has shape (24, 1, 1)"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_are_no_classes_is_said(y: Any, message: str) -> None:
    y = np.array(y, object) if isinstance(y, list) else y
    with pytest.raises(DataError) as error:
        gpubp.TabularClassifier(**QUICK).fit(NUMBERS[:, None], y)
    assert message in str(error.value)


@pytest.mark.parametrize("y", [TIMES, TIMES - TIMES[0]])
def test_times_are_no_values(y: Any) -> None:
    """As numbers they would be in the unit of their type, which differs from one release of pandas to the next."""
    with pytest.raises(DataError, match="y: holds times .* give numbers, such as seconds"):
        gpubp.TabularRegressor(**QUICK).fit(NUMBERS[:, None], y)


@pytest.mark.parametrize("y", [CLASSES.astype(object), (CLASSES > 0).astype(object)])
def test_objects_of_one_type_are_classes(y: Any) -> None:
    clf = gpubp.TabularClassifier(**QUICK).fit(NUMBERS[:, None], y)
    assert clf.classes_.tolist() == sorted(set(y.tolist())) and clf.classes_.dtype.kind in "bi"


@pytest.mark.parametrize("classes", [np.array([5, 7]), np.array(["cat", "dog"])])
def test_a_saved_classifier_predicts_its_classes_by_load_too(classes: Any, tmp_path: Path) -> None:
    clf = gpubp.TabularClassifier(**QUICK).fit({"a": NUMBERS}, classes[CLASSES])
    clf.save(tmp_path / "clf.safetensors")
    loaded = gpubp.load(tmp_path / "clf.safetensors", "cpu-reference")
    predictions = loaded.columns({"a": NUMBERS})
    assert predictions["prediction"].tolist() == clf.predict({"a": NUMBERS}).tolist()
    assert set(predictions) == {"prediction", *(f"probability_{name}" for name in classes)}


def test_bins_are_not_fitted_on_targets_that_are_missing_or_of_other_rows() -> None:
    for y, message in ((np.where(CLASSES, np.nan, 1.5), "row 1 is missing"), ([None] * ROWS, "row 0 is missing")):
        with pytest.raises(DataError, match=message):
            gpubp.TableEncoder().fit(NUMBERS[:, None], y)
    with pytest.raises(UsageError, match="y has 5 rows and X 24"):
        gpubp.TableEncoder().fit(NUMBERS[:, None], NUMBERS[:5])


def test_weights_of_classes_are_refused_by_their_class() -> None:
    with pytest.raises(UsageError, match=r"class_weight\['b'\] = -1 must be finite and not negative"):
        gpubp.TabularClassifier(**QUICK, class_weight={"a": 1, "b": -1}).fit(NUMBERS[:, None], ["a", "b"] * 12)


def test_several_quantiles_are_scored_by_their_pinball_losses() -> None:
    reg = gpubp.TabularRegressor(**QUICK, loss="quantile(0.1, 0.9)").fit(NUMBERS[:, None], NUMBERS)
    predictions = reg.predict(NUMBERS[:, None])
    assert predictions.shape == (ROWS, 2)
    expected = np.mean([d2_pinball_score(NUMBERS, predictions[:, j], alpha=q) for j, q in enumerate((0.1, 0.9))])
    assert reg.score(NUMBERS[:, None], NUMBERS) == pytest.approx(expected) and np.isfinite(reg.oof_score_)
