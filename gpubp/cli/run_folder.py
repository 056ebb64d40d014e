"""A run: the metrics of a trained network, and the folder that keeps them with the network."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import gpubp
from gpubp._typing import Array
from gpubp.data import PreparedData, RawData, decode, encode, read
from gpubp.diagnostics.health import Health, examine
from gpubp.errors import DataError, UsageError
from gpubp.network import MLP
from gpubp.serialization import atomic_write
from gpubp.training.history import History

MODEL = "model.safetensors"
HISTORY = "history.csv"
METRICS = "metrics.json"
PARTS = ("train", "validation", "test")
FILES = (MODEL, METRICS, HISTORY)


def score(net: MLP, X: Array, y: Array) -> dict[str, float | None]:
    """How well a network predicts: ``loss`` and figures that depend on what it predicts.

    Parameters
    ----------
    net : MLP
        With its preprocessing, which `y` was encoded by.
    X : (m, n_0) array
    y : (m,) or (m, n_L) array

    Returns
    -------
    dict
        ``loss``, in the units that the network was trained in. For classes ``accuracy``; for several labels
        ``exact_match``, the fraction of rows all of whose labels are right (scikit-learn's accuracy), and
        ``label_accuracy``, the fraction of labels; for values ``rmse``, ``mae`` and ``r2`` in the target's own units,
        averaged over targets where there are several. r2 is None for a single row.
    """
    assert net.preprocessing is not None
    scores = net.evaluate(X, y)
    if net.preprocessing["target"]["type"] == "labels":
        right = (net.forward(X) > 0.5) == (y > 0.5)
        return {
            "loss": scores["loss"],
            "exact_match": float(right.all(axis=1).mean()),
            "label_accuracy": float(right.mean()),
        }
    if net.loss.classification:
        return {"loss": scores["loss"], "accuracy": scores["accuracy"]}
    return {"loss": scores["loss"], **metrics_of_values(net.preprocessing, y, net.forward(X))}


def metrics_of_values(preprocessing: dict[str, Any], y: Array, outputs: Array) -> dict[str, float | None]:
    """The figures of a network with a loss on values, by its outputs for encoded targets.

    ``rmse``, ``mae`` and ``r2`` in the units of the data; ``accuracy`` where the targets are one-hot classes.
    """
    if preprocessing["target"]["type"] == "one_hot":
        return {"accuracy": float((outputs.argmax(axis=-1) == y.argmax(axis=-1)).mean())}
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    truth = np.column_stack(list(decode(preprocessing, y).values()))
    predicted = np.column_stack(list(decode(preprocessing, outputs).values()))
    return {
        "rmse": float(root_mean_squared_error(truth, predicted)),
        "mae": float(mean_absolute_error(truth, predicted)),
        "r2": float(r2_score(truth, predicted)) if len(truth) > 1 else None,
    }


def summarize(net: MLP, prepared: PreparedData, history: History, config: dict[str, Any]) -> dict[str, Any]:
    """The contents of metrics.json; the network is evaluated on every part of the data as it is now."""
    parts = dict(zip(PARTS, (prepared.train, prepared.validation, prepared.test), strict=True))
    return {
        "task": prepared.task,
        **{name: score(net, *part) for name, part in parts.items() if part is not None},
        "epochs": history.epochs,
        "steps": history.steps,
        "seconds": round(history.seconds[-1], 3),
        "device": net.device,
        "precision": net.precision,
        "gemm_table": net.stack.backend.gemm_table,
        "seed": net.stack.seeds[0],
        "parameters": net.parameters,
        "layer_sizes": list(net.layer_sizes),
        "config": config,
        "versions": {
            "gpubp": gpubp.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
        },
    }


def default_folder(name: str) -> Path:
    """``runs/NAME-DATE`` for a data set of this name; a folder that does not exist yet."""
    stem = re.sub(r"[^\w-]+", "-", name.partition(".")[0]).strip("-") or "data"
    first = Path("runs") / f"{stem}-{datetime.now():%Y%m%d-%H%M%S}"
    folder, n = first, 1
    while folder.exists():
        n += 1
        folder = first.with_name(f"{first.name}-{n}")
    return folder


def check_writable(path: Path) -> None:
    """Refuse a folder that cannot be made or written to, before anything is computed for it.

    Raises
    ------
    UsageError
        Naming the folder or file in the way.
    """
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise UsageError(f"{path}: {existing} is a file, not a folder; choose another --out")
    if not os.access(existing, os.W_OK):
        raise UsageError(f"{path}: {existing} cannot be written to; choose another --out")


def check_new(folder: Path, overwrite: bool, also: Sequence[str] = ()) -> None:
    """Refuse a folder that holds a run already, before anything is computed for it, unless it is to be overwritten.

    Parameters
    ----------
    folder : Path
    overwrite : bool
    also : sequence of str
        Files that mark a run besides FILES.

    Raises
    ------
    UsageError
        Naming a file that would be lost.
    """
    existing = next((name for name in (*FILES, *also) if (folder / name).exists()), None)
    if existing is not None and not overwrite:
        raise UsageError(
            f"{folder}: holds a run already ({existing}); choose another --out, or --overwrite to replace it"
        )


def write(folder: Path, net: MLP, history: History, metrics: dict[str, Any]) -> None:
    """Write the run folder. It appears whole; in one that exists, each file is replaced whole.

    Raises
    ------
    UsageError
        If it cannot be written; then nothing of it was.
    """
    stage = (folder if folder.is_dir() else folder.parent) / f".{folder.name}.{os.getpid()}"
    try:
        stage.mkdir(parents=True)
        net.save(stage / MODEL)
        atomic_write(stage / HISTORY, history.to_csv().encode())
        text = json.dumps(_finite(metrics), indent=2, allow_nan=False) + "\n"
        atomic_write(stage / METRICS, text.encode())
        if not folder.exists():
            stage.rename(folder)
            return
        for name in FILES:
            (stage / name).replace(folder / name)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def model_file(path: Path) -> Path:
    """The model file in a run folder; a model file is its own.

    Raises
    ------
    DataError
        If there is none.
    """
    if path.is_dir() and not (path / MODEL).is_file():
        raise DataError(f'{path}: there is no {MODEL} in this folder; give one that "gpubp train" wrote')
    if not path.exists():
        raise DataError(f'{path}: there is no such folder or file; give the folder that "gpubp train" wrote')
    return path / MODEL if path.is_dir() else path


def load_model(path: Path, device: str = "auto") -> MLP:
    """The network in a run folder, or in a model file.

    Raises
    ------
    DataError
        If there is none.
    """
    return MLP.load(model_file(path), device)


def load_predictor(path: Path) -> tuple[MLP, dict[str, Any]]:
    """The single network in a run folder or model file, and how raw rows are encoded for it.

    Raises
    ------
    DataError
        If it is a stack, or was saved without its preprocessing.
    """
    net = load_model(path)
    if net.models > 1:
        raise DataError(f"{path}: holds {net.models} networks; load it with gpubp.MLP.load and call predict")
    if net.preprocessing is None:
        raise DataError(
            f'{path}: does not say how rows are encoded, as it was not written by "gpubp train"; load it with '
            "gpubp.MLP.load and call predict"
        )
    return net, net.preprocessing


def health(path: Path, data: str) -> Health:
    """One look at the layers of the network in a run folder or model file, with rows of `data`."""
    net, preprocessing = load_predictor(path)
    source = unseen_part(read(data, trained=preprocessing))
    X, y = encode(preprocessing, source, dtype=net.stack.backend.dtype)
    if y is None:
        raise UsageError(f"{source.name}: has no target, without which there is no gradient to look at")
    return examine(net.stack, *net.stack.checked(X, y))


def unseen_part(data: RawData) -> RawData:
    """The data's own test part, where it has one, else all of it."""
    part = data.test_part
    if part is None:
        return data
    data.say(f"using the {part.rows:,} rows that the data set keeps for testing")
    part.notes = data.notes
    return part


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for both."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
