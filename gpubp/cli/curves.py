"""The losses of a training as a small character picture, for terminals."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from gpubp.plots import ROWS, is_steep

if TYPE_CHECKING:
    from gpubp.training.history import History

WIDTH, HEIGHT = 60, 8  # characters, at most
LABEL = 10  # characters for the scale next to the picture
# Colours of the losses of gpubp.plots.ROWS, and their letters for terminals without braille dots.
STYLES = {"": ("blue", "t"), "validation_": ("yellow", "v"), "watched_test_": ("green", "w")}
# The bit of each dot of a braille character, 4 rows of 2, and the empty character to which they are added.
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
BLANK = 0x2800


def show_curves(console: Console, history: History) -> None:
    """Show the losses by epoch, if there are a terminal and more than one epoch."""
    if not console.is_terminal or console.quiet or history.epochs < 2:
        return
    letters = console.options.ascii_only
    for line in curve_lines(history, min(WIDTH, console.width - LABEL - 2), letters=letters):
        console.print(line, no_wrap=True, crop=True)


def curve_lines(history: History, width: int, *, letters: bool = False) -> list[Text]:
    """The picture of one network's losses, line by line: curves with their scale, epochs, and a legend.

    Parameters
    ----------
    history : History
    width : int
        Characters of a line of the picture, without the scale.
    letters : bool
        Draw with letters instead of braille dots, which some terminals lack.
    """
    losses = {rows: history.curve(f"{rows}loss")[:, 0] for rows in ROWS if getattr(history, f"{rows}loss")}
    finite = np.concatenate(list(losses.values()))
    finite = finite[np.isfinite(finite)]
    if width < 2 or not len(finite):
        return []
    logarithmic = is_steep(finite)
    low, high = float(finite.min()), float(finite.max())
    cells, colours = _drawn(losses, (low, high), logarithmic, width, letters)
    lines = []
    for row in range(HEIGHT):
        scale = {0: f"{high:.4g}", HEIGHT - 1: f"{low:.4g}"}.get(row, "")
        line = Text(f"{scale:>{LABEL}} ")
        for colour, places in groupby(range(width), colours[row].__getitem__):
            line.append("".join(cells[row][place] for place in places), colour)
        lines.append(line)
    last = f"{history.epochs:,}"
    lines.append(Text(f"{'loss':>{LABEL}} 1{last:>{width - 1}} epochs"))
    legend = Text(" " * (LABEL + 1))
    for rows in losses:
        colour, letter = STYLES[rows]
        legend.append(f"{letter if letters else '━━'} {ROWS[rows][0]}   ", colour)
    return [*lines, legend + Text("log scale" if logarithmic else "")]


def _drawn(
    losses: dict[str, NDArray[np.float64]], ends: tuple[float, float], logarithmic: bool, width: int, letters: bool
) -> tuple[list[list[str]], list[list[str]]]:
    """The characters of the picture and their colours, row by row."""
    across, down = (1, 1) if letters else (2, 4)  # dots of a character
    characters = np.full((HEIGHT, width), ord(" "))
    colours = np.full((HEIGHT, width), "", dtype=object)
    for rows, curve in losses.items():
        colour, letter = STYLES[rows]
        for x, y in _dots(curve, ends, logarithmic, width * across, HEIGHT * down):
            place = y // down, x // across
            if letters:
                characters[place] = ord(letter)
            else:
                characters[place] = max(characters[place], BLANK) | DOTS[y % down][x % across]
            colours[place] = colour
    return [[chr(code) for code in row] for row in characters.tolist()], colours.tolist()


def _dots(
    curve: NDArray[np.float64], ends: tuple[float, float], logarithmic: bool, width: int, height: int
) -> Iterator[tuple[int, int]]:
    """The dots of a curve in a picture of width x height, including those in between; the first row is the top."""
    low, high = np.log(ends) if logarithmic else ends
    epochs = np.linspace(0, len(curve) - 1, width)
    known = np.flatnonzero(np.isfinite(curve))
    if not len(known):
        return
    values = np.interp(epochs, known, np.log(curve[known]) if logarithmic else curve[known])
    rows = np.rint((high - values) / ((high - low) or 1.0) * (height - 1)).astype(int)
    within = (epochs >= known[0]) & (epochs <= known[-1])
    before = None
    for x in np.flatnonzero(within).tolist():
        y = int(rows[x])
        between = range(y, y + 1) if before is None or before == y else range(y, before, 1 if before > y else -1)
        yield from ((x, row) for row in between)
        before = y
