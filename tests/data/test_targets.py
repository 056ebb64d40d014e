"""What is predicted: classes however they are written, labels and values, and what they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import mean_pinball_loss

from gpubp.cli.metrics import measure
from gpubp.data import RawData, decode, encode, prepare, read
from gpubp.errors import DataError, UsageError

CODES = np.arange(60) % 3
ONE_HOT = np.eye(3)[CODES]
INPUTS = np.arange(120.0).reshape(60, 2)


def arrays(y: Any, **options: Any) -> RawData:
    return RawData(name="t", kind="arrays", X=INPUTS, y=np.asarray(y), **options)


def save(folder: Path, ending: str) -> Path:
    """One-hot targets in a file of this format."""
    path = folder / f"t{ending}"
    if ending == ".npz":
        np.savez(path, X=INPUTS, y=ONE_HOT)
    elif ending == ".npy":
        path = folder / "x_train.npy"
        np.save(path, INPUTS)
        np.save(folder / "y_train.npy", ONE_HOT)
    elif ending == ".h5":
        h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py")
        with h5py.File(path, "w") as file:
            file["X"], file["y"] = INPUTS, ONE_HOT
    return path


@pytest.mark.parametrize("ending", [".npz", ".npy", ".h5"])
def test_one_hot_rows_are_classes(ending: str, tmp_path: Path) -> None:
    ready = prepare(read(save(tmp_path, ending)), test=0)
    assert (ready.task, ready.loss, ready.n_outputs, ready.classes) == (
        "classification",
        "cross_entropy",
        3,
        [0, 1, 2],
    )
    np.testing.assert_array_equal(ready.train[1], CODES)
    assert any("one 1 in every row, read as classes" in note and "binary_cross_entropy" in note for note in ready.notes)
    assert decode(ready.preprocessing, np.eye(3))["prediction"].tolist() == [0, 1, 2]


def test_columns_of_one_hot_rows_without_a_one_are_classes_too() -> None:
    ready = prepare(arrays(np.eye(5)[CODES]), test=0)
    assert ready.n_outputs == 5
    np.testing.assert_array_equal(encode(ready.preprocessing, arrays(CODES))[1], CODES)


@pytest.mark.parametrize("bad", [ONE_HOT[:, :2], np.ones((60, 3))])
def test_a_matrix_that_is_not_one_hot_as_in_training_is_refused(bad: Any) -> None:
    ready = prepare(arrays(ONE_HOT), test=0)
    with pytest.raises(DataError, match="one-hot rows as in training"):
        encode(ready.preprocessing, arrays(bad))


def test_labels_are_labels_where_that_is_asked_for_or_a_row_has_another_number_of_them() -> None:
    assert prepare(arrays(ONE_HOT), loss="binary_cross_entropy").task == "multilabel"
    several = ONE_HOT.copy()
    several[7] = [1, 1, 0]
    assert prepare(arrays(several)).task == "multilabel"
    with pytest.raises(DataError, match="takes one class a row"):
        prepare(arrays(several), loss="cross_entropy")


def test_names_of_classes_travel_into_predictions() -> None:
    ready = prepare(arrays(CODES, class_names=["wolf", "cat", "ant"]), test=0)
    assert ready.classes == ["wolf", "cat", "ant"]
    np.testing.assert_array_equal(ready.train[1], CODES)
    columns = decode(ready.preprocessing, np.eye(3)[[2, 0]])
    assert columns["prediction"].tolist() == ["ant", "wolf"]
    assert list(columns)[1:] == ["probability_wolf", "probability_cat", "probability_ant"]
    # Later data may say the numbers or the names.
    np.testing.assert_array_equal(encode(ready.preprocessing, arrays(CODES))[1], CODES)
    texts = np.array(["wolf", "cat", "ant"])[CODES]
    np.testing.assert_array_equal(encode(ready.preprocessing, arrays(texts))[1], CODES)
    with pytest.raises(DataError, match='class "3" does not occur in training; known: wolf, cat, ant'):
        encode(ready.preprocessing, arrays(CODES + 1))


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "b"]])
def test_names_that_do_not_fit_the_numbers_are_not_used(names: list[str]) -> None:
    assert prepare(arrays(CODES, class_names=names)).classes == [0, 1, 2]


def table_file(folder: Path, matrix: Any, names: str = "ant,bee,cat", name: str = "t.csv") -> Path:
    path = folder / name
    rows = (f"{i % 7},{','.join(map(str, row))}\n" for i, row in enumerate(np.asarray(matrix).tolist()))
    path.write_text(f"size,{names}\n" + "".join(rows))
    return path


def test_several_target_columns_that_are_one_hot_are_classes_called_by_their_names(tmp_path: Path) -> None:
    path = table_file(tmp_path, ONE_HOT)
    ready = prepare(read(path, "ant,bee, cat"), test=path)
    assert (ready.task, ready.n_inputs, ready.classes) == ("classification", 1, ["ant", "bee", "cat"])
    assert ready.test is not None
    np.testing.assert_array_equal(ready.test[1], CODES)
    data = read(path)
    np.testing.assert_array_equal(encode(ready.preprocessing, data)[1], CODES)
    assert data.notes == []
    assert decode(ready.preprocessing, np.eye(3))["prediction"].tolist() == ["ant", "bee", "cat"]


def test_several_target_columns_may_be_labels_or_values(tmp_path: Path) -> None:
    labels = prepare(read(table_file(tmp_path, [["True", "False", "True"], ["False"] * 3] * 20), "ant,bee,cat"), test=0)
    assert labels.task == "multilabel"
    assert labels.train[1][:2].tolist() == [[1, 0, 1], [0, 0, 0]]
    assert list(decode(labels.preprocessing, np.zeros((1, 3))))[::3] == ["prediction_ant", "probability_ant"]
    matrix = np.arange(120.0).reshape(40, 3) / 7
    values = prepare(read(table_file(tmp_path, matrix), "ant,bee,cat"), test=0, dtype=np.float64)
    columns = decode(values.preprocessing, values.train[1])
    np.testing.assert_allclose(np.column_stack([columns[f"prediction_{n}"] for n in ("ant", "bee", "cat")]), matrix)


def test_several_target_columns_must_be_there_and_hold_numbers(tmp_path: Path) -> None:
    path = table_file(tmp_path, [["1", "red"], ["2", "blue"]] * 10, "ant,bee")
    with pytest.raises(UsageError, match='there is no column "be"; did you mean "bee"'):
        read(path, "ant,be")
    with pytest.raises(DataError, match='line 2, column "bee": "red" is not a number'):
        read(path, "ant,bee")


# -- output activations ---------------------------------------------------------------------------------------


def scaled(y: Any, output: str, loss: str = "half_squared_error") -> tuple[np.ndarray, dict[str, Any], list[str]]:
    """The targets as a network with this output activation sees them, how they are decoded, and what was said."""
    ready = prepare(arrays(y), loss=loss, output_activation=output, test=0, dtype=np.float64)
    raw = decode(ready.preprocessing, ready.train[1])["prediction"]
    np.testing.assert_allclose(raw, y, rtol=1e-9, atol=1e-9)
    return ready.train[1][:, 0], ready.preprocessing, [note for note in ready.notes if "outputs of" in note]


@pytest.mark.parametrize("output", ["relu", "softplus", "exponential"])
def test_values_are_scaled_without_a_shift_for_outputs_that_are_not_negative(output: str) -> None:
    y = 1e6 + 1e5 * np.sin(np.arange(60.0))
    seen, preprocessing, notes = scaled(y, output)
    assert seen.min() > 0 and 0.5 < seen.mean() < 2
    assert decode(preprocessing, np.zeros((1, 1)))["prediction"] == [0]
    assert notes == [f"target: scaled and not shifted, for outputs of {output} lie in [0, inf]"]
    with pytest.raises(DataError, match=rf"row 1, column \"y\": -5.0 .* outputs of {output}.*--output-activation"):
        prepare(arrays(np.arange(60.0) / 2 - 5), loss="huber", output_activation=output)


@pytest.mark.parametrize("output", ["elu", "selu", "gelu", "silu", "mish", "elu(0.5)"])
def test_values_stay_above_the_least_output(output: str) -> None:
    from gpubp.activations import get_activation

    seen, _, _ = scaled(np.linspace(-30.0, 50.0, 60), output)
    assert seen.min() >= get_activation(output).bounds[0]


@pytest.mark.parametrize(("output", "low", "high"), [("sigmoid", 0, 1), ("tanh", -1, 1)])
def test_values_are_brought_into_the_range_of_bounded_outputs(output: str, low: float, high: float) -> None:
    seen, _, notes = scaled(np.linspace(-3.0, 250.0, 60), output)
    margin = 0.1 * (high - low)
    assert seen.min() == pytest.approx(low + margin) and seen.max() == pytest.approx(high - margin)
    assert "middle of the range" in notes[0]
    fractions = np.linspace(0.2, 0.9, 60)
    np.testing.assert_array_equal(scaled(fractions, output)[0], fractions)
    assert np.ptp(scaled(fractions / 100, output)[0]) == pytest.approx(0.8 * (high - low))
    scaled(np.full(60, 7.5), output)


def test_shares_for_softmax_stay_raw_and_must_sum_to_one() -> None:
    shares = np.column_stack([np.linspace(0.1, 0.7, 60), np.linspace(0.9, 0.3, 60)])
    ready = prepare(arrays(shares), loss="half_squared_error", output_activation="softmax", test=0, dtype=np.float64)
    np.testing.assert_array_equal(ready.train[1], shares)
    with pytest.raises(DataError, match="row 1.*sums to 2.*softmax"):
        prepare(arrays(2 * shares), loss="half_squared_error", output_activation="softmax")


def test_identity_outputs_are_standardized_as_ever() -> None:
    seen, _, notes = scaled(np.linspace(3.0, 9.0, 60), "identity")
    assert seen.mean() == pytest.approx(0) and seen.std() == pytest.approx(1)
    assert notes == []
    counts, _, _ = scaled(np.arange(60.0), "auto", "poisson")
    np.testing.assert_array_equal(counts, np.arange(60.0))


SQUARED = {"loss": "half_squared_error", "test": 0}


@pytest.mark.parametrize(
    ("data", "output"),
    [
        (arrays(np.array(["a", "b", "c"])[CODES]), "auto"),
        (arrays(ONE_HOT), "auto"),
        (arrays(CODES), "sigmoid"),
        (arrays(CODES), "softmax"),
        (arrays(CODES, one_unit=True), "auto"),
        (RawData(name="t", kind="images", X=INPUTS.astype(np.uint8), y=CODES), "auto"),
    ],
    ids=["texts", "one-hot", "sigmoid", "softmax", "pixels in one unit", "pictures"],
)
def test_squared_errors_of_classes_have_an_output_each(data: RawData, output: str) -> None:
    ready = prepare(data, output_activation=output, **SQUARED)
    assert (ready.task, ready.loss, ready.n_outputs) == ("classification", "half_squared_error", 3)
    np.testing.assert_array_equal(ready.train[1], ONE_HOT)
    assert "target: 3 classes, an output each, compared with one-hot rows" in ready.notes
    columns = decode(ready.preprocessing, np.array([[0.1, 0.2, 0.9]]))
    assert columns["prediction"].tolist() == [ready.classes[2]]
    assert list(columns)[1:] == [f"output_{name}" for name in ready.classes]


@pytest.mark.parametrize("loss", ["half_squared_error", "huber"])
def test_whole_numbers_are_values_where_a_loss_on_values_is_asked_for(loss: str) -> None:
    ready = prepare(arrays(CODES), loss=loss)
    assert (ready.task, ready.n_outputs) == ("regression", 1)
    with pytest.raises(DataError, match="is not a number, and huber predicts numbers"):
        prepare(arrays(np.array(["a", "b"])[CODES % 2]), loss="huber")


def test_the_way_to_values_is_the_one_that_leads_there() -> None:
    for data, way in ((arrays(CODES), "half_squared_error"), (arrays(CODES, one_unit=True), "huber")):
        ready = prepare(data)
        assert any(f"for values, --loss {way}" in note for note in ready.notes)
        assert prepare(data, loss=way).task == "regression"


def test_one_target_has_a_column_for_each_of_several_quantiles() -> None:
    y = np.linspace(3.0, 9.0, 60)
    prepared = prepare(arrays(y), loss="quantile(0.1, 0.5, 0.9)", test=0, dtype=np.float64)
    assert prepared.n_outputs == 3 and prepared.task == "regression"
    columns = decode(prepared.preprocessing, prepared.train[1])
    assert list(columns) == ["prediction_0.1", "prediction_0.5", "prediction_0.9"]
    np.testing.assert_allclose(np.sort(columns["prediction_0.9"]), y)
    assert np.ptp(prepared.train[1], axis=1).max() == 0 and prepared.train[1].mean() == pytest.approx(0)
    figures = measure(prepared.preprocessing, prepared.train[1], np.zeros((60, 3)))
    expected = [mean_pinball_loss(y, np.full(60, y.mean()), alpha=q) for q in (0.1, 0.5, 0.9)]
    assert figures["pinball_loss"] == pytest.approx(np.mean(expected))
    with pytest.raises(UsageError, match="predicts quantiles of one target, and there are 3 target columns"):
        prepare(arrays(INPUTS[:, [0, 1, 1]] / 7), loss="quantile(0.1, 0.5, 0.9)", test=0)
