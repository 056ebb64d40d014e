"""Encoding is fitted on training rows alone, survives JSON, and says aloud what it guesses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

import gpubp
from gpubp.checks import SparseRows
from gpubp.data import PreparedData, RawData, decode, encode, features, prepare, read
from gpubp.data.folds import cut, encode_folds
from gpubp.errors import DataError


def table(**columns: Any) -> RawData:
    arrays = {
        name: np.array(values, dtype=object if any(isinstance(v, str) for v in values) else float)
        for name, values in columns.items()
    }
    return RawData(name="t", kind="table", columns=arrays)


def through_json(ready: PreparedData) -> dict[str, Any]:
    loaded = json.loads(json.dumps(ready.preprocessing, allow_nan=False))
    assert loaded == ready.preprocessing
    return dict(loaded)


def test_table_is_encoded_as_the_definition_says() -> None:
    data = table(
        x=[1.0, 2.0, np.nan, 5.0], constant=[3.0] * 4, colour=["red", None, "blue", "red"], y=[0.5, 1.5, 2.5, 3.5]
    )
    ready = prepare(data, test=0, dtype=np.float64)
    mean, scale = 8 / 3, np.std([1, 2, 5])
    x = (np.array([1, 2, 2, 5]) - mean) / scale  # the median, 2, for the missing one
    expected = np.column_stack([x, [0, 0, 1, 0], [0, 0, 1, 0], [1, 0, 0, 1], [0, 1, 0, 0]])
    np.testing.assert_allclose(ready.train[0], expected, rtol=1e-15, atol=1e-15)
    np.testing.assert_allclose(ready.train[1], (np.array([[0.5], [1.5], [2.5], [3.5]]) - 2) / np.sqrt(1.25))
    assert (ready.n_inputs, ready.n_outputs, ready.task) == (5, 1, "regression")


@pytest.mark.parametrize("source", ["digits", "iris", "diabetes", "breast_cancer"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_encode_after_json_gives_what_prepare_gave(source: str, dtype: Any) -> None:
    ready = prepare(read(source), test=0, validation=None, dtype=dtype)
    X, y = encode(through_json(ready), read(source), dtype=dtype)
    np.testing.assert_array_equal(X, ready.train[0])
    np.testing.assert_array_equal(y, ready.train[1])
    assert X.dtype == dtype and X.flags.c_contiguous and ready.n_inputs == X.shape[1]


def test_nothing_is_fitted_on_test_or_validation_rows(tmp_path: Path, rng: np.random.Generator) -> None:
    data = RawData(name="t", kind="arrays", X=rng.normal(5, 3, (400, 3)), y=rng.normal(size=400))
    ready = prepare(data, test=0.25, validation=0.2, dtype=np.float64)
    assert [len(part[0]) for part in (ready.train, ready.validation, ready.test) if part] == [240, 60, 100]
    np.testing.assert_allclose(ready.train[0].mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(ready.train[0].std(axis=0), 1)
    np.testing.assert_allclose(ready.train[1].std(), 1)
    assert ready.test is not None and abs(ready.test[0].mean()) > 1e-4


def test_test_rows_are_those_of_scikit_learn() -> None:
    ready = prepare(read("digits"), seed=3)
    y = read("digits").y
    train, test = train_test_split(np.arange(1797), test_size=0.2, stratify=y, random_state=3)
    assert y is not None and ready.test is not None
    np.testing.assert_array_equal(ready.test[1], y[np.sort(test)])
    np.testing.assert_array_equal(ready.train[1], y[np.sort(train)])


def test_splits_follow_the_seed_and_keep_rare_classes_in_training() -> None:
    y = np.array([0] * 50 + [1] * 6 + [2])
    data = RawData(name="t", kind="arrays", X=np.arange(57.0)[:, None], y=y)
    first, again, other = (prepare(data, seed=seed) for seed in (0, 0, 1))
    assert first.test is not None and again.test is not None and other.test is not None
    np.testing.assert_array_equal(first.test[0], again.test[0])
    assert not np.array_equal(first.test[0], other.test[0])
    assert 2 in first.train[1] and set(first.test[1]) == {0, 1}


def test_the_sources_own_test_part_is_used_unless_a_fraction_is_asked_for(rng: np.random.Generator) -> None:
    X, y = rng.normal(size=(30, 2)), np.arange(30) % 3
    data = RawData(name="t", kind="arrays", X=X, y=y, X_test=X[:7], y_test=y[:7])
    default, with_fraction, without_test = prepare(data), prepare(data, test=0.5), prepare(data, test=0)
    assert default.test is not None and len(default.test[0]) == 7 and len(default.train[0]) == 30
    assert with_fraction.test is not None and len(with_fraction.test[0]) == 15
    assert without_test.test is None


def test_a_file_of_test_rows(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("a,c,y\n" + "1,u,x\n2,v,z\n3,u,x\n" * 5)
    (tmp_path / "test.csv").write_text("y,c,a,extra\nx,w,1,0\nz,v,2,0\n")
    ready = prepare(read(tmp_path / "train.csv"), test=tmp_path / "test.csv")
    assert ready.test is not None and len(ready.train[0]) == 15
    np.testing.assert_array_equal(ready.test[1], [0, 1])
    np.testing.assert_array_equal(ready.test[0][:, 1:], [[0, 0], [0, 1]])
    assert any('"w"' in note and "did not occur in training" in note for note in ready.notes)


def test_column_order_does_not_matter_and_extra_columns_are_noted(tmp_path: Path) -> None:
    data = read("iris")
    preprocessing = prepare(data).preprocessing
    shuffled = read("iris")
    shuffled.columns = {"extra": np.zeros(150), **dict(reversed(shuffled.columns.items()))}
    np.testing.assert_array_equal(encode(preprocessing, shuffled)[0], encode(preprocessing, data)[0])
    assert shuffled.notes == ['column "extra": the network was not trained on it, ignored']
    del shuffled.columns["species"]
    assert encode(preprocessing, shuffled)[1] is None


def test_a_target_that_is_not_needed_is_not_looked_at() -> None:
    preprocessing = prepare(read("iris")).preprocessing
    rows = read("iris")
    rows.columns["species"] = np.array(["unknown"] * 150, dtype=object)
    assert encode(preprocessing, rows, with_target=False)[1] is None


def test_codes_read_as_numbers_are_still_the_trained_categories(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("code,y\n" + "1,1.5\nA,2.5\n2,3.5\n3.5,4\nB,1\n" * 4)
    (tmp_path / "rows.csv").write_text('code\n1\n3.5\n2\n""\n')
    preprocessing = prepare(read(tmp_path / "train.csv")).preprocessing
    np.testing.assert_array_equal(
        encode(preprocessing, read(tmp_path / "rows.csv"))[0],
        [[1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
    )


def test_identifiers_and_empty_columns_are_left_out_aloud() -> None:
    data = table(name=[f"n{i}" for i in range(60)], empty=[np.nan] * 60, x=range(60), y=[0.5, 1.25, 3] * 20)
    ready = prepare(data)
    assert ready.n_inputs == 1
    assert any('column "name": ' in note and "not used" in note for note in ready.notes)
    assert any('column "empty": ' in note and "not used" in note for note in ready.notes)


def test_missing_numbers_in_arrays_are_imputed_with_an_indicator() -> None:
    X = np.array([[1.0, 5.0], [np.nan, 6.0], [3.0, 7.0], [9.0, np.nan]])
    state = prepare(RawData(name="t", kind="arrays", X=X[:3], y=np.array([0.5, 1, 2])), test=0).preprocessing
    out, _ = encode(state, RawData(name="t", kind="arrays", X=X), dtype=np.float64)
    np.testing.assert_allclose(out, [[-1, -np.sqrt(1.5), 0], [0, 0, 1], [1, np.sqrt(1.5), 0], [7, 0, 0]])


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.bool_, np.float16, np.float32, np.float64])
def test_arrays_of_every_real_type_are_standardized(dtype: Any, rng: np.random.Generator) -> None:
    X = rng.integers(0, 2, (50, 3)).astype(dtype)
    ready = prepare(RawData(name="t", kind="arrays", X=X, y=rng.normal(size=50)), test=0)
    np.testing.assert_allclose(ready.train[0].mean(axis=0), 0, atol=1e-6)
    assert ready.train[0].dtype == np.float32


def test_large_offsets_are_subtracted_in_float64() -> None:
    times = 1.7e9 + np.arange(100.0)[:, None]
    X = prepare(RawData(name="t", kind="arrays", X=times, y=np.arange(100) / 3), test=0).train[0]
    assert len(np.unique(X)) == 100


TARGETS: dict[str, tuple[Any, str, str, int, str]] = {
    "texts": (["a", "b"] * 20, "classification", "cross_entropy", 2, "texts"),
    "few whole": ([3, 5, 8, 5] * 10, "classification", "cross_entropy", 3, "3 different whole numbers"),
    "few whole as float": ([3.0, 5.0] * 20, "classification", "cross_entropy", 2, "2 different whole"),
    "truth": ([True, False] * 20, "classification", "cross_entropy", 2, "2 different whole numbers"),
    "numbered classes": (list(range(30)) * 4, "classification", "cross_entropy", 30, "30 different whole"),
    "ages": (list(range(18, 78)) * 4, "regression", "half_squared_error", 1, "60 different whole numbers"),
    "counts in a few rows": (list(range(12)), "regression", "half_squared_error", 1, "12 different whole"),
    "fractions": ([0.5, 1.5] * 20, "regression", "half_squared_error", 1, "--loss cross_entropy"),
    "labels": ([[0, 1, 1], [1, 0, 0]] * 20, "multilabel", "binary_cross_entropy", 3, "3 columns of 0 and 1"),
    "several values": ([[0.5, 1], [1, 0]] * 20, "regression", "half_squared_error", 2, "read as values"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_the_task_is_inferred_aloud(case: str) -> None:
    y, task, loss, outputs, note = TARGETS[case]
    ready = prepare(RawData(name="t", kind="arrays", X=np.arange(len(y), dtype=float)[:, None], y=np.array(y)))
    assert (ready.task, ready.loss, ready.n_outputs) == (task, loss, outputs)
    assert any(note in line for line in ready.notes)
    expected_shape = (len(ready.train[0]),) if task == "classification" else (len(ready.train[0]), outputs)
    assert ready.train[1].shape == expected_shape


def test_the_last_column_is_the_target_and_that_is_said() -> None:
    ready = prepare(table(a=range(8), b=["x", "y"] * 4))
    assert 'target: last column, "b"; for another, --target' in ready.notes
    assert ready.preprocessing["target"]["name"] == "b"


def test_decoding_classes() -> None:
    preprocessing = prepare(read("iris")).preprocessing
    columns = decode(preprocessing, np.array([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]]))
    assert list(columns) == ["prediction", *(f"probability_{n}" for n in ("setosa", "versicolor", "virginica"))]
    assert columns["prediction"].tolist() == ["versicolor", "setosa"]
    assert columns["probability_versicolor"].tolist() == [0.7, 0.3]


def test_two_classes_with_one_output() -> None:
    ready = prepare(read("breast_cancer"), loss="binary_cross_entropy")
    assert ready.n_outputs == 1 and ready.classes == ["benign", "malignant"] and ready.task == "classification"
    assert ready.train[1].shape == (len(ready.train[0]), 1) and set(np.unique(ready.train[1])) == {0, 1}
    columns = decode(ready.preprocessing, np.array([[0.25], [0.75]]))
    assert columns["prediction"].tolist() == ["benign", "malignant"]
    assert columns["probability_benign"].tolist() == [0.75, 0.25]


def test_decoding_labels_and_values() -> None:
    X = np.arange(8.0)[:, None]
    labels = prepare(RawData(name="t", kind="arrays", X=X, y=np.array([[0, 1], [1, 1]] * 4))).preprocessing
    columns = decode(labels, np.array([[0.9, 0.2]]))
    assert {name: column.tolist() for name, column in columns.items()} == {
        "prediction_0": [1],
        "prediction_1": [0],
        "probability_0": [0.9],
        "probability_1": [0.2],
    }
    y = np.column_stack([X[:, 0] / 3, X[:, 0] * 1000])
    ready = prepare(RawData(name="t", kind="arrays", X=X, y=y), test=0, dtype=np.float64)
    columns = decode(through_json(ready), ready.train[1])
    np.testing.assert_allclose(np.column_stack([columns["prediction_0"], columns["prediction_1"]]), y)


def test_counts_for_poisson_are_not_standardized() -> None:
    data = table(x=range(60), y=range(60))
    ready = prepare(data, loss="poisson", test=0)
    np.testing.assert_array_equal(ready.train[1][:, 0], np.arange(60))
    np.testing.assert_array_equal(decode(ready.preprocessing, ready.train[1])["prediction"], np.arange(60))


def test_digits_share_one_scale_and_can_be_predicted_from_a_plain_array(tmp_path: Path) -> None:
    digits = read("digits")
    ready = prepare(digits)
    assert len(ready.preprocessing["features"]["numbers"]["mean"]) == 1
    np.savez(tmp_path / "rows.npz", X=digits.X)
    X, y = encode(ready.preprocessing, read(tmp_path / "rows.npz"))
    np.testing.assert_array_equal(X, encode(ready.preprocessing, digits)[0])
    assert y is None


def test_housing(shared_data: Path) -> None:
    ready = prepare(read(shared_data / "housing.csv", "median_house_value"))
    assert ready.task == "regression" and ready.n_inputs == 8 + 1 + 5
    assert ready.test is not None and len(ready.test[0]) == 4128
    raw = decode(ready.preprocessing, ready.train[1])["prediction"]
    assert 14_000 < raw.min() and raw.max() < 500_100


def test_folds_of_which_some_are_large_enough_to_be_sparse_are_sparse_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    data = table(a=[f"c{code}" for code in rng.integers(0, 30, 60)], x=rng.normal(size=60), y=rng.normal(size=60))
    data.target = "y"
    splits = [(np.arange(0, 50), np.arange(50, 60)), (np.arange(30, 60), np.arange(0, 30))]
    encodings = [features.fit(data, train) for train, _ in splits]
    target = prepare(data, test=0).preprocessing["target"]
    preprocessings = [{"features": encoding, "target": target} for encoding in encodings]
    arguments = data, np.arange(60), splits, preprocessings, np.float32
    dense = encode_folds(*arguments, padded=True)
    sizes = sorted(60 * features.width(encoding) * 4 for encoding in encodings)
    monkeypatch.setattr(features, "LARGEST_DENSE", (sizes[0] + sizes[1]) / 2)
    sparse = encode_folds(*arguments, padded=True)
    assert sizes[0] < sizes[1] and isinstance(sparse[0].X, SparseRows) and sparse[0].X is sparse[1].X
    np.testing.assert_array_equal(sparse[0].X[:], dense[0].X)


def test_a_large_input_that_is_mostly_zeros_is_sparse_and_trains_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    codes = [None if i % 9 == 0 else f"c{code}" for i, code in enumerate(rng.integers(0, 30, 200))]
    data = table(
        a=codes, b=[f"d{code}" for code in rng.integers(0, 30, 200)], x=rng.normal(size=200), y=rng.normal(size=200)
    )
    dense = prepare(data)
    monkeypatch.setattr("gpubp.data.features.LARGEST_DENSE", 0)
    sparse = prepare(data)
    assert isinstance(sparse.train[0], SparseRows) and isinstance(dense.train[0], np.ndarray)
    assert sparse.notes == dense.notes and sparse.bytes < dense.bytes
    np.testing.assert_array_equal(sparse.train[0][:], dense.train[0])
    curves = []
    for ready in (dense, sparse):
        net = gpubp.MLP([ready.n_inputs, 8, 1], loss=ready.loss, device="cpu-reference")
        gpubp.train(net, *ready.train, validation_data=ready.test, epochs=2)
        assert ready.test is not None
        curves.append([net.theta.tobytes(), net.evaluate(*ready.test), net.forward(ready.test[0]).tobytes()])
    assert curves[0] == curves[1]
    options: dict[str, Any] = {
        "loss": dense.loss,
        "test": 0.2,
        "folds": 3,
        "validation": 0.2,
        "seed": 0,
        "dtype": np.float32,
    }
    (fold, *_), _ = cut(data, **options)
    assert isinstance(fold.X, SparseRows) and fold.X.shape[0] == len(fold.y)
    with pytest.raises(DataError, match="columns, but the network has 3 inputs"):
        gpubp.MLP([3, 2]).forward(sparse.train[0])
