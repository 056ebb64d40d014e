"""What was published beside what was measured: rows of a part, their table and the axes of their plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.parts import Part
from gpubp.plots import new_axes

FILE = "reproductions.json"


def compare(
    part: Part,
    what: str,
    published: float,
    each: Sequence[float],
    bar: tuple[float, float],
    *,
    form: str = "{:.2f} %",
    source: str = "",
) -> None:
    """Put a published figure and ours, the mean of `each`, into a part; met where the mean lies within `bar`."""
    ours = sum(each) / len(each)
    low, high = (form.format(bound) for bound in bar)
    asked = low if low == high else f"{low.removesuffix(' %')}-{high}" if bar[0] > 0 else f"<= {high}"
    seeds = f" ({', '.join(form.format(value).removesuffix(' %') for value in each)})" if len(each) > 1 else ""
    measured = form.format(ours) + seeds
    part.figures.append(
        {
            "what": what,
            "published": form.format(published),
            "ours": measured,
            "difference": form.replace("{:", "{:+").format(ours - published).removesuffix(" %"),
            "source": source,
        }
    )
    part.timed(what, asked, measured, bar[0] <= ours <= bar[1])


def table(parts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Lines in Markdown, a row for each figure that was published."""
    lines = ["| what | published | ours | difference | published in |", "|---|---:|---:|---:|---|"]
    for part in parts:
        for figure in part["figures"]:
            if "published" in figure:
                columns = ("what", "published", "ours", "difference", "source")
                lines.append(f"| {' | '.join(figure[column] for column in columns)} |")
    return lines


def draw_curves(
    path: Path,
    curves: Mapping[str, tuple[Sequence[float], float | None]],
    labels: tuple[str, str],
    epochs: Sequence[int] | None = None,
    **limits: Any,
) -> None:
    """Draw each curve by epoch, with the published figure, where it is one number, as a dashed line of its colour.

    Without `epochs`, a curve has a value for each, from 1 on.
    """
    axes = new_axes(figsize=(7, 4))
    for number, (name, (values, published)) in enumerate(curves.items()):
        axes.plot(epochs or range(1, len(values) + 1), values, color=f"C{number}", linewidth=1, label=name)
        if published is not None:
            axes.axhline(published, color=f"C{number}", linestyle="--", linewidth=0.8)
    axes.set(xlabel=labels[0], ylabel=labels[1], **limits)
    axes.legend(fontsize="small")
    axes.figure.savefig(path, dpi=80)
