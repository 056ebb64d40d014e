"""Saved figures, whichever command measured them, as Markdown tables and as plots."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
FLOOR = "bare GEMMs"


class UnreadableError(Exception):
    """A file that holds no figures, or plots that cannot be drawn; the message says which and why."""


@dataclass(frozen=True)
class Figure:
    """What one contender takes of something.

    Attributes
    ----------
    group : str
        What is compared: a network in a precision, or "step by width".
    contender : str
    amount : float
        The median time in microseconds, or memory in MB.
    value : float or None
        Where along the group's axis, such as a width.
    unit : {"us", "MB"}
    """

    group: str
    contender: str
    amount: float
    value: float | None = None
    unit: str = "us"


def read(path: Path) -> list[Figure]:
    """The figures in a file of `benchmarks.cpu`, `benchmarks.gpu`, ``gpubp bench --json`` or pytest-benchmark.

    Raises
    ------
    UnreadableError
        If it is none of these, or of a dry run.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "parts" in content:
            return list(_of_parts(path, content["parts"]))
        return list(_of_suites(content["benchmarks"]) if "benchmarks" in content else _of_bench(content))
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableError(f"{path} is no file of figures ({error!r})") from None


def _of_parts(path: Path, parts: dict[str, Any]) -> Iterator[Figure]:
    for name, part in parts.items():
        if part["kind"] != "measured":
            raise UnreadableError(f'{path}: part "{name}" is of a {part["kind"]}, whose figures mean nothing')
        for figure in part["figures"]:
            if "microseconds" in figure:
                group = f"{figure['network']}, {figure['precision']}"
                yield Figure(group, figure["contender"], figure["microseconds"])


def _of_suites(benchmarks: Sequence[dict[str, Any]]) -> Iterator[Figure]:
    for benchmark in benchmarks:
        extra = benchmark["extra_info"]
        contender = extra.get("contender") or benchmark["params"]["backend"]
        if "MB" in extra:
            yield Figure(benchmark["group"], contender, extra["MB"], unit="MB")
        else:
            yield Figure(benchmark["group"], contender, benchmark["stats"]["median"] * 1e6, extra.get("value"))


def _of_bench(report: dict[str, Any]) -> Iterator[Figure]:
    for row in report["rows"]:
        if "ms per step" in row:
            group, (middle, *_) = f"{report['network']}, {row['precision']}", row["ms per step"]
            yield Figure(group, row["backend"], middle * 1e3)
            yield Figure(group, f"{FLOOR}, {row['backend']}", middle * 1e3 * row["of the bare GEMMs"][0])


# -- tables -------------------------------------------------------------------------------------------------


def tables(name: str, figures: Sequence[Figure]) -> str:
    """By group and contender, then along every axis by value and contender."""
    lines = [f"## {name}", ""]
    for unit in ("us", "MB"):
        of_groups = [figure for figure in figures if figure.value is None and figure.unit == unit]
        lines += _table(unit, {figure.group: figure.group for figure in of_groups}, of_groups, lambda f: f.group)
    for group in _once(figure.group for figure in figures if figure.value is not None):
        along = sorted((f for f in figures if f.group == group), key=lambda f: f.value or 0)
        lines += _table(f"{group}, us", {f.value: f"{f.value:g}" for f in along}, along, lambda f: f.value)
    return "\n".join(lines)


def _table(corner: str, rows: dict[Any, str], figures: Sequence[Figure], row_of: Any) -> list[str]:
    if not figures:
        return []
    contenders = _once(figure.contender for figure in figures)
    amounts = {(row_of(figure), figure.contender): figure.amount for figure in figures}
    lines = [f"| {corner} | {' | '.join(contenders)} |", f"|---|{'---:|' * len(contenders)}"]
    for key, text in rows.items():
        cells = (_number(amounts[key, who]) if (key, who) in amounts else "" for who in contenders)
        lines.append(f"| {text} | {' | '.join(cells)} |")
    return [*lines, ""]


def _number(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 1000 else f"{amount:.3g}"


def _once(names: Any) -> list[str]:
    return list(dict.fromkeys(names))


# -- plots --------------------------------------------------------------------------------------------------


def plots(folder: Path, stem: str, figures: Sequence[Figure]) -> Iterator[Path]:
    """Step times, the floor's part of them, and a plot for every axis; the paths of those drawn.

    Raises
    ------
    UnreadableError
        Without matplotlib.
    """
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise UnreadableError("matplotlib is not installed; pip install 'gpubp[plot]'") from None
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    of_steps = [figure for figure in figures if figure.value is None and figure.unit == "us"]
    if of_steps:
        times = {(f.group, f.contender): f.amount for f in of_steps}
        yield _bars(folder / f"{stem}-steps.png", times, "microseconds", log=True)
        if shares := dict(_of_floor(times)):
            yield _bars(folder / f"{stem}-floor.png", shares, "bare GEMMs' part of a step's time", log=False)
    for group in _once(figure.group for figure in figures if figure.value is not None):
        along = sorted((f for f in figures if f.group == group), key=lambda f: f.value or 0)
        yield _lines(folder / f"{stem}-{group.replace(' ', '-')}.png", group, along)


def _of_floor(times: dict[tuple[str, str], float]) -> Iterator[tuple[tuple[str, str], float]]:
    """The smallest floor of a group, over the times of gpubp's own backends in it."""
    for (group, contender), time in times.items():
        floors = [t for (g, who), t in times.items() if g == group and who.startswith(FLOOR)]
        if floors and contender.startswith(("gpubp", "compiled", "cuda", "reference")):
            yield (group, contender), min(floors) / time


def _bars(path: Path, values: dict[tuple[str, str], float], label: str, log: bool) -> Path:
    import matplotlib.pyplot as plt

    groups, contenders = _once(group for group, _ in values), _once(who for _, who in values)
    figure, axes = plt.subplots(figsize=(max(6.0, 1.6 * len(groups)), 5), layout="constrained")
    width = 0.8 / len(contenders)
    for i, who in enumerate(contenders):
        at = [j for j, group in enumerate(groups) if (group, who) in values]
        heights = [values[groups[j], who] for j in at]
        axes.bar([j + (i - (len(contenders) - 1) / 2) * width for j in at], heights, width, label=who)
    axes.set_xticks(range(len(groups)), groups, rotation=30, ha="right")
    axes.set_ylabel(label)
    if log:
        axes.set_yscale("log")
    axes.legend(fontsize="small")
    figure.savefig(path)
    plt.close(figure)
    return path


def _lines(path: Path, group: str, along: Sequence[Figure]) -> Path:
    """Where two lines cross, the other one takes over."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for who in _once(f.contender for f in along):
        points = [(f.value, f.amount) for f in along if f.contender == who]
        axes.plot(*zip(*points, strict=True), marker="o", label=who)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(group.removeprefix("step by "))
    axes.set_ylabel("microseconds of a step")
    axes.legend()
    figure.savefig(path)
    plt.close(figure)
    return path
