"""The parameters of commands that are made of records: all of them, in their order, with what the record says."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gpubp.cli import options
from gpubp.cli.app import app
from gpubp.cli.options import NETWORK_OPTIONS, OPTIONS
from gpubp.cli.search import grid
from gpubp.cli.search.grid import parse_grid
from gpubp.cli.settings import Settings
from gpubp.training.options import TRAINING_OPTIONS, Option
from support.commands import done

TRAINING_COMMANDS = ("train", "search")
NEW = Option(
    name="warm_start", type=int, default=3, low=2, help="An option that nobody has.", metavar="TIMES", optional=True
)


def parameters(command: str) -> dict[str, Any]:
    """The parameters of a command, as it was built."""
    return {str(p.name): p for p in typer.main.get_command(app).commands[command].params}  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", TRAINING_COMMANDS)
def test_a_command_takes_every_option_with_its_default_and_its_words(command: str) -> None:
    built = parameters(command)
    names = list(built)
    first = names.index("hidden")
    assert names[first : first + len(OPTIONS) + 1] == [*NETWORK_OPTIONS, *TRAINING_OPTIONS, "seed"]
    for name, option in OPTIONS.items():
        parameter = built[name]
        assert parameter.opts == [f"--{name.replace('_', '-')}"]
        assert (parameter.default, parameter.help, parameter.metavar) == (
            option.command_default,
            option.help,
            option.metavar,
        )
        assert parameter.rich_help_panel == ("Network" if name in NETWORK_OPTIONS else "Training")


@pytest.mark.parametrize("command", TRAINING_COMMANDS)
def test_help_shows_every_option(command: str) -> None:
    text = done(command, "--help")
    assert all(f" --{name.replace('_', '-')} " in text for name in OPTIONS)


def test_the_command_line_has_defaults_of_its_own_where_it_chooses_better() -> None:
    own = {name: option.command_default for name, option in TRAINING_OPTIONS.items()}
    assert {name: value for name, value in own.items() if value != TRAINING_OPTIONS[name].default} == {
        "schedule": "cosine",
        "epochs": None,
    }


def test_a_new_record_is_an_option_of_commands_and_of_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    training = {**TRAINING_OPTIONS, NEW.name: NEW}
    monkeypatch.setitem(options.PANELS, "Training", training)
    monkeypatch.setattr(grid, "OPTIONS", NETWORK_OPTIONS | training)
    monkeypatch.setattr("gpubp.cli.settings.OPTIONS", NETWORK_OPTIONS | training)
    received: dict[str, Any] = {}

    @options.takes_options(before="last")
    def command(first: str, last: int = 0, **values: Any) -> None:
        received.update(values, first=first, last=last)

    assert list(inspect.signature(command).parameters) == ["first", *NETWORK_OPTIONS, *training, "last"]
    program = typer.Typer()
    program.command()(command)

    def run(*arguments: str) -> Any:
        return CliRunner(env={"COLUMNS": "100"}).invoke(program, arguments)

    assert "An option that nobody has. [default: 3]" in run("--help").output
    assert run("x", "--warm-start", "7", "--last", "1").exit_code == 0
    assert (received["first"], received["last"], received["warm_start"]) == ("x", 1, 7)
    assert run("x", "--warm-start", "1").exit_code == 2
    assert run("x").exit_code == 0
    values = {name: received[name] for name in (*NETWORK_OPTIONS, *training)}
    candidates = parse_grid(["warm-start=2,none,5"], Settings(values)).candidates
    assert [candidate["warm_start"] for candidate in candidates] == [2, None, 5]
