"""Losses in a terminal: what is drawn, where, and when nothing is."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from gpubp import History
from gpubp.cli.curves import HEIGHT, LABEL, curve_lines, show_curves


def history(loss, validation=None, watched=None) -> History:
    made = History("accuracy")
    for epoch, value in enumerate(loss):
        entries = {"loss": value, "metric": 0.5, "learning_rate": 0.1}
        if validation is not None:
            entries |= {"validation_loss": validation[epoch], "validation_metric": 0.5}
        made.append(epoch, **{name: np.array([number]) for name, number in entries.items()})
        if watched is not None:
            made.watch_test(np.array([watched[epoch]]), np.array([0.5]))
    return made


def text(made: History, width: int = 40, *, letters: bool = True) -> list[str]:
    return [line.plain for line in curve_lines(made, width, letters=letters)]


def test_a_curve_goes_from_its_first_value_to_its_last():
    lines = text(history(np.linspace(2.0, 1.0, 40)))
    columns = [[row for row in range(HEIGHT) if lines[row][LABEL + 1 + x : LABEL + 2 + x] == "t"] for x in range(40)]
    assert columns[0] == [0] and columns[-1] == [HEIGHT - 1]
    rows = [row for column in columns for row in column]
    assert all(columns) and rows == sorted(rows) and set(rows) == set(range(HEIGHT))
    assert lines[0].split()[0] == "2" and lines[HEIGHT - 1].split()[0] == "1"
    assert lines[HEIGHT].split() == ["loss", "1", "40", "epochs"]


def test_a_jump_has_no_hole():
    lines = text(history([1.0] * 20 + [2.0] * 20))
    marks = [sum(line[LABEL + 1 + x : LABEL + 2 + x] == "t" for line in lines[:HEIGHT]) for x in range(40)]
    assert marks[:20] == [1] * 20 and marks[20] == HEIGHT - 1 and marks[21:] == [1] * 19


def test_every_curve_is_named():
    lines = text(history([3.0, 2.0], [3.1, 2.2], [3.2, 2.4]))
    assert lines[-1].split() == "t training v validation w test, only watched".split()
    assert {"t", "v", "w"} <= set("".join(lines[:HEIGHT]))


def test_losses_that_fall_far_have_a_logarithmic_scale():
    lines = text(history(10.0 ** -np.arange(5)))
    assert lines[-1].endswith("log scale")
    assert [sum("t" in line[LABEL + 1 :] for line in lines[:HEIGHT])] == [HEIGHT]


def test_dots_are_finer_than_letters():
    lines = text(history(np.linspace(2.0, 1.0, 40)), letters=False)
    drawn = "".join(line[LABEL + 1 :] for line in lines[:HEIGHT]).replace(" ", "")
    assert all(0x2800 < ord(character) < 0x2900 for character in drawn)
    assert sum((ord(character) - 0x2800).bit_count() for character in drawn) >= 80


@pytest.mark.parametrize("loss", [[1.0, np.nan, 0.5], [np.nan, 1.0, 0.9], [1.0, 1.0], [0.0, 0.0], [-3.0, -5.0]])
def test_losses_of_every_kind_are_drawn(loss):
    assert len(text(history(loss), letters=False)) == HEIGHT + 2


def test_what_cannot_be_drawn_is_left_away():
    assert text(history([np.nan, np.nan])) == [] and text(history([1.0, 2.0]), width=1) == []


@pytest.mark.parametrize(
    "terminal, quiet, epochs, shown",
    [(True, False, 2, True), (False, False, 2, False), (True, True, 2, False), (True, False, 1, False)],
)
def test_only_a_terminal_shows_curves(terminal: bool, quiet: bool, epochs: int, shown: bool):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, quiet=quiet, width=60)
    show_curves(console, history(np.linspace(2.0, 1.0, epochs)))
    assert bool(out.getvalue()) == shown
    assert all(len(line) < 160 for line in out.getvalue().splitlines())


def test_no_line_is_wider_than_the_terminal():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=40, no_color=True, color_system=None)
    show_curves(console, history(10.0 ** -np.arange(5), [3.0] * 5, [3.0] * 5))
    lines = out.getvalue().splitlines()
    assert len(lines) == HEIGHT + 2 and max(map(len, lines)) <= 40
