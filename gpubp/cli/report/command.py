"""``gpubp report``: the results of a run on one page with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpubp.errors import UsageError

Folder = Annotated[Path, typer.Argument(metavar="MODEL_DIR", help='The folder that "gpubp train" wrote.')]
Data = Annotated[
    str | None,
    typer.Argument(metavar="[DATA]", help="Rows to report on, instead of the run's own test rows."),
]
Compare = Annotated[Path | None, typer.Option(help="Another run to show beside it.", metavar="MODEL_DIR")]
Out = Annotated[Path | None, typer.Option(help="The page (default: report.html in MODEL_DIR).", metavar="FILE")]


def report(model: Folder, data: Data = None, compare: Compare = None, out: Out = None) -> None:
    """Write one page on a run: scores, curves, network, predictions, worst mistakes, health, configuration."""
    from gpubp.cli import run_folder
    from gpubp.plots import new_axes

    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {out}: the page is HTML; choose a file that ends in .html")
    new_axes()  # raises if Matplotlib is missing, before anything is read
    path = model / run_folder.REPORT if out is None else out
    missing = write_page(path, model, data, compare)
    for what in missing:
        typer.echo(f"  missing: {what}")
    typer.echo(f"wrote {path}")


def write_page(path: Path, model: Path, data: str | None = None, compare: Path | None = None) -> list[str]:
    """Write the page on a run; returns what is missing in it, and why."""
    from gpubp.cli.report.collect import collect
    from gpubp.cli.report.page import page
    from gpubp.serialization import atomic_write

    run = collect(model, data)
    other = None if compare is None else collect(compare, data)
    atomic_write(path, page(run, other).encode())
    return run.missing
