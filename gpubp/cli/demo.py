"""``gpubp demo``: the lessons, run here and now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpubp.errors import UsageError
from gpubp.lessons import LESSONS, get_lesson

if TYPE_CHECKING:
    from gpubp.lessons.lesson import Lesson

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help=f"One of {', '.join(LESSONS)}.")]
Picture = Annotated[
    Path | None, typer.Option("--out", help="Draw it to a .png, .svg or .pdf file.", metavar="FILE", show_default=False)
]


def demo(name: Name = None, out: Picture = None) -> None:
    """Show what the theory says of learning, by an experiment of a few seconds; without a name, list them."""
    if name is None:
        if out is not None:
            raise UsageError(f"--out {out}: name the lesson to draw; there are {', '.join(LESSONS)}")
        for each in LESSONS:
            typer.echo(f"{each:<20}{get_lesson(each).title}")
        return
    lesson = get_lesson(name)
    if out is not None:
        _check(out)
    measured = lesson.measure()
    typer.echo(f"{lesson.title}\n\n{lesson.conclude(measured)}")
    if out is not None:
        draw(lesson, measured, out)
        typer.echo(f"\nwrote {out}")


def draw(lesson: Lesson, measured: dict[str, Any], out: Path) -> None:
    """Draw a lesson's measurements to a file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot(title=lesson.title)
    lesson.draw(axes, measured)
    axes.grid(alpha=0.3)
    figure.savefig(out, dpi=100)


def _check(out: Path) -> None:
    """Refuse a picture that cannot be drawn before computing anything for it."""
    if out.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--out {out}: a picture is a .png, .svg or .pdf file")
    if out.exists():
        raise UsageError(f"--out {out}: there is such a file already; choose another name")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}; make it first")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("--out draws with Matplotlib, which is not here: pip install 'gpubp[plot]'") from None
