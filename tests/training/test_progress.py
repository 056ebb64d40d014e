"""How a training is shown while it goes: a bar on a terminal, else some lines."""

from __future__ import annotations

import io
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

import gpubp
from gpubp.training.progress import PIPED_WIDTH, WIDE, TrainingProgress, make_console

X, Y = np.random.default_rng(0).normal(size=(12, 4)), np.arange(12) % 3


def shown(console: Console, epochs: int, models: int = 1, **options) -> str:
    """What is written on a console of a training."""
    net = gpubp.MLP([4, 3], seed=0, models=models, device="cpu-reference")
    with TrainingProgress(console, epochs, len(X)) as progress:
        gpubp.train(net, X, Y, epochs=epochs, callbacks=[progress], **options)
    written = console.file.getvalue()
    assert isinstance(written, str)
    return written


def console(width: int = WIDE, **options) -> Console:
    return Console(file=io.StringIO(), width=width, **options)


def test_a_terminal_shows_a_bar_that_ends_with_the_last_figures():
    text = shown(console(force_terminal=True, legacy_windows=False), 3, validation_data=(X, Y))
    assert "3/3" in text and "loss " in text and " validation " in text and "samples/s" in text
    narrow = shown(console(WIDE - 1, force_terminal=True, legacy_windows=False), 3, validation_data=(X, Y))
    assert " val " in narrow and "validation" not in narrow


def test_elsewhere_the_first_the_last_and_at_most_20_lines_are_shown():
    lines = shown(console(), 3).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    lines = shown(console(), 100).splitlines()
    assert [int(line.split("/")[0].split()[1]) for line in lines] == [1, *range(5, 101, 5)]
    assert lines[0].startswith("epoch   1/100  loss ")
    assert shown(console(quiet=True), 3) == ""


def test_of_a_stack_means_are_shown():
    assert "  mean loss " in shown(console(), 1, models=2)


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_no_terminal_is_as_wide_as_lines_need(terminal, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "77")
    made = make_console()
    assert made.is_terminal == terminal and made.width == (77 if terminal else PIPED_WIDTH)


@pytest.mark.parametrize("notebook", [True, False])
def test_in_a_notebook_the_end_of_a_bar_is_drawn(notebook):
    progress, drawn = TrainingProgress(console(force_terminal=True, force_jupyter=notebook), 3, 12), []
    progress.bar = SimpleNamespace(**{name: partial(drawn.append, name) for name in ("start", "refresh", "stop")})
    with progress:
        assert drawn == ["start"]
    assert drawn == (["start", "refresh", "stop"] if notebook else ["start", "stop"])
