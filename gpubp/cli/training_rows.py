"""The rows a network was trained on: a number for each, kept in its run, by which `evaluate` recognizes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp import serialization
from gpubp._typing import Array
from gpubp.checks import SparseRows
from gpubp.data import features
from gpubp.errors import DataError
from gpubp.tabular.model import TableRows

FILE = "training_rows.safetensors"
MOST = 2**17  # numbers kept, the smallest ones: 1 MiB
NUMBERS = "numbers"  # the tensor of the file
NETWORK = "model_digest"  # the entry of its header that identifies the network
VALUES_PER_BLOCK = 2**18  # inputs processed at a time


@dataclass(frozen=True)
class KnownRows:
    """How many of some rows, with equal inputs and targets, a network was trained or validated on.

    Attributes
    ----------
    count, rows : int
        The number of known rows, and of all rows.
    exact : bool
        Whether they were counted instead of estimated.
    """

    count: int
    rows: int
    exact: bool

    def remark(self) -> str:
        """A remark on scores for such rows."""
        some = f"{self.count:,}" if self.exact else f"about {self.count / self.rows:.0%}"
        return (
            f"{some} of {self.rows:,} rows were trained or validated on (inputs and target are the same), and are "
            "predicted better than new ones for that; metrics.json has the figures of test rows"
        )


def numbers_of(X: Any, y: Array, preprocessing: dict[str, Any]) -> NDArray[np.uint64]:
    """A number (m,) for each row and its target that depends only on its values.

    It is the sum of the bits of all values in float32, each times a random 64-bit number, modulo 2**64. Two different
    rows have the same number in at most one of 2**33 cases, and in fewer if they differ by more than the leading bit of
    a value.

    Parameters
    ----------
    X : (m, n_0) array, SparseRows or TableRows
        As networks take it. For the networks of a preset, which each have their own encoding, rows are encoded by the
        model's preprocessing.
    y : (m,) or (m, n_L) array
        Encoded targets.
    preprocessing : dict
    """
    if isinstance(X, TableRows):
        data, encoding = replace(X.data, notes=[]), preprocessing["features"]  # missing values were reported before
        height = VALUES_PER_BLOCK // features.width(encoding) + 1
        blocks = [X.index[start : start + height] for start in range(0, len(X), height)]
        sums = [_sums(features.apply(encoding, data, rows), 0) for rows in blocks]
        n_inputs = features.width(encoding)
    else:
        sums, n_inputs = [_sums(X, 0)], X.shape[1]
    targets = np.asarray(y).reshape(len(y), -1)
    return np.concatenate(sums) + _sums(targets, n_inputs)


def save(folder: Path, numbers: Sequence[NDArray[np.uint64]], network: str | None) -> None:
    """Write the numbers of all training and validation rows of the network with this digest into its run."""
    smallest = np.unique(np.concatenate(numbers))[:MOST]
    serialization.save(folder / FILE, {NUMBERS: smallest.view(np.int64)}, {NETWORK: network})


def known(path: Path, X: Any, y: Array, preprocessing: dict[str, Any]) -> KnownRows | None:
    """How many of these rows the network in a run folder, or in a model file in it, was trained or validated on.

    If the run keeps only the smallest numbers of its rows, the result is estimated from those rows whose numbers are as
    small. None if the run keeps none, or there are no such rows.

    Raises
    ------
    DataError
        If the file of the numbers is damaged.
    """
    trained = _load(path)
    if trained is None:
        return None
    exact, numbers = len(trained) < MOST, numbers_of(X, y, preprocessing)
    comparable = numbers if exact else numbers[numbers <= trained[-1]]
    if not len(comparable):
        return None
    return KnownRows(round(float(np.isin(comparable, trained).mean()) * len(numbers)), len(numbers), exact)


def _load(path: Path) -> NDArray[np.uint64] | None:
    """The numbers (n,) that the run of a network keeps, in ascending order; None if it keeps none."""
    model = serialization.model_file(path)
    file = model.with_name(FILE)
    if not file.is_file():
        return None
    tensors, metadata = serialization.load(file)
    numbers = tensors.get(NUMBERS)
    if numbers is None or numbers.dtype != np.int64 or numbers.ndim != 1:
        raise DataError(f"{file}: does not hold the numbers of training rows; remove it")
    return numbers.view(np.uint64) if metadata.get(NETWORK) == serialization.digest(model) else None


def _sums(values: Any, skipped: int) -> NDArray[np.uint64]:
    """The sum (m,) for rows (m, n), with the multipliers after the first `skipped`; zeros add nothing to it."""
    multipliers = np.random.PCG64(0).random_raw(skipped + values.shape[1])[skipped:]
    if isinstance(values, SparseRows):
        matrix = values.matrix
        bits = type(matrix)((_bits(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)
        return np.asarray(bits @ multipliers, np.uint64)
    sums = np.empty(len(values), np.uint64)
    height = VALUES_PER_BLOCK // max(1, values.shape[1]) + 1
    for start in range(0, len(values), height):
        block = slice(start, start + height)
        np.einsum("ij,j->i", _bits(values[block]), multipliers, out=sums[block])
    return sums


def _bits(values: Any) -> NDArray[np.uint64]:
    """The bits of values in float32, with the upper half mixed into the lower one, where round numbers have only zeros.

    Otherwise these would differ by multiples of 2**16, so that only 48 bits of a sum would be random instead of 64.
    """
    bits = (np.asarray(values, np.float32) + np.float32(0)).view(np.uint32)  # + 0 turns -0 into 0
    return (bits ^ (bits >> np.uint32(16))).astype(np.uint64)
