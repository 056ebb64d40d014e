"""The option ``--preset`` of the command `train`: settings for one network, or the networks of several recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from gpubp import checks
from gpubp.cli.options import OPTIONS, asked_for
from gpubp.cli.parsing import dashed, parse_class_weight, parse_test
from gpubp.cli.settings import Settings
from gpubp.data import targets
from gpubp.data.encodings import get_encodings
from gpubp.errors import DivergenceError, UsageError
from gpubp.tabular.epochs import ValidatedWeights
from gpubp.tabular.recipes import PRESETS, RECIPES, Preset, Recipe, get_preset
from gpubp.training.interruption import RaisingInterruption
from gpubp.training.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from rich.console import Console

    from gpubp.data import LargeData, PreparedData, RawData
    from gpubp.network import MLP

PARAMETERS = ("numbers", "preset", "time_limit")  # of the command, None where they are not given
NONE, DEFAULT = "none", "fast"
NOT_OF_A_NETWORK = ("loss", "epochs")  # options that, typed, leave the network to the preset


def check(preset: str | None, numbers: str | None, time_limit: float | None) -> None:
    """Refuse an unknown preset or encoding, and a time that is none, before anything is read.

    Raises
    ------
    UsageError
        Naming the option.
    """
    if preset not in (None, NONE):
        get_preset(str(preset))
    if numbers is not None:
        get_encodings(numbers)
    if time_limit is not None and not time_limit > 0:
        raise UsageError(f"--time-limit {time_limit:g}: give seconds, more than 0")


def choose(ctx: typer.Context, data: RawData) -> Preset | None:
    """The preset that a command asks for: for tables "fast", unless an option makes a network of the user's own.

    Raises
    ------
    UsageError
        If a preset is asked for that does not suit the data, or the options beside it.
    """
    asked = ctx.params["preset"]
    if asked is None and (data.kind != "table" or _typed(ctx)):
        if data.kind == "table":
            named = f"--{dashed(_typed(ctx)[0])}"
            data.say(f"preset: none, as {named} is given; --preset fast takes all that is not given from there")
        return None
    if asked == NONE:
        return None
    preset = get_preset(asked or DEFAULT)
    if data.kind != "table":
        raise UsageError(f"--preset {preset.name}: {data.name} is no table; leave the preset out")
    if preset.folds > 1:
        of_one_network = ("validation", "numbers", "diagnostics", "watch_test", "checkpoint_every", "resume")
        theirs = [*_typed(ctx), *(name for name in of_one_network if ctx.params[name] not in (None, False))]
        if theirs:
            raise UsageError(
                f"--preset {preset.name} makes several networks, so --{dashed(theirs[0])} does not go with it; leave "
                f"it out, or use --preset {DEFAULT}"
            )
    if asked is None:
        data.say(f"preset: {DEFAULT}; more accurate and slower: {', '.join(n for n in PRESETS if n != DEFAULT)}")
    return preset


def are_several_networks(preset: str | None) -> bool:
    """Whether a preset that is asked for trains several networks; one that is not asked for does not."""
    return preset not in (None, NONE) and get_preset(str(preset)).folds > 1


def check_processes(preset: str, size: int) -> None:
    """Refuse a preset of several networks, where several processes train one."""
    if size > 1:
        raise UsageError(
            f"--preset {preset} trains {get_preset(preset).folds} networks or more, and {size} processes train one "
            f"together; use --preset {DEFAULT}, or start it without mpiexec"
        )


def check_large(ctx: typer.Context, data: LargeData, preset: Preset | None) -> None:
    """Refuse what needs all rows in memory, where the data are read in blocks.

    Raises
    ------
    UsageError
        Naming the option.
    """
    folds = None if preset is None or preset.folds == 1 else f"--preset {preset.name}"
    needing_all = {"--class-weight": ctx.params["class_weight"] is not None, "--diagnostics": ctx.params["diagnostics"]}
    option = folds or next((name for name, given in needing_all.items() if given), None)
    if option is not None:
        raise UsageError(
            f"{option} needs all rows of {data.blocks.name} in memory, more than the limit allows; leave it out, or "
            "raise --memory-limit"
        )


def _typed(ctx: typer.Context) -> list[str]:
    """The options on the network and its training that are given on the command line."""
    source = {name: ctx.get_parameter_source(name) for name in OPTIONS if name not in NOT_OF_A_NETWORK}
    return [name for name, where in source.items() if where is not None and where.name == "COMMANDLINE"]


def recipe_of(preset: Preset) -> Recipe:
    """The recipe of a preset of one network."""
    return RECIPES[preset.recipes[0]]


def settings_of(ctx: typer.Context, settings: Settings, preset: Preset, prepared: PreparedData) -> tuple[Settings, int]:
    """Settings in which what is not given is the recipe's, and how many epochs on all rows come after these.

    Where rows are validated on, the best epoch is kept. Values that are predicted stay within the range of the
    training rows.
    """
    targets.clamp(prepared.preprocessing["target"], prepared.train[1])
    recipe, typed = recipe_of(preset), [*_typed(ctx), "loss"]
    if prepared.validation is None or prepared.stream is not None:
        preset = replace(preset, on_all_rows=0.0)
    epochs = preset.spend(settings["epochs"] or recipe.epochs_for(prepared.rows))
    options = recipe.options(prepared.task != "regression") | epochs.arguments()
    if prepared.validation is None:
        options["patience"] = None
    if "optimizer" in typed:
        options = {name: value for name, value in options.items() if name not in ("learning_rate", "weight_decay")}
    options = {name: value for name, value in options.items() if name not in typed}
    return settings.changed(options), epochs.on_all_rows


def train_on_all_rows(
    console: Console,
    net: MLP,
    prepared: PreparedData,
    settings: Settings,
    arguments: Mapping[str, Any],
    seconds: float,
) -> int | None:
    """Train a network for some epochs more, for so many seconds at most, on the rows that it was validated on as well.

    Where that is interrupted, leaves the finite numbers or takes more memory than there is, the network stays as it is.
    Else values that are predicted stay within the range of all these rows.

    Returns
    -------
    int or None
        The signal that interrupted it.
    """
    from gpubp.cli import display
    from gpubp.training import train as run_training

    ranks = arguments.get("communicator", ALONE)
    # What a rank meets alone ends all.
    expected = (KeyboardInterrupt, DivergenceError, *((MemoryError,) if ranks.size == 1 else ()))
    say = partial(display.say, console, style="yellow")
    with RaisingInterruption() as interruption, ValidatedWeights(net, say, expected) as validated:
        everything = with_validation_rows(prepared, ranks)
        epochs, rows = arguments["epochs"], everything.rows
        display.say(console, f"{display.plural(epochs, 'epoch')} more on all {rows:,} rows")
        with display.TrainingProgress(console, epochs, rows) as progress:
            run_training(
                net,
                **everything.training_arguments,
                **{**settings.train_arguments(), **arguments},
                callbacks=(progress, lambda net, history: history.seconds[-1] >= seconds),
            )
        targets.clamp(prepared.preprocessing["target"], everything.train[1])
    return interruption.signal or SIGINT if isinstance(validated.failure, KeyboardInterrupt) else None


def with_validation_rows(prepared: PreparedData, ranks: Ranks) -> PreparedData:
    """The data whose training rows are those to validate on, too; once in the memory that ranks on a machine share."""
    from gpubp.data.read_once import prepared_once

    def put_together() -> tuple[PreparedData, dict[str, Any]]:
        assert prepared.validation is not None
        (X, y), (X_validated, y_validated) = prepared.train, prepared.validation
        train = checks.stacked_rows(X, X_validated), np.concatenate([y, y_validated])
        return replace(prepared, train=train, validation=None, test=None), {}

    return prepared_once(ranks, "with the validation rows", put_together)[0]


def train(
    ctx: typer.Context, console: Console, source: RawData, preset: Preset, settings: Settings, folder: Path
) -> None:
    """Train all networks of a preset, show it, and keep them with their metrics in a folder."""
    from gpubp.cli import display, run_folder, training_rows
    from gpubp.cli.train import show_result, write_report
    from gpubp.data.prepare import TASKS, choose
    from gpubp.tabular import fitting
    from gpubp.tabular.fold_rows import TrainingRows
    from gpubp.tabular.model import TableRows

    params = ctx.params
    chosen = choose(source, settings["loss"], "auto", parse_test(params["test"]), params["seed"])
    data, rows, target = chosen.data, chosen.rows, chosen.target
    targets.standardize(target, data, chosen.loss, rows, chosen.outputs)
    table = TrainingRows(data, rows, target, chosen.loss, chosen.outputs, chosen.strata)
    by_class = parse_class_weight(params["class_weight"], target.get("classes"))
    table = replace(table, weight=checks.class_weights(by_class, table.y, target["outputs"], chosen.loss))
    target["training_mean"] = targets.training_mean(target, table.y)
    targets.say_few_rows(target, data)
    targets.clamp(target, table.y)
    tested = f", {len(chosen.test_rows):,} test" if len(chosen.test_rows) else ""
    display.say(console, f"{source.name}: {TASKS[target['type']]}; rows: {len(rows):,} training{tested}", "bold")
    with display.PresetProgress(console) as progress:
        run = fitting.Run(
            seed=params["seed"],
            device=params["device"],
            precision=params["precision"],
            time_limit=params["time_limit"],
            epochs=settings["epochs"],
            say=lambda text: display.show_notes(console, [text]),
            progress=progress,
        )
        fitted = fitting.fit(table, preset, run)
    display.show_notes(console, dict.fromkeys([*data.notes, *chosen.test_data.notes]))
    model, history = fitted.model, fitted.history
    counted = ", ".join(f"{name} {weight:.2f}" for name, weight in fitted.weights.items())
    display.say(
        console, f"{model.models} networks in {fitting.duration(history.seconds[-1])}; recipes count: {counted}"
    )
    parts = {
        "train": TableRows(data, rows),
        "validation": TableRows(data, rows, fitted.oof_outputs),
        "test": TableRows(chosen.test_data, chosen.test_rows),
    }
    with_targets: dict[str, Any] = {
        name: (part, model.encoded_targets(part)) for name, part in parts.items() if len(part)
    }
    config = asked_for(ctx) | {"preset": preset.name, "target": target["name"], "loss": chosen.loss.name}
    summary = run_folder.summarize_preset(model, TASKS[target["type"]], with_targets, history, config)
    seen, y = with_targets["train"]
    numbers = training_rows.numbers_of(seen, y, model.preprocessing)
    run_folder.write(folder, model, history, summary, [numbers])
    show_result(console, model.preprocessing, summary, folder, params["quiet"])
    if params["report"]:
        write_report(console, folder)
