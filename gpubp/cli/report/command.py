"""``gpubp report``: what a run came to, as one page with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(metavar="MODEL_DIR", help='The folder that "gpubp train" wrote.')]
Data = Annotated[
    str | None,
    typer.Argument(metavar="[DATA]", help="Rows to report on, instead of the run's own test rows."),
]
Compare = Annotated[Path | None, typer.Option(help="Another run to show beside it.", metavar="MODEL_DIR")]
Out = Annotated[Path | None, typer.Option(help="The page (default: report.html in MODEL_DIR).", metavar="FILE")]


def report(model: Folder, data: Data = None, compare: Compare = None, out: Out = None) -> None:
    """Write one page on a run: scores, curves, network, predictions, worst mistakes, health, configuration."""
    from gpubp.cli.report.collect import collect
    from gpubp.cli.report.page import page
    from gpubp.plots import new_axes
    from gpubp.serialization import atomic_write

    new_axes()  # says that Matplotlib is missing before anything is read
    run = collect(model, data)
    other = None if compare is None else collect(compare, data)
    path = model / "report.html" if out is None else out
    atomic_write(path, page(run, other).encode())
    for missing in run.missing:
        typer.echo(f"  missing: {missing}")
    typer.echo(f"wrote {path}")
