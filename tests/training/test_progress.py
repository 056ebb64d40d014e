"""How a training is shown while it goes: a bar on a terminal, else some lines."""

from __future__ import annotations

import io
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

import gpubp
from gpubp.training.progress import PIPED_WIDTH, WIDE, TrainingProgress, console_of_python, make_console

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


def line(*epochs: dict[str, list[float]], models: int = 1) -> str:
    """What is shown after the last of these epochs, which take two seconds each."""
    history, made = gpubp.History("accuracy", models), console()
    progress = TrainingProgress(made, len(epochs), len(X))
    for epoch, entries in enumerate(epochs):
        history.append(2.0 * (epoch + 1), **{name: np.array(values) for name, values in entries.items()})
        progress(gpubp.MLP([4, 3], device="cpu-reference"), history)
    return made.file.getvalue().splitlines()[-1].partition("  ")[2]


def test_the_figures_are_those_of_the_last_epoch():
    first = {"loss": [9.0], "metric": [0.1], "validation_loss": [8.0], "validation_metric": [0.2]}
    last = {"loss": [0.25], "metric": [1.0], "validation_loss": [0.0001], "validation_metric": [0.5]}
    assert line(first) == "loss 9.000 accuracy 0.1000 validation 8.000 0.2000 6 samples/s"
    assert line(first, last) == "loss 0.2500 accuracy 1.000 validation 0.0001000 0.5000 6 samples/s"
    small, large = {"loss": [0.00009], "metric": [999.9]}, {"loss": [1000.0], "metric": [-2.0]}
    assert line(small) == "loss 9.000e-05 accuracy 999.9 6 samples/s"
    assert line(large) == "loss 1.000e+03 accuracy -2.000 6 samples/s"


def test_the_mean_is_that_of_the_networks_that_train():
    nothing = {"loss": [np.nan, np.nan], "metric": [np.nan, np.nan]}
    some = {"loss": [1.0, np.nan], "metric": [0.5, 1.0]}
    assert line(some, models=2) == "mean loss 1.000 accuracy 0.7500 6 samples/s"
    assert line(some, nothing, models=2) == "mean loss nan accuracy nan 6 samples/s"


@pytest.mark.parametrize("width, bar", [(WIDE, 20), (WIDE - 1, 5)])
def test_the_bar_leaves_room_for_the_figures(width: int, bar: int):
    text = shown(console(width, force_terminal=True, legacy_windows=False, color_system=None), 1)
    assert f" {'━' * bar} loss" in text


@pytest.mark.parametrize("notebook", [True, False])
@pytest.mark.parametrize("terminal", [True, False])
def test_names_are_printed_as_they_are(notebook: bool, terminal: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: notebook)
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    for made in (make_console(), console_of_python()):
        text = made.render_str("'[b]rate[/b]' :smile: 5")
        assert text.plain == "'[b]rate[/b]' :smile: 5" and not text.spans


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
