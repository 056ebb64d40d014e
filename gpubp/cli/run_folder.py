"""A run: the metrics of a trained network, and the folder that keeps them with the network."""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gpubp
from gpubp._typing import Array
from gpubp.cli import metrics, training_rows
from gpubp.data import PreparedData, RawData, read
from gpubp.data.prepare import with_decimal
from gpubp.diagnostics.health import Health, examine
from gpubp.errors import UsageError
from gpubp.network import MLP
from gpubp.serialization import (
    MODEL_FILE,
    atomic_write,
    digest,
    folder_beside,
    locked,
    remove_unlocked,
    sweep,
    sync_folder,
)
from gpubp.tabular.fitting import TabularHistory
from gpubp.tabular.model import TableRows, TabularModel
from gpubp.tabular.predictor import encode, load, load_network
from gpubp.training.history import WATCHED, History

MODEL = MODEL_FILE
HISTORY = "history.csv"
METRICS = "metrics.json"
PARTS = ("train", "validation", "test")
HEALTH = "health.csv"  # of a training with diagnostics
REPORT = "report.html"
FILES = (MODEL, METRICS, HISTORY)
DRAWN = ("curves", "confusion", "health", "weights")  # what ``gpubp plot`` draws
ONLY_WATCHED = "only watched: no weights, epoch or setting was chosen by these rows"
MODEL_DIGEST = "model_digest"  # the entry of metrics.json that identifies its network
NAME_WITH_DATE = r"[\w-]+-\d{8}-\d{6}(-\d+)?"  # the folder name of a run without a given folder
ABANDONED = 60.0  # seconds after which an empty folder without a lock is abandoned
STAGE = "run"  # the name of the folder inside the run's folder while files are written to it


def summarize(net: MLP, prepared: PreparedData, history: History, config: dict[str, Any]) -> dict[str, Any]:
    """The contents of metrics.json; the network is evaluated in its current state on every part of the data."""
    every_part = dict(zip(PARTS, (prepared.train, prepared.validation, prepared.test), strict=True))
    parts = {name: part for name, part in every_part.items() if part is not None}
    return {
        "task": prepared.task,
        **how_well(net, prepared.preprocessing, parts),
        **_how_trained(net, history),
        **_watched(history),
        "gemm_table": net.stack.backend.gemm_table,
        "seed": net.stack.seeds[0],
        "parameters": net.parameters,
        "layer_sizes": list(net.layer_sizes),
        **({} if prepared.stream is None else {"streamed": True}),
        "config": config,
        "versions": _versions(),
    }


def summarize_preset(
    model: TabularModel,
    task: str,
    parts: Mapping[str, tuple[TableRows, Array]],
    history: TabularHistory,
    config: dict[str, Any],
) -> dict[str, Any]:
    """The contents of metrics.json for the networks of a preset; "validation" are out-of-fold predictions."""
    return {
        "task": task,
        **how_well(model, model.preprocessing, parts),
        **_how_trained(model, history),
        "seed": config["seed"],
        "parameters": model.parameters,
        "networks": model.models,
        **model.about,
        "config": config,
        "versions": _versions(),
    }


def how_well(net: MLP | TabularModel, preprocessing: dict[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of every part and the baseline's, and the confusion of classes in the last part."""
    X, y = list(parts.values())[-1]
    return {
        **{name: metrics.score(net, *part) for name, part in parts.items()},
        "baseline": {
            "predicts": metrics.baseline_name(preprocessing),
            **{name: metrics.baseline(preprocessing, y) for name, (_, y) in parts.items()},
        },
        "classes": preprocessing["target"].get("classes"),
        "confusion": metrics.confusion(preprocessing, y, net.forward(X)),
    }


def _how_trained(net: MLP | TabularModel, history: History | TabularHistory) -> dict[str, Any]:
    return {
        "epochs": history.epochs,
        "steps": history.steps,
        "stopped": history.stopped,
        "seconds": round(history.seconds[-1], 3) if history.seconds else 0.0,
        "device": net.device,
        "precision": net.precision,
    }


def _watched(history: History) -> dict[str, Any]:
    """What was watched in each epoch without affecting the training."""
    seen: dict[str, Any] = {}
    if history.watched_test_loss:
        loss, metric = (history.curve(name)[:, 0].tolist() for name in WATCHED)
        seen["watched_test"] = {"remark": ONLY_WATCHED, "loss": loss, history.metric_name: metric}
    if history.health is not None:
        layers = [vars(layer) for layer in history.health.looks[-1]]
        seen["health"] = {"verdicts": history.health.verdicts(history), "layers": layers}
    return seen


def files_of(folder: Path) -> tuple[str, ...]:
    """The files of the run in a folder."""
    return (*FILES, *(name for name in (HEALTH, training_rows.FILE) if (folder / name).exists()))


def picture(what: str) -> str:
    """The default file of ``gpubp plot``."""
    return f"{what}.png"


def _versions() -> dict[str, str]:
    return {
        "gpubp": gpubp.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
    }


def default_folder(name: str) -> Path:
    """``runs/NAME-DATE`` for a data set of this name, a folder that does not exist yet."""
    stem = re.sub(r"[^\w-]+", "-", name.partition(".")[0]).strip("-") or "data"
    first = Path("runs") / f"{stem}-{datetime.now():%Y%m%d-%H%M%S}"
    folder, n = first, 1
    while folder.exists():
        n += 1
        folder = first.with_name(f"{first.name}-{n}")
    return folder


def choose(out: Path | None, resume: Path | None, overwrite: bool, also: Sequence[str] = ()) -> Path | None:
    """The folder of a run that is given or resumed; None for a new one. It is checked before anything else.

    Raises
    ------
    UsageError
        If options conflict, or if the folder cannot be written to or already holds a run.
    """
    if resume is not None and (out is not None or overwrite):
        raise UsageError(f"--resume {resume} goes on in that folder; leave out --out and --overwrite")
    check_writable(resume or out or Path("runs"))
    if out is not None:
        check_new(out, overwrite, also)
    return resume or out


@contextmanager
def claimed(folder: Path | None, name: str, size: int = 0) -> Iterator[Path]:
    """`folder`, or a new ``runs/NAME-DATE``, created now and removed again if nothing is written to it.

    It is verified that `size` bytes can be written to it. Leftovers of killed commands in ``runs`` are removed.

    Raises
    ------
    UsageError
        If the folder cannot be made or written to.
    """
    made: list[Path] = []
    try:
        with ExitStack() as stack:
            try:
                if folder is None:
                    folder = _new_default_folder(name, made)
                place = Path(os.path.realpath(folder))
                _make(place, made)
                stack.enter_context(locked(place))
                _prove_writable(place, size)
            except OSError as error:
                raise UsageError(f"{folder}: cannot be written to ({error.strerror}); choose another --out") from error
            yield folder
    finally:
        with suppress(OSError):  # it is not empty
            for path in made:
                path.rmdir()


def _new_default_folder(name: str, made: list[Path]) -> Path:
    """Make a folder that no other process uses, and add it to `made`; empty ones of dead processes are removed."""
    while True:
        folder = default_folder(name)
        _make(folder.parent, made)
        for entry in folder.parent.iterdir():
            if re.fullmatch(NAME_WITH_DATE, entry.name) and time.time() - entry.stat().st_mtime > ABANDONED:
                remove_unlocked(entry, Path.rmdir)
        sweep(folder.parent, NAME_WITH_DATE)
        with suppress(FileExistsError):  # another command created it
            folder.mkdir()
            made.insert(0, folder)
            return folder


def _make(folder: Path, made: list[Path]) -> None:
    """Make a folder and its missing parents, and add them to `made`."""
    missing = [path for path in (folder, *folder.absolute().parents) if not os.path.exists(path)]
    folder.mkdir(parents=True, exist_ok=True)
    made[:0] = missing


def _prove_writable(folder: Path, size: int) -> None:
    """Write a file of `size` bytes into a folder as a run is written, and remove it."""
    with folder_beside(folder / STAGE) as stage, (stage / MODEL).open("wb") as file:
        if hasattr(os, "posix_fallocate"):  # allocates the space on disk at once
            try:
                os.posix_fallocate(file.fileno(), 0, max(size, 1))
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems without support
                    raise
        file.write(b"\0")


def check_writable(path: Path) -> None:
    """Refuse a folder that cannot be made or written to, before computing anything for it.

    Raises
    ------
    UsageError
        Naming the folder or file in the way.
    """
    existing = next(p for p in (path, *path.absolute().parents) if os.path.exists(p))
    if not existing.is_dir():
        raise UsageError(f"{path}: {existing} is a file, not a folder; choose another --out")
    if not os.access(existing, os.W_OK):
        raise UsageError(f"{path}: {existing} cannot be written to; choose another --out")


def check_new(folder: Path, overwrite: bool, also: Sequence[str] = ()) -> None:
    """Refuse a folder that already holds a run, before computing anything for it, unless `overwrite` is given.

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
    existing = next((name for name in (*FILES, *also) if os.path.exists(folder / name)), None)
    if existing is not None and not overwrite:
        raise UsageError(
            f"{folder}: holds a run already ({existing}); choose another --out, or --overwrite to replace it"
        )


def write(
    folder: Path,
    net: MLP | TabularModel,
    history: History | TabularHistory,
    summary: dict[str, Any],
    rows: Sequence[Array] = (),
) -> None:
    """Write the run folder. It appears whole; an existing folder never has files of two runs at once.

    Parameters
    ----------
    folder : Path
    net : MLP or TabularModel
    history : History or TabularHistory
    summary : dict
        The contents of metrics.json.
    rows : sequence of (n,) array
        The result of `training_rows.numbers_of` for its training and validation rows; empty if they are not kept.

    Raises
    ------
    UsageError
        If it cannot be written; the message says where the run is instead.
    """
    try:
        _put(Path(os.path.realpath(folder)), net, history, summary, rows)
    except (OSError, UsageError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        elsewhere = _put_elsewhere(folder.name, net, history, summary, rows)
        raise UsageError(f"{folder}: cannot be written ({reason}); {elsewhere}") from error


def _put(
    folder: Path,
    net: MLP | TabularModel,
    history: History | TabularHistory,
    summary: dict[str, Any],
    rows: Sequence[Array],
) -> None:
    """Write the run folder, as described in `write`."""
    within = folder.is_dir() and (any(folder.iterdir()) or folder.is_mount() or not os.access(folder.parent, os.W_OK))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(folder / STAGE if within else folder) as stage:
        net.save(stage / MODEL)
        atomic_write(stage / HISTORY, history.to_csv().encode())
        of_network = digest(stage / MODEL)
        if isinstance(history, History) and history.health is not None:
            atomic_write(stage / HEALTH, history.health.to_csv().encode())
        if rows:
            training_rows.save(stage, rows, of_network)
        summary = _finite(summary) | {MODEL_DIGEST: of_network}
        atomic_write(stage / METRICS, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
        if not within:
            _rename(stage, folder)
            sync_folder(folder.parent)
            return
        others = HISTORY, HEALTH, training_rows.FILE
        for name in (METRICS, REPORT, *map(picture, DRAWN), *others):  # another run's are removed before its network is
            (folder / name).unlink(missing_ok=True)
        sync_folder(folder)
        for name in (MODEL, *(other for other in others if (stage / other).exists()), METRICS):
            (stage / name).replace(folder / name)
        sync_folder(folder)


def _rename(stage: Path, folder: Path) -> None:
    """Move a folder over an empty or a missing one, without a moment in which others could take it."""
    if os.name == "nt":  # Windows cannot replace a folder
        with suppress(FileNotFoundError):
            folder.rmdir()
    stage.rename(folder)


def _put_elsewhere(
    name: str,
    net: MLP | TabularModel,
    history: History | TabularHistory,
    summary: dict[str, Any],
    rows: Sequence[Array],
) -> str:
    """Write a run that cannot be written to its folder among temporary files, and report where."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{name[:50]}-"))
    except OSError as error:
        return f"nor can anything in {tempfile.gettempdir()} ({error.strerror})"
    try:
        _put(folder, net, history, summary, rows)
    except (OSError, UsageError):
        shutil.rmtree(folder, ignore_errors=True)
        return f"nor can anything in {folder.parent}"
    return f"the run is in {folder} instead; move it to a place that keeps it"


def load_model(path: Path, device: str = "auto") -> MLP | TabularModel:
    """The network, or the networks of a preset, in a run folder or in a model file.

    Raises
    ------
    DataError
        If there is none.
    """
    return load_network(path, device)


def load_predictor(path: Path, decimal: str | None = None) -> tuple[MLP | TabularModel, dict[str, Any]]:
    """The model in a run folder or model file, and its encoding of raw rows.

    Parameters
    ----------
    path : Path
    decimal : {".", ","}, optional
        The decimal sign in raw rows, if it differs from that in training.

    Raises
    ------
    DataError
        If it is a stack, or was saved without its preprocessing.
    UsageError
        If `decimal` does not suit the network.
    """
    net = load(path).net
    assert net.preprocessing is not None
    if decimal is not None:
        net.preprocessing = with_decimal(net.preprocessing, decimal)
    return net, net.preprocessing


def health(path: Path, data: str) -> Health:
    """Examine the layers of the network in a run folder or model file once, with rows of `data`."""
    net, preprocessing = load_predictor(path)
    if isinstance(net, TabularModel):
        raise UsageError(
            f"{path}: holds {net.models} networks, and the layers of one are looked at; train one with --preset fast"
        )
    source = unseen_part(read(data, trained=preprocessing))
    X, y = encode(net, source)
    if y is None:
        raise UsageError(f"{source.name}: has no target, without which there is no gradient to look at")
    return examine(net.stack, *net.stack.checked(X, y))


def unseen_part(data: RawData) -> RawData:
    """The data's own test part if it has one, otherwise all of it."""
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
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
