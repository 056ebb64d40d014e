"""Notes, once and with counts, what rows to predict hold that no training row did."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubp.data.source import RawData

FAR = 10.0  # standard deviations from the mean of training


def say_unforeseen(encoding: dict[str, Any], data: RawData) -> None:
    """Add to the notes of a table what its rows lack or exceed, compared with the training rows.

    Categories that did not occur in training are noted where they are encoded.

    Parameters
    ----------
    encoding : dict
        The encoding of the features, from `gpubp.data.features.fit`.
    data : RawData
        A table with the columns that the network needs, with columns of numbers read as numbers.
    """
    numbers = encoding["numbers"]
    for j, name in enumerate(numbers["names"]):
        values = data.columns[name]
        if values.dtype == object:  # texts of an array in memory, which are later read as numbers or refused
            continue
        missing = int(np.isnan(values).sum())
        _say_missing(data, name, missing, j in numbers["indicators"], "the median of training")
        far = np.abs(values - numbers["mean"][j]) > FAR * numbers["scale"][j]
        if far.any():
            first = int(np.flatnonzero(far)[0])
            data.say(
                f'column "{name}": {int(far.sum())} cells of {data.name} are more than {FAR:g} standard deviations '
                f"from the mean of training ({values[first]:g} in {data.place(first)}); predictions there are guesses"
            )
    for column in encoding["categories"]:
        values = data.columns[column["name"]]
        missing = int(sum(value is None for value in values) if values.dtype == object else np.isnan(values).sum())
        _say_missing(data, column["name"], missing, column["indicator"], "none of the known categories")


def _say_missing(data: RawData, name: str, missing: int, known: bool, replacement: str) -> None:
    """Note that a column is empty, or lacks values although no training row did."""
    if missing == data.rows:
        data.say(f'column "{name}": no value in any of the {missing} rows of {data.name}, read as {replacement}')
    elif missing and not known:
        data.say(
            f'column "{name}": {missing} cells of {data.name} lack a value, where every training row has one; read as '
            f"{replacement}"
        )
