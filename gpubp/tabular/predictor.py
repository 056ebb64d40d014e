"""A trained network that takes raw rows, as the command line's `predict` does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp._typing import Array
from gpubp.backends import Backend
from gpubp.data.arrays import from_arrays
from gpubp.data.prepare import decode
from gpubp.data.prepare import encode as encode_rows
from gpubp.data.preprocessing import check_preprocessing
from gpubp.data.readers import read, saved_schema
from gpubp.data.schema import TableOptions
from gpubp.data.source import RawData
from gpubp.data.tables import is_frame, read_columns
from gpubp.errors import DataError
from gpubp.network import MLP
from gpubp.serialization import model_file
from gpubp.tabular.model import TabularModel


class Predictor:
    """A trained model together with the encoding of raw rows it was trained with; `gpubp.load` makes one.

    Attributes
    ----------
    net : MLP or TabularModel
        The model, which takes encoded rows.
    notes : list of str
        What the last predicted rows held that no training row did.
    """

    def __init__(self, net: MLP | TabularModel) -> None:
        self.net = net
        self.notes: list[str] = []

    def __repr__(self) -> str:
        return f"Predictor({self.net!r})"

    def predict(self, rows: Any) -> Array:
        """The class of each row, its value in the units of the training data, or its labels.

        Parameters
        ----------
        rows : data frame of pandas or polars, path, dict of columns, sequence of dict, or array (m, inputs)
            With the columns that the network was trained on, in any order. A dict of single values is one row. An
            array is for a network that was trained on arrays, or, of type uint8, on pictures.

        Returns
        -------
        (m,) array, or (m, outputs) array where there are several labels or values
        """
        columns = [values for name, values in self.columns(rows).items() if name.startswith("prediction")]
        return columns[0] if len(columns) == 1 else np.column_stack(columns)

    def columns(self, rows: Any) -> dict[str, Array]:
        """Predictions and probabilities by the names of the columns that ``gpubp predict`` writes.

        Parameters
        ----------
        rows : data frame of pandas or polars, path, dict of columns, sequence of dict, or array (m, inputs)

        Returns
        -------
        dict of str to (m,) array
        """
        preprocessing = self.net.preprocessing
        assert preprocessing is not None
        data = self._read(rows)
        X, _ = encode(self.net, data, with_target=False)
        self.notes = list(data.notes)
        return decode(preprocessing, self.net.forward(X))

    def _read(self, rows: Any) -> RawData:
        if isinstance(rows, str | os.PathLike) or is_frame(rows):
            return read(rows, trained=self.net.preprocessing)
        if not isinstance(rows, Mapping) and not _are_dicts(rows):
            return _array(rows)
        columns, schema = _columns(rows), saved_schema(self.net.preprocessing)
        options = TableOptions() if schema is None else schema.options
        n_rows = len(next(iter(columns.values())))
        return read_columns("rows", columns.items(), list(columns), n_rows, options, schema)


def load_network(path: str | Path, device: str | Backend = "auto") -> MLP | TabularModel:
    """The network, or the networks of a preset, in a model file or in the folder that ``gpubp train`` wrote.

    Raises
    ------
    DataError
        If there is none, or its description of raw rows is inconsistent.
    """
    file = model_file(path)
    if TabularModel.is_in(file):
        return TabularModel.load(file, device)
    net = MLP.load(file, device)
    if net.preprocessing is not None:
        check_preprocessing(f"{file}: preprocessing", net.preprocessing, net.layer_sizes[0], net.layer_sizes[-1])
    return net


def encode(net: MLP | TabularModel, data: RawData, *, with_target: bool = True) -> tuple[Any, Array | None]:
    """Raw rows as the network takes them, and their encoded targets where there are any."""
    if isinstance(net, TabularModel):
        return net.encode(data, with_target=with_target)
    assert net.preprocessing is not None
    return encode_rows(net.preprocessing, data, with_target=with_target, dtype=net.stack.backend.dtype)


def load(path: str | Path, device: str | Backend = "auto") -> Predictor:
    """Load a model that ``gpubp train`` wrote, to predict raw rows.

    Parameters
    ----------
    path : path
        The folder, or the model file in it.
    device : str or Backend

    Returns
    -------
    Predictor
        Its ``predict`` takes a data frame, a path, a dict of columns or an array; `Predictor.columns` also gives
        probabilities.

    Raises
    ------
    DataError
        If there is no network, if it is a stack, or if it was saved without the encoding of raw rows.

    Examples
    --------
    What ``gpubp train houses.csv`` does, and a prediction:

    >>> import gpubp.data, tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> rows = "2,flat,1.5\\n3,flat,2.0\\n4,house,4.0\\n5,house,5.5\\n"
    >>> _ = (folder / "houses.csv").write_text("rooms,kind,price\\n" + 5 * rows)
    >>> prepared = gpubp.data.prepare(gpubp.data.read(folder / "houses.csv"), test=0)
    >>> net = gpubp.MLP([prepared.n_inputs, 8, prepared.n_outputs], loss=prepared.loss, device="cpu-reference")
    >>> history = gpubp.train(net, *prepared.train, epochs=200, learning_rate=0.05)
    >>> net.preprocessing = prepared.preprocessing
    >>> net.save(folder / "model.safetensors")
    >>> gpubp.load(folder).predict({"kind": "house", "rooms": 4}).round(1).tolist()
    [4.0]
    """
    net = load_network(path, device)
    if isinstance(net, TabularModel):
        return Predictor(net)
    if net.models > 1:
        raise DataError(f"{path}: holds {net.models} networks; load it with gpubp.MLP.load and call predict")
    if net.preprocessing is None:
        raise DataError(
            f'{path}: does not say how rows are encoded, as it was not written by "gpubp train"; load it with '
            "gpubp.MLP.load and call predict"
        )
    return Predictor(net)


def _are_dicts(rows: Any) -> bool:
    return isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows)


def _array(rows: Any) -> RawData:
    """Rows of numbers without column names (m, inputs), as in files of arrays."""
    try:
        array = rows.toarray() if hasattr(rows, "toarray") else np.asarray(rows)
    except ValueError as error:
        raise DataError(f"rows: {error}; all rows need the same length") from None
    if array.ndim < 2 or array.dtype.kind not in "biuf":
        raise DataError(
            f"rows: {type(rows).__name__} of shape {array.shape} and dtype {array.dtype}; give a data frame, a path, a "
            "dict of columns, a list of dicts, or, where the network was trained on arrays, a matrix of numbers"
        )
    return from_arrays("rows", {"X": array})


def _columns(rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """Columns (m,) of any type, with None where the dict of a row has no value."""
    if isinstance(rows, Mapping):
        columns = {str(name): _column(values) for name, values in rows.items()}
    else:
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {str(name): _column([row.get(name) for row in rows]) for name in names}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f'"{name}" {length}' for name, length in lengths.items())
        raise DataError(f"rows: columns differ in length: {shown}")
    if not lengths or not next(iter(lengths.values())):
        raise DataError("rows: there are none; give a column of values for each input of the network")
    return columns


def _column(values: Any) -> NDArray[Any]:
    """Values as an array (m,); a single one is a row. Texts stay objects: NumPy makes texts of None beside them."""
    objects = np.atleast_1d(np.asarray(values, object))
    typed = np.atleast_1d(values) if objects.ndim == 1 and not any(value is None for value in objects) else objects
    return typed if typed.dtype.kind in "iufmM" else objects
