"""From a data set to encoded arrays for training, validation and testing, and back from outputs to predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.checks import SparseRows
from gpubp.data import features, targets
from gpubp.data.arrays import as_inputs
from gpubp.data.columns import read_as, schema_of, schema_of_format_1
from gpubp.data.encodings import Target
from gpubp.data.readers import read, read_with, saved_schema
from gpubp.data.schema import Schema
from gpubp.data.selection import is_counter
from gpubp.data.source import RawData, printable
from gpubp.data.target_columns import join_columns, raw_values
from gpubp.data.unforeseen import say_unforeseen
from gpubp.errors import DataError, UsageError
from gpubp.losses import Loss, get_loss
from gpubp.scratch import ScratchRows

TEST_FRACTION = 0.2
Part = tuple[Any, NDArray[Any]]
TASKS = {
    "classes": "classification",
    "binary": "classification",
    "one_hot": "classification",
    "labels": "multilabel",
    "values": "regression",
}


@dataclass(frozen=True)
class PreparedData:
    """Encoded data that a network can be trained, validated and tested on.

    Attributes
    ----------
    task : {"classification", "multilabel", "regression"}
    loss : str
        The name of the requested loss, or of the one that the target implies.
    train, validation, test : (X, y) or None
        X (m, n_inputs) C-contiguous, or SparseRows if that would be large and mostly zeros; y (m,) int64 for
        cross-entropy, otherwise (m, n_outputs) of X's dtype.
    n_inputs, n_outputs : int
    preprocessing : dict
        The fitted encoding, for `encode` and `decode`: plain JSON.
    classes : list or None
        The class of each index, if each row has one class.
    notes : list of str
        What was guessed, left out or replaced, to be reported.
    stream : ScratchRows or None
        If not all training rows are in memory: all of them, for `gpubp.train(net, batches=...)`. `train` has only some.
    """

    task: str
    loss: str
    train: Part
    validation: Part | None
    test: Part | None
    n_inputs: int
    n_outputs: int
    preprocessing: dict[str, Any]
    classes: list[Any] | None
    notes: list[str]
    stream: ScratchRows | None = None

    @property
    def rows(self) -> int:
        """The number of training rows."""
        return len(self.train[0]) if self.stream is None else self.stream.shape[0]

    @property
    def training_arguments(self) -> dict[str, Any]:
        """The training rows, as arguments of `gpubp.train`."""
        return dict(zip("Xy", self.train, strict=True)) if self.stream is None else {"batches": self.stream}

    @property
    def bytes(self) -> int:
        """Bytes that the encoded data take."""
        arrays = [array for part in (self.train, self.validation, self.test) if part for array in part]
        return sum(array.held_bytes if isinstance(array, SparseRows) else array.nbytes for array in arrays)


def prepare(
    data: RawData,
    *,
    loss: str | Loss = "auto",
    output_activation: targets.OutputActivations = "auto",
    test: float | str | Path | None = None,
    validation: float | None = None,
    numbers: str = features.STANDARD,
    seed: int = 0,
    dtype: Any = np.float32,
) -> PreparedData:
    """Split a data set and encode it, with everything fitted only on the training rows.

    Parameters
    ----------
    data : RawData
        As `read` returns it.
    loss : str or Loss
        "auto" chooses by the target (see `gpubp.data.targets.infer_loss`) and says so in the notes.
    output_activation : str, Activation, Softmax or tuple of these
        The output activation of the network, or those of several networks that are compared. Target values are scaled
        to a range that all of them can reach. "auto" is the loss's own.
    test : float, path or None
        A fraction of the rows (0 for no test part), a file of test rows, or None: the data set's own test part, else 20
        % of the rows.
    validation : float or None
        A fraction of the rows that the test part leaves for training; 0 and None for no validation part.
    numbers : str
        The encoding of a table's columns of numbers: names in `gpubp.data.encodings.ENCODINGS`, combined with ``+``.
    seed : int
        The seed of the random splits, which are stratified by class, and of encodings with random numbers.
    dtype : dtype
        The type of X, and of y unless it holds class indices.

    Raises
    ------
    DataError
        If the data cannot be trained on; the message names the file, the line or row, the column, the remedy.
    """
    chosen = choose(data, loss, output_activation, test, seed)
    data, target, outputs = chosen.data, chosen.target, chosen.outputs
    train_rows, validation_rows = split_rows(data, chosen.rows, validation or 0.0, chosen.strata, seed, "validation")
    targets.standardize(target, data, chosen.loss, train_rows, outputs)
    encoding = fit_features(data, train_rows, target, numbers, seed)
    preprocessing = with_schema(encoding, data) | {"target": target}

    def encoded(source: RawData, rows: features.RowIndices) -> Part | None:
        if not len(rows):
            return None
        X, y = _encode_rows(preprocessing, source, rows, dtype)
        assert y is not None
        return X, y

    train = encoded(data, train_rows)
    assert train is not None
    target["training_mean"] = targets.training_mean(target, train[1])
    targets.say_few_rows(target, data)
    return PreparedData(
        task=TASKS[target["type"]],
        loss=chosen.loss.name,
        train=train,
        validation=encoded(data, validation_rows),
        test=encoded(chosen.test_data, chosen.test_rows),
        n_inputs=features.width(preprocessing["features"]),
        n_outputs=target["outputs"],
        preprocessing=preprocessing,
        classes=target.get("classes"),
        notes=list(dict.fromkeys([*data.notes, *chosen.test_data.notes])),
    )


@dataclass(frozen=True, eq=False)
class Chosen:
    """What to learn from a data set, and which rows are kept for testing.

    Attributes
    ----------
    data : RawData
        With its target.
    loss : Loss
    outputs : Outputs
    target : dict
        The encoding of the target, still without mean and scale.
    strata : (data.rows,) or None
        The class of each row.
    rows : (n,) int
        The rows of `data` to train and validate on.
    test_rows : (n_test,) int
    test_data : RawData
        The data set that contains these rows.
    """

    data: RawData
    loss: Loss
    outputs: targets.Outputs
    target: dict[str, Any]
    strata: NDArray[Any] | None
    rows: features.RowIndices
    test_rows: features.RowIndices
    test_data: RawData


def choose(
    data: RawData,
    loss: str | Loss,
    output_activation: targets.OutputActivations,
    test: float | str | Path | None,
    seed: int,
) -> Chosen:
    """Choose target, loss and test rows as described in `prepare`."""
    data = with_default_target(data)
    chosen_loss = targets.infer_loss(data) if loss == "auto" else get_loss(loss)
    outputs = targets.Outputs.of(chosen_loss, output_activation)
    target = targets.fit(data, chosen_loss, outputs)
    strata = targets.class_indices(target, data)
    rows, test_rows, test_data = split_test(data, test, strata, seed)
    raw_values(test_data)  # raises if the test rows have no target
    return Chosen(data, chosen_loss, outputs, target, strata, rows, test_rows, test_data)


def encode(
    preprocessing: dict[str, Any], data: RawData, *, with_target: bool = True, dtype: Any = np.float32
) -> tuple[Any, NDArray[Any] | None]:
    """Encode raw rows for a trained network.

    Parameters
    ----------
    preprocessing : dict
        From `prepare`, or from a model's file.
    data : RawData
        A table's columns may come in any order. What was replaced or ignored is added to ``data.notes``.
    with_target : bool
        Whether to encode the target if `data` has one; predicting needs none.
    dtype : dtype
        The type of X, and of y unless it holds class indices.

    Returns
    -------
    X : ndarray (m, n_inputs), or SparseRows
    y : ndarray or None
        As in `PreparedData`; None if `data` has no target.

    Raises
    ------
    DataError
        If columns are missing, or a value has another kind than in training.
    """
    data = as_trained(preprocessing, data, with_target)
    return _encode_rows(preprocessing, data, features.ALL_ROWS, dtype, with_target)


def as_trained(preprocessing: dict[str, Any], data: RawData, with_target: bool = True) -> RawData:
    """Read raw rows in the way a network's training rows were, and note what they lack, exceed, or have in addition.

    Raises
    ------
    DataError
        As in `encode`.
    """
    encoding, target = preprocessing["features"], preprocessing["target"]
    data = as_inputs(data, encoding["kind"], encoding["numbers"]["width"])
    data = replace(data, target=target["name"])  # shares its notes with the caller's
    if data.kind == "table" == encoding["kind"]:
        schema = schema_of_network(preprocessing)
        for name in data.columns:
            if name not in schema.columns:
                data.say(f'column "{name}": the network was not trained on it, ignored')
        data = read_as(data, schema)
        features.check_columns(encoding, data)
        say_unforeseen(encoding, data)
    if with_target and "columns" in target:
        data = join_columns(data, target["columns"])
    return data


def decode(preprocessing: dict[str, Any], outputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Turn a network's outputs into predictions in the classes and units of the data.

    Parameters
    ----------
    preprocessing : dict
        From `prepare`, or from a model's file.
    outputs : ndarray (m, n_outputs)
        The network's outputs a^L, not its logits.

    Returns
    -------
    dict of str to ndarray (m,)
        ``prediction``, the class or the value in raw units, and ``probability_CLASS`` for each class
        (``output_CLASS`` for a loss on values); with several labels or values ``prediction_0``,
        ``prediction_1``, … (and ``probability_0``, … for labels), or the names of the target's columns instead of
        numbers.
    """
    return targets.decode(preprocessing["target"], np.asarray(outputs))


def schema_of_network(preprocessing: Mapping[str, Any]) -> Schema:
    """The schema of the table that a network was trained on.

    Parameters
    ----------
    preprocessing : dict
        From `prepare` for a table, or from a model's file.
    """
    return saved_schema(preprocessing) or schema_of_format_1(preprocessing["features"], preprocessing["target"])


def with_decimal(preprocessing: dict[str, Any], decimal: str) -> dict[str, Any]:
    """The preprocessing for rows whose numbers use another decimal sign than in training.

    Parameters
    ----------
    preprocessing : dict
        From `prepare`, or from a model's file.
    decimal : {".", ","}

    Raises
    ------
    UsageError
        If the network was not trained on a table, or there is no such sign.
    """
    if preprocessing["features"]["kind"] != "table":
        raise UsageError(f"--decimal {decimal}: the network was not trained on a table; leave it out")
    return preprocessing | {"schema": schema_of_network(preprocessing).with_decimal(decimal).to_json()}


def fit_features(
    data: RawData,
    rows: features.RowIndices,
    target: dict[str, Any],
    numbers: str,
    seed: int,
    weight: NDArray[np.float64] | None = None,
) -> features.Encoding:
    """Fit the encoding of the columns on these rows, with bins chosen by their targets if `numbers` requires it."""
    y = targets.apply(target, data, rows, np.float64) if numbers != features.STANDARD else None
    to_predict = None if y is None else Target(y, target["type"] in ("classes", "binary", "labels"), weight)
    return features.fit(data, rows, numbers, to_predict, seed)


def with_schema(encoding: features.Encoding, data: RawData) -> dict[str, Any]:
    """The encoding of the columns; for a table, with its schema."""
    if data.kind != "table":
        return {"features": encoding}
    return {"features": encoding, "schema": schema_of(data).with_left_out(encoding["left_out"]).to_json()}


def _encode_rows(
    preprocessing: dict[str, Any], data: RawData, rows: features.RowSelection, dtype: Any, with_target: bool = True
) -> tuple[Any, NDArray[Any] | None]:
    X = features.apply(preprocessing["features"], data, rows, dtype)
    y = targets.apply(preprocessing["target"], data, rows, dtype) if with_target else None
    return X, y


def with_default_target(data: RawData) -> RawData:
    """If a table has no target, make its last column the target, with a note; return other data as they are.

    Columns that are left out or number the rows are skipped.

    Raises
    ------
    DataError
        If the target's cells are neither numbers nor categories throughout, or there is one column only.
    """
    if data.kind != "table":
        return data
    if len(data.columns) == 1:
        sheet = "".join(f" ({note})" for note in data.notes if note.startswith("sheet "))
        raise DataError(
            f'{data.name}{sheet}: no column is left to learn from beside the target, as "{printable(*data.columns)}" '
            "is all there is; in a CSV file whose cells another character separates, --delimiter"
        )
    schema = schema_of(data)
    if data.target is None:
        names = [name for name, column in schema.columns.items() if column.kind != "ignored"]
        if not names:
            raise DataError(f"{data.name}: all columns are left out; leave one to predict, and one to learn from")
        last = next((name for name in reversed(names) if not is_counter(name, data.columns[name])), names[-1])
        what = "last column" if last == list(data.columns)[-1] else "last column that is used"
        data.say(f'target: {what}, "{last}"; for another, --target')
        data = replace(data, target=last)
    assert data.target is not None
    column = schema.columns.get(data.target)
    if column is not None and column.kind == "ignored":
        raise UsageError(f'{data.name}: the target "{data.target}" is ignored by {column.why}; choose another --target')
    if column is not None and column.kind == "date":
        data.say(f'target: "{data.target}" holds dates; predictions are seconds since 1970, in UTC')
    for name in data.target_columns or (data.target,):
        if name in schema.problems:
            raise DataError(schema.problems[name])
    return data


def split_test(
    data: RawData, test: float | str | Path | None, strata: NDArray[Any] | None, seed: int
) -> tuple[features.RowIndices, features.RowIndices, RawData]:
    """Choose the test rows as described in `prepare`.

    Returns
    -------
    rows : (n,) int
        The rows of `data` that are left for training and validation.
    test_rows : (n_test,) int
    test_data : RawData
        The data set that contains them: `data`, its test part or another file.
    """
    rows = np.arange(data.rows)
    part = data.test_part
    if isinstance(test, str | Path):
        test_data = _read_test_file(data, test)
        data.say(f"test: the {test_data.rows} rows of {test_data.name}")
        return rows, np.arange(test_data.rows), test_data
    if test is None and part is not None:
        data.say(f"test: the {part.rows} rows that the data set keeps for it")
        return rows, np.arange(part.rows), part
    rows, test_rows = split_rows(data, rows, TEST_FRACTION if test is None else test, strata, seed, "test")
    return rows, test_rows, data


def _read_test_file(data: RawData, path: str | Path) -> RawData:
    """Read another file in the way `data` was read."""
    if data.kind != "table":
        return read(path)
    schema = schema_of(data)
    target = None if data.target_columns else data.target
    test_data = read_as(read_with(path, target, schema.options, schema), schema)
    return join_columns(replace(test_data, target=data.target), data.target_columns or ())


def split_rows(
    data: RawData, rows: features.RowIndices, fraction: float, strata: NDArray[Any] | None, seed: int, part: str
) -> tuple[features.RowIndices, features.RowIndices]:
    """Draw a random fraction of `rows`, stratified by class if `strata` are given.

    If scikit-learn's ``train_test_split`` can do it, the rows are those it draws with the same seed.

    Parameters
    ----------
    strata : (data.rows,) or None
        The class of each row of `data`. A class of one row is never drawn.
    part : str
        What the drawn rows are for, "test" or "validation", for messages.

    Returns
    -------
    remaining, drawn : (n,) int
        Both in the order of `rows`.
    """
    if not 0 <= fraction < 1:
        raise UsageError(f"{part}={fraction} is no fraction; choose one from 0 (none) to below 1")
    if fraction == 0:
        return rows, rows[:0]
    from sklearn.model_selection import train_test_split

    if len(rows) < 2:
        raise DataError(f"{data.name}: {len(rows)} row(s) cannot be split; give more rows, or {part}=0")
    singletons = rows[:0]
    labels = None
    if strata is not None:
        _, inverse, counts = np.unique(strata[rows], return_inverse=True, return_counts=True)
        single = counts[inverse] == 1  # a class of one row can only be learned from
        singletons, rows = rows[single], rows[~single]
        labels = strata[rows]
        fewest = int((counts > 1).sum())  # in either part, one row per class
    else:
        fewest = 1
    if not len(rows):
        raise DataError(f"{data.name}: every class has one row only; give more rows, or {part}=0")
    size = min(max(ceil(fraction * (len(rows) + len(singletons))), fewest), len(rows) - fewest)
    remaining, drawn = train_test_split(rows, test_size=size, random_state=seed, stratify=labels)
    how = ", in each class alike" if strata is not None else ""
    data.say(f"{part}: {size} of {len(rows) + len(singletons)} rows, drawn with seed {seed}{how}")
    return np.sort(np.concatenate([remaining, singletons])), np.sort(drawn)
