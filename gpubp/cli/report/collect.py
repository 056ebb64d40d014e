"""The content of a report: read from the run's folder, and measured on its test rows if its data still exist."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp import data as reading
from gpubp.backends.reference import NumpyNamespace
from gpubp.bench.parts import StepParts, step_parts
from gpubp.cli import run_folder
from gpubp.cli.parsing import parse_table_options, parse_test
from gpubp.data.csv_copy import STANDARD_INPUT
from gpubp.data.prepare import split_test, with_default_target
from gpubp.data.source import RawData
from gpubp.data.targets import class_indices
from gpubp.diagnostics.health import Health, examine, read_looks
from gpubp.errors import DataError, GpubpError
from gpubp.network import MLP
from gpubp.serialization import digest, load
from gpubp.tabular.model import TableRows, TabularModel
from gpubp.tabular.predictor import encode
from gpubp.tabular.selection import row_losses
from gpubp.training.checkpoint import newest
from gpubp.training.history import CURVES

METRICS = ("accuracy", "label_accuracy", "rmse")  # of losses, by epoch
MOST_MISTAKES = 12
BATCH_SIZE = 128  # if a run does not say
LOOKED_AT = 10_000  # test rows to predict


@dataclass
class TestRows:
    """The raw test rows, and the network's outputs for them.

    Attributes
    ----------
    source : RawData
        The data that contain the rows.
    rows : (n,) int
        The rows' numbers in it.
    y : array
        Encoded targets.
    outputs : (n, n_L) array
        aᴸ.
    row_loss : (n,) array
        The loss of each row.
    """

    source: RawData
    rows: NDArray[np.int64]
    y: NDArray[Any]
    outputs: NDArray[Any]
    row_loss: NDArray[np.float64]

    @property
    def worst(self) -> NDArray[np.int64]:
        """Places among the test rows with the largest losses, the worst first."""
        return np.argsort(-self.row_loss, kind="stable")[:MOST_MISTAKES]


@dataclass
class Run:
    """The readable contents of a run folder.

    Attributes
    ----------
    folder : Path
    metrics : dict
        The contents of metrics.json; empty if there is none.
    curves : dict of str to dict of str to list of float
        The columns of history.csv, for a preset by recipe, otherwise under ""; empty if there is none.
    net : MLP, TabularModel or None
    test : TestRows or None
    health : Health or None
        The health of the layers on the test rows.
    health_by_epoch : Health or None
        The health of the layers in each epoch, if the training recorded it.
    step : StepParts or None
        The parts of a training step's time on this machine.
    missing : list of str
        What is missing, and why.
    """

    folder: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    net: MLP | TabularModel | None = None
    test: TestRows | None = None
    health: Health | None = None
    health_by_epoch: Health | None = None
    step: StepParts | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def metric_name(self) -> str | None:
        """The metric of each epoch besides the loss; None if the curves do not have one."""
        return next((name for name in METRICS if any(name in columns for columns in self.curves.values())), None)

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes, if each row has one."""
        if self.net is None or self.net.preprocessing is None:
            return None
        classes = self.net.preprocessing["target"].get("classes")
        return None if classes is None else [str(name) for name in classes]

    @property
    def pictures(self) -> bool:
        """Whether the inputs are pixels."""
        encoded = None if self.net is None else self.net.preprocessing
        return encoded is not None and encoded["features"]["kind"] == "images"


def collect(folder: Path, data: str | None = None) -> Run:
    """Read a run folder, and predict its test rows.

    Parameters
    ----------
    folder : Path
    data : str, optional
        Rows to report on, instead of the run's own test rows.

    Raises
    ------
    DataError
        If there is no such folder, or nothing of a run in it.
    """
    run = read_folder(folder)
    if run.net is not None and run.net.preprocessing is not None and _predicts(run.net):
        _predict_test_rows(run, run.net, data)
    elif run.net is not None:
        run.missing.append("predictions: the model is a stack, or does not say how rows are encoded")
    return run


def read_folder(folder: Path) -> Run:
    """Read a run folder, and nothing else.

    Raises
    ------
    DataError
        If there is no such folder, or nothing of a run in it.
    """
    if not folder.is_dir():
        raise DataError(f'{folder}: there is no such folder; give one that "gpubp train" wrote')
    run = Run(folder)
    _read_metrics(run)
    _read_curves(run)
    _read_health(run)
    try:
        run.net = run_folder.load_model(folder, "cpu")
    except GpubpError as error:
        run.missing.append(f"the network: {error}")
    if not (run.metrics or run.curves or run.net):
        raise DataError(f"{folder}: holds nothing of a run: {'; '.join(run.missing)}")
    return run


def _read_metrics(run: Run) -> None:
    path = run.folder / run_folder.METRICS
    try:
        run.metrics = json.loads(path.read_text(encoding="utf-8"))
        of_network, there = run.metrics.get(run_folder.MODEL_DIGEST), digest(run.folder / run_folder.MODEL)
        if None not in (of_network, there) and of_network != there:
            run.metrics = {}
            run.missing.append(f"scores and configuration: {path.name} is of another network than {run_folder.MODEL}")
    except OSError:
        run.missing.append(f"scores and configuration: there is no {path.name}")
    except (ValueError, AttributeError) as error:
        run.missing.append(f"scores and configuration: {path.name} is damaged ({error})")


def _read_curves(run: Run) -> None:
    path = run.folder / run_folder.HISTORY
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        if not rows:
            run.missing.append(f"curves: {path.name} has no epoch")
        numbers = [name for name in (rows[0] if rows else {}) if name != "recipe"]
        for recipe in dict.fromkeys(row.get("recipe", "") for row in rows):
            of_recipe = [row for row in rows if row.get("recipe", "") == recipe]
            run.curves[recipe] = {name: [float(row[name]) for row in of_recipe] for name in numbers}
    except OSError:
        run.missing.append(f"curves: there is no {path.name}{_read_checkpoint(run)}")
    except (ValueError, TypeError) as error:
        run.missing.append(f"curves: {path.name} is damaged ({error})")


def _read_checkpoint(run: Run) -> str:
    """Take the curves of an unfinished training from its last checkpoint; returns a remark on that."""
    try:
        path = newest(run.folder)
        tensors, _ = load(path)
    except GpubpError:
        return ""
    columns = {name: tensors[f"history.{name}"] for name in CURVES if f"history.{name}" in tensors}
    if "loss" not in columns or columns["loss"].shape[1] > 1:
        return ""
    epochs = len(columns["loss"])
    run.curves[""] = {name: values[:, 0].tolist() for name, values in columns.items()}
    run.curves[""]["epoch"] = [float(epoch) for epoch in range(1, epochs + 1)]
    text = f"; those shown are of the last checkpoint, {path.name}"
    return text if run.metrics else f"{text}: the training has not ended, and --resume goes on"


def _read_health(run: Run) -> None:
    path = run.folder / run_folder.HEALTH
    try:
        run.health_by_epoch = read_looks(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if "health" in run.metrics:
            run.missing.append(f"health by epoch: there is no {path.name}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        run.missing.append(f"health by epoch: {path.name} is damaged ({error})")


def _predicts(net: MLP | TabularModel) -> bool:
    """Whether it gives one prediction per row."""
    return isinstance(net, TabularModel) or net.models == 1


def _predict_test_rows(run: Run, net: MLP | TabularModel, data: str | None) -> None:
    try:
        source, rows = _test_rows(run, net, data)
        rows = rows[:: -(-len(rows) // LOOKED_AT)] if len(rows) else rows
        if not len(rows):
            run.missing.append("predictions: the run kept no test rows")
            return
        X, y = encode(net, source)
        if y is None:
            run.missing.append(f"predictions: {source.name} has no target")
            return
        y = y[rows]
        if isinstance(net, TabularModel):
            outputs = np.asarray(net.forward(TableRows(X.data, rows)))
            run.test = TestRows(source, rows, y, outputs, row_losses(net.loss, outputs, y))
            return
        X = X[rows]
        run.test = TestRows(source, rows, y, np.asarray(net.forward(X)), _losses(net, X, y))
        run.health = examine(net.stack, *net.stack.checked(X, y))
        run.step = _step_parts(run, net, X, y)
    except GpubpError as error:
        run.missing.append(f"predictions of the test rows: {error}")


def _step_parts(run: Run, net: MLP, X: Any, y: NDArray[Any]) -> StepParts | None:
    """The parts of a training step's time, on the device of the training, or on the CPU if that is missing."""
    device, config = run.metrics.get("device", net.device), run.metrics.get("config", {})
    if device != net.device:
        with suppress(GpubpError):
            there = run_folder.load_model(run.folder, device)
            net = there if isinstance(there, MLP) else net
    options = {name: config[name] for name in ("optimizer", "dropout") if name in config}
    try:
        return step_parts(net, X, y, config.get("batch_size", BATCH_SIZE), **options)
    except GpubpError as error:
        run.missing.append(f"where a training step's time goes: {error}")
        return None


def _losses(net: MLP, X: Any, y: NDArray[Any]) -> NDArray[np.float64]:
    """The loss of each single row, from the logits."""
    logits = net.stack.layer_values(X, len(net.layer_sizes) - 2)[0].astype(np.float64)
    value, _ = net.loss.formula(NumpyNamespace(), logits, net.stack.cast_targets(y), np.zeros(1))
    return np.asarray(value.sum(axis=-1) if value.ndim == 2 else value)


def _test_rows(run: Run, net: MLP | TabularModel, data: str | None) -> tuple[RawData, NDArray[np.int64]]:
    """Where the test rows are: those that `train` drew with the same seed, or all of `data`."""
    assert net.preprocessing is not None
    if data is not None:
        source = run_folder.unseen_part(reading.read(data, trained=net.preprocessing))
        return source, np.arange(source.rows)
    config = run.metrics.get("config")
    if config is None:
        raise DataError("which rows were for testing is not known; give DATA")
    if config["data"] == STANDARD_INPUT:
        raise DataError("the training read standard input, which is gone; give DATA")
    if run.metrics.get("streamed") and not isinstance(parse_test(config["test"]), str | Path):
        raise DataError("the training read its file in blocks; which rows it drew for testing is not known; give DATA")
    target = net.preprocessing["target"]
    named = config["target"] if "columns" not in target else ",".join(target["columns"])
    source = with_default_target(reading.read(config["data"], named, **parse_table_options(config)))
    strata = class_indices(target, source)
    _, rows, test_data = split_test(source, parse_test(config["test"]), strata, config["seed"])
    return test_data, rows


def cells(source: RawData, row: int, names: Sequence[str]) -> list[str]:
    """The cells of a row in some columns."""
    values = [source.columns[name][row] for name in names]
    return [f"{value:.6g}" if isinstance(value, float | np.floating) else str(value) for value in values]
