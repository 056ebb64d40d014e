"""The result of a preset: weighted stacks of networks, each with its encoding, in one file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp import serialization
from gpubp.backends import Backend
from gpubp.data import RawData, features, targets
from gpubp.data.prepare import as_trained
from gpubp.data.preprocessing import check_features, check_preprocessing
from gpubp.errors import DataError
from gpubp.losses import Loss
from gpubp.network import MLP, from_tensors
from gpubp.tabular.selection import row_losses

NUMBERS_PER_BLOCK = 2**22  # inputs encoded and predicted at a time
MARK = "tabular"  # the entry in a file's header that marks such a model
SCALING = {"mean": [float], "scale": [float]}
METADATA = {
    MARK: [{"recipe": str, "weight": float, "encodings": [{}], "scalings": [{str: [float]}]}],
    "preprocessing": {},
    "about": {"preset": str, "recipe_weights": {str: float}, "recipe_losses": {str: float}},
}


@dataclass(eq=False)
class Member:
    """A stack of networks from one recipe, and how rows are encoded for each.

    Attributes
    ----------
    recipe : str
    net : MLP
    encodings : list of K dict
        The encodings of the features for each network; inputs narrower than the stack's are padded with zeros.
    scalings : list of K dict
        ``mean`` and ``scale`` of each network's outputs; empty for classes and labels.
    weight : float
        The weight of the mean of its outputs.
    """

    recipe: str
    net: MLP
    encodings: list[features.Encoding]
    scalings: list[dict[str, Any]]
    weight: float = 1.0

    def outputs(self, data: RawData, rows: NDArray[np.int64], target: features.Encoding) -> NDArray[np.float64]:
        """The mean over the networks of a^L (m, n_L), on the scale of `target`."""
        total = np.zeros((len(rows), target["outputs"]))
        for k, outputs in enumerate(self._outputs_of_each(data, rows)):
            total += rescaled(outputs, self.scalings[k], target)
        return total / self.net.models

    def _outputs_of_each(self, data: RawData, rows: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        stack, width = self.net.stack, self.net.layer_sizes[0]
        X, encoding_of_X = None, None
        for k, encoding in enumerate(self.encodings):
            if X is None or encoding != encoding_of_X:
                encoded = features.apply(encoding, data, rows, stack.backend.dtype)
                X, encoding_of_X = padded(encoded, width), encoding
            yield stack.part(slice(k, k + 1)).outputs(X)[0]


@dataclass(eq=False)
class TableRows:
    """Rows of a table, read in the way a model's training rows were.

    Attributes
    ----------
    data : RawData
    index : (m,) int
    outputs : (m, n_L) float64 or None
        The outputs for them, once known, of the model or the part of it that was not trained on them.
    """

    data: RawData
    index: NDArray[np.int64]
    outputs: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.index)


class TabularModel:
    """Weighted stacks of networks that predict rows of a table.

    Parameters
    ----------
    members : list of Member
    preprocessing : dict
        As for a network trained on all rows: ``features`` with standardized numbers, which tells what rows lack or
        exceed; ``schema``; ``target``, whose scale the outputs have.
    about : dict
        Plain JSON that is stored in the file.
    """

    def __init__(self, members: list[Member], preprocessing: dict[str, Any], about: dict[str, Any]) -> None:
        self.members, self.preprocessing, self.about = members, preprocessing, about

    @property
    def loss(self) -> Loss:
        """The record of the loss that the networks were trained with."""
        return self.members[0].net.loss

    @property
    def models(self) -> int:
        """The number of networks."""
        return sum(member.net.models for member in self.members)

    @property
    def parameters(self) -> int:
        """Weights and biases of all networks."""
        return sum(member.net.models * member.net.parameters for member in self.members)

    @property
    def device(self) -> str:
        """The device that the networks compute on."""
        return self.members[0].net.device

    @property
    def precision(self) -> str:
        """The name of the precision that they compute in."""
        return self.members[0].net.precision

    def encode(self, data: RawData, *, with_target: bool = True) -> tuple[TableRows, NDArray[Any] | None]:
        """Read raw rows in the way the training rows were; what they lack is added to their notes.

        Returns
        -------
        rows : TableRows
        y : (m,) or (m, n_L) array, or None
            Encoded targets; None where there are none, or `with_target` is false.
        """
        data = as_trained(self.preprocessing, data, with_target)
        features.say_unknown_categories(self.preprocessing["features"], data)
        rows = TableRows(data, np.arange(data.rows))
        return rows, self.encoded_targets(rows) if with_target else None

    def encoded_targets(self, rows: TableRows) -> NDArray[Any] | None:
        """Encode the targets of rows for comparison with outputs; None where there are none."""
        return targets.apply(self.preprocessing["target"], rows.data, rows.index, np.float64)

    def forward(self, rows: TableRows) -> NDArray[np.float64]:
        """The weighted mean a^L (m, n_L) of all networks: probabilities, or values on the scale of the target."""
        if rows.outputs is None:
            rows.outputs = self._outputs(replace(rows.data, notes=[]), rows.index)  # discard notes of the single folds
        return rows.outputs

    def _outputs(self, data: RawData, index: NDArray[np.int64]) -> NDArray[np.float64]:
        target = self.preprocessing["target"]
        out = np.zeros((len(index), target["outputs"]))
        height = max(1, NUMBERS_PER_BLOCK // max(member.net.layer_sizes[0] for member in self.members))
        for start in range(0, len(index), height):
            block = index[start : start + height]
            for member in self.members:
                out[start : start + height] += member.weight * member.outputs(data, block, target)
        return out

    def evaluate(self, rows: TableRows, y: NDArray[Any]) -> dict[str, float]:
        """The mean loss, and the metric that goes with it, against encoded targets."""
        outputs = self.forward(rows)
        loss = float(row_losses(self.loss, outputs, y).mean())
        if self.loss.integer_targets:
            return {"loss": loss, "accuracy": float((outputs.argmax(axis=1) == y).mean())}
        if self.loss.classification:
            return {"loss": loss, "accuracy": float(((outputs > 0.5) == (y > 0.5)).mean())}
        return {"loss": loss, "rmse": float(np.sqrt(((outputs - y) ** 2).mean()))}

    # -- files -----------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write all stacks to one safetensors file, whole or not at all."""
        tensors: dict[str, NDArray[Any]] = {}
        described = []
        for number, member in enumerate(self.members):
            tensors |= {f"{number}.{name}": tensor for name, tensor in member.net.stack.tensors().items()}
            described.append(
                {
                    **member.net.stack.describe(),
                    "recipe": member.recipe,
                    "weight": member.weight,
                    "encodings": member.encodings,
                    "scalings": member.scalings,
                }
            )
        header = {MARK: described, "preprocessing": self.preprocessing, "about": self.about}
        serialization.save(path, tensors, header)

    @staticmethod
    def is_in(path: str | Path) -> bool:
        """Whether a file is one that `save` wrote; false for one that cannot be read."""
        return MARK in serialization.header(path)

    @classmethod
    def load(cls, path: str | Path, device: str | Backend = "auto") -> TabularModel:
        """Read what `save` wrote.

        Raises
        ------
        DataError
            If the file holds something else, or is damaged.
        """
        tensors, saved = serialization.load(path)
        if MARK not in saved:
            raise DataError(f"{path}: holds a network of another kind; load it with gpubp.MLP.load")
        serialization.check_metadata(f"{path}", saved, METADATA)
        members = [
            Member(
                recipe=described["recipe"],
                net=from_tensors(MLP, path, _with_prefix(tensors, f"{number}."), described, device),
                encodings=described["encodings"],
                scalings=described["scalings"],
                weight=described["weight"],
            )
            for number, described in enumerate(saved[MARK])
        ]
        _check_members(f"{path}", members, saved)
        return cls(members, saved["preprocessing"], saved["about"])


def _check_members(where: str, members: list[Member], saved: dict[str, Any]) -> None:
    """Refuse members whose encodings and scalings do not match their networks, or whose recipe has no name."""
    if not members:
        serialization.refuse_metadata(f"{where}: {MARK}", [], "networks")
    n_outputs = members[0].net.layer_sizes[-1]
    check_preprocessing(f"{where}: preprocessing", saved["preprocessing"], None, n_outputs)
    for number, member in enumerate(members):
        place, n_inputs = f"{where}: {MARK}[{number}]", member.net.layer_sizes[0]
        if member.recipe not in saved["about"]["recipe_losses"]:
            serialization.refuse_metadata(f"{place}.recipe", member.recipe, "one that the file names")
        if not len(member.encodings) == len(member.scalings) == member.net.models:
            raise DataError(f"{place}: has no encoding and scaling for each network; the file is damaged")
        for k, (encoding, scaling) in enumerate(zip(member.encodings, member.scalings, strict=True)):
            check_features(f"{place}.encodings[{k}]", encoding)
            if features.width(encoding) > n_inputs:
                raise DataError(f"{place}.encodings[{k}] makes more inputs than {n_inputs}; the file is damaged")
            if scaling:
                serialization.check_metadata(f"{place}.scalings[{k}]", scaling, SCALING)
            if member.net.layer_sizes[-1] != n_outputs or any(len(values) != n_outputs for values in scaling.values()):
                raise DataError(f"{place}.scalings[{k}]: does not fit {n_outputs} outputs; the file is damaged")


def rescaled(outputs: NDArray[Any], scaling: dict[str, Any], target: features.Encoding) -> NDArray[np.float64]:
    """Convert outputs of a network from the units of its own fold's targets to those of `target`."""
    if not scaling:
        return np.asarray(outputs, np.float64)
    raw = outputs * np.array(scaling["scale"]) + scaling["mean"]
    if "low" in target:
        raw = np.clip(raw, target["low"], target["high"])
    in_units: NDArray[np.float64] = (raw - target["mean"]) / target["scale"]
    return in_units


def padded(X: Any, width: int) -> Any:
    """X with columns of zeros appended to make it `width` wide."""
    if X.shape[1] == width:
        return X
    if not isinstance(X, np.ndarray):
        X.matrix.resize(len(X), width)
        return type(X)(X.matrix)
    return np.pad(X, ((0, 0), (0, width - X.shape[1])))


def _with_prefix(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
