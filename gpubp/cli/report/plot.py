"""``gpubp plot``: one picture of a run, as a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpubp.errors import DataError, UsageError, suggest

if TYPE_CHECKING:
    from gpubp.cli.report.collect import Run
    from gpubp.network import MLP

ENDINGS = (".png", ".svg")


def _curves(run: Run) -> Any:
    from gpubp.cli.report import figures

    if not run.curves:
        raise DataError(_missing(run, "curves", "a run that was interrupted goes on with gpubp train … --resume"))
    return figures.curves([run])


def _confusion(run: Run) -> Any:
    from gpubp import plots
    from gpubp.cli.run_folder import PARTS

    if not run.metrics:
        raise DataError(_missing(run, "scores", "gpubp evaluate RUN DATA shows the confusion on rows of yours"))
    matrix, classes = run.metrics.get("confusion"), run.metrics.get("classes")
    if matrix is None or classes is None:
        task = run.metrics.get("task", "another task")
        raise UsageError(
            f"{run.folder}: only classes, of which there are at most 100, are confused with each other, and this is "
            f"{task}; gpubp report {run.folder} draws how its predictions are spread"
        )
    part = [name for name in PARTS if name in run.metrics][-1]
    axes = plots.confusion(matrix, classes)
    axes.set_title(f"{part} rows")
    return axes


def _health(run: Run) -> Any:
    from gpubp import plots

    if run.health_by_epoch is None:
        damaged = [text for text in run.missing if text.startswith("health")]
        reason = damaged[0] if damaged else "the training did not look at its layers"
        raise DataError(f"{run.folder}: {reason}; train with --diagnostics to keep how they fare in each epoch")
    return plots.health_maps(run.health_by_epoch)


def _weights(run: Run) -> Any:
    from gpubp import plots

    net = _single(run)
    return (
        plots.weights(net) if run.pictures and plots.picture_shape(net.layer_sizes[0]) else plots.weight_histograms(net)
    )


def _single(run: Run) -> MLP:
    from gpubp.tabular.model import TabularModel

    if run.net is None:
        raise DataError(_missing(run, "the network", "train anew, or give the folder of another run"))
    if isinstance(run.net, TabularModel):
        raise UsageError(
            f"{run.folder}: holds {run.net.models} networks, and the weights of one are drawn; train one with --preset "
            "fast"
        )
    return run.net


def _missing(run: Run, what: str, remedy: str) -> str:
    reason = next((text for text in run.missing if text.startswith(what)), f"{what}: there is nothing")
    return f"{run.folder}: {reason}; {remedy}"


PICTURES: dict[str, Callable[[Run], Any]] = {
    "curves": _curves,
    "confusion": _confusion,
    "health": _health,
    "weights": _weights,
}

Folder = Annotated[Path, typer.Argument(metavar="MODEL_DIR", help='The folder that "gpubp train" wrote.')]
What = Annotated[str, typer.Argument(metavar="|".join(PICTURES), help="What to draw.")]
Out = Annotated[
    Path | None,
    typer.Option(help="A .png or .svg file (default: curves.png and so on, in MODEL_DIR).", metavar="FILE"),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there already.")]


def plot(model: Folder, what: What, out: Out = None, overwrite: Overwrite = False) -> None:
    """Draw one picture of a run: its losses, the confusion of its classes, its layers by epoch, or its weights."""
    from gpubp.cli import run_folder

    if what not in PICTURES:
        raise UsageError(f'there is no picture of "{what}"; {suggest(what, PICTURES)}')
    path = model / run_folder.picture(what) if out is None else out
    _check(path, overwrite)
    from gpubp.cli.report import figures
    from gpubp.cli.report.collect import read_folder
    from gpubp.serialization import atomic_write

    drawn = PICTURES[what](read_folder(model))
    atomic_write(path, figures.rendered(drawn.figure, path.suffix[1:]))
    typer.echo(f"wrote {path}")


def _check(path: Path, overwrite: bool) -> None:
    """Refuse a picture that cannot be drawn or would overwrite a file, before reading anything for it."""
    from gpubp.plots import new_axes

    if path.suffix not in ENDINGS:
        raise UsageError(f"--out {path}: a picture is a .png or .svg file")
    if path.is_dir():
        raise UsageError(f"--out {path}: is a folder; choose another name")
    if path.exists() and not overwrite:
        raise UsageError(f"{path}: there is such a file already; choose another --out, or --overwrite to replace it")
    new_axes()  # raises if Matplotlib is missing
