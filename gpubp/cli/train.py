"""The command `train`, and the parts it shares with other commands that train a network."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import typer

from gpubp.backends import get_backend
from gpubp.cli import options, presets, processes
from gpubp.cli.parsing import parse_class_weight, parse_size, parse_table_options, parse_test
from gpubp.cli.settings import Settings
from gpubp.errors import CheckpointError, TrainingInterrupted, UsageError
from gpubp.plots import new_axes
from gpubp.tabular.epochs import arguments_on_all_rows
from gpubp.tabular.recipes import Preset, get_preset
from gpubp.training.checkpoint import FOLDER, CheckpointFolder, Interval, newest
from gpubp.training.options import EPOCHS, FEWEST_STEPS
from gpubp.training.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from rich.console import Console

    from gpubp.data import LargeData, PreparedData, RawData
    from gpubp.network import MLP
    from gpubp.training.history import History

NOT_REPEATED = ("out", "overwrite", "resume")  # options on where to write, not on what to train
WITHOUT_EFFECT = ("checkpoint_every", "recompute", "resume")  # options on how one network is trained, on its weights
EVERY_ON_RANKS = "10minutes"  # a checkpoint by default: with several machines, losing one is more likely


@options.takes_options(before="seed")
def train(
    ctx: typer.Context,
    data: options.Source,
    target: options.Target = None,
    test: options.Test = None,
    ignore: options.Ignore = None,
    kind: options.Kind = None,
    missing: options.Missing = None,
    decimal: options.Decimal = None,
    delimiter: options.Delimiter = None,
    encoding: options.Encoding = None,
    header: options.Header = False,
    no_header: options.NoHeader = False,
    validation: options.Validation = None,
    class_weight: options.ClassWeight = None,
    numbers: options.Numbers = None,
    preset: options.PresetName = None,
    time_limit: options.TimeLimit = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
    recompute: options.Recompute = False,
    diagnostics: options.Diagnostics = False,
    watch_test: options.WatchTest = False,
    checkpoint_every: options.CheckpointEvery = None,
    resume: options.Resume = None,
    memory_limit: options.MemoryLimit = None,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    report: options.Report = False,
    quiet: options.Quiet = False,
    **values: Any,
) -> None:
    """Train a network on DATA, and keep it with its metrics in a folder.

    On tables, options that are not given are as in --preset fast; --preset good and best train several networks.

    Names take arguments where they have parameters: 'leaky_relu(0.2)', 'quantile(0.9)', 'warmup(cosine,0.1)'.
    """
    settings = Settings(values)
    settings.check_names()
    ranks: Ranks = ctx.obj
    device = processes.device_of(ranks, device)
    backend = get_backend(device, precision)
    _check_before_reading(ctx.params)

    from gpubp.cli import display, run_folder
    from gpubp.data.read_once import prepared_once

    folder = run_folder.choose(out, resume, overwrite, (FOLDER,))
    from_checkpoint = None if resume is None else newest(resume)
    console = display.make_console(quiet=quiet or ranks.rank > 0)
    limit = processes.memory_limit(ranks, parse_size(memory_limit))
    if presets.are_several_networks(preset):
        presets.check_processes(str(preset), ranks.size)
        source, _, several = _opened(ctx, limit)
        assert several is not None
        with run_folder.claimed(folder, source.name) as folder:
            return presets.train(ctx, console, source, several, settings, folder)
    asked = json.dumps([os.getcwd(), ctx.params], default=str)
    prepared, about = prepared_once(ranks, asked, partial(_read, ctx, settings, limit, backend.dtype))
    name, chosen = about.pop("name"), None if about["preset"] is None else get_preset(about["preset"])
    if watch_test and prepared.test is None:
        raise UsageError("--watch-test watches test rows, and there are none; leave it out, or give some by --test")
    of_preset: dict[str, Any] = {}
    if chosen is not None:
        settings, epochs = presets.settings_of(ctx, settings, chosen, prepared)
        of_preset = {**about, "epochs_on_all_rows": epochs}
    net = settings.network(prepared.n_inputs, prepared.n_outputs, prepared.loss, seed, device, precision)
    display.say(console, display.describe_data(name, prepared), "bold")
    display.show_notes(console, prepared.notes)
    if from_checkpoint is not None:
        display.say(console, f"going on from {from_checkpoint}")
    (settings,) = choose_epochs(console, [settings], prepared.rows)
    others = {"recompute": recompute, "class_weight": parse_class_weight(class_weight, prepared.classes)}
    others |= {"checkpoint_every": checkpoint_every, "resume": resume, "time_limit": time_limit}
    others |= {"diagnostics": diagnostics, "watch_test": prepared.test if watch_test else None}
    config = config_of(ctx, settings, prepared) | of_preset
    size = net.parameters * backend.dtype.itemsize
    with processes.claimed(ranks, folder, name, size) as folder:
        _fit_and_save(ctx, console, net, prepared, settings, config, folder, others)


def _opened(ctx: typer.Context, limit: int | None) -> tuple[RawData, LargeData | None, Preset | None]:
    """The data, or for a file to be read in blocks, the first block and the file; and the preset for them."""
    from gpubp import data as reading

    params, table_options = ctx.params, parse_table_options(ctx.params)
    large = reading.open_large(params["data"], params["target"], limit, **table_options)
    source = reading.read(params["data"], params["target"], **table_options) if large is None else large.head
    chosen = presets.choose(ctx, source)
    if large is not None:
        presets.check_large(ctx, large, chosen)
    return source, large, chosen


def _read(ctx: typer.Context, settings: Settings, limit: int | None, dtype: Any) -> tuple[PreparedData, dict[str, Any]]:
    """The encoded data and their name, with the preset for them and its choice of encoding."""
    from gpubp import data as reading

    source, large, chosen = _opened(ctx, limit)
    params, numbers, validation = ctx.params, ctx.params["numbers"], ctx.params["validation"]
    if chosen is not None:
        validation = chosen.validation if validation is None else validation
        numbers = presets.recipe_of(chosen).numbers if numbers is None else numbers
    if settings["patience"] is not None and not validation:
        raise UsageError("--patience watches a validation part; give one, such as --validation 0.1")
    prepare = partial(reading.prepare, source) if large is None else partial(reading.prepare_streamed, large)
    prepared = prepare(
        loss=settings["loss"],
        output_activation=settings["output_activation"],
        test=parse_test(params["test"]),
        validation=validation,
        numbers=numbers or "standard",
        seed=params["seed"],
        dtype=dtype,
    )
    preset = None if chosen is None else chosen.name
    return prepared, {"name": source.name, "preset": preset, "numbers": numbers, "validation": validation}


def _check_before_reading(params: Mapping[str, Any]) -> None:
    """Refuse options that are wrong for any data, before reading and training."""
    presets.check(params["preset"], params["numbers"], params["time_limit"])
    if params["checkpoint_every"] is not None:
        Interval.parse(params["checkpoint_every"])
    if params["report"]:
        new_axes()  # raises if Matplotlib is missing


def _fit_and_save(
    ctx: typer.Context,
    console: Console,
    net: MLP,
    prepared: PreparedData,
    settings: Settings,
    config: dict[str, Any],
    folder: Path,
    others: dict[str, Any],
) -> None:
    """Train with checkpoints in the folder, and write the run to it, even if interrupted.

    With several ranks, the first writes.
    """
    from gpubp.cli import display

    seed, quiet, ranks = ctx.params["seed"], ctx.params["quiet"], ctx.obj
    if ctx.params["overwrite"] and ranks.rank == 0:
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
    ranks.meet()
    if ranks.size > 1:
        config = {**config, "ranks": ranks.size}
        others = {**others, "communicator": ranks, "checkpoint_every": others["checkpoint_every"] or EVERY_ON_RANKS}
        display.say(console, f"{ranks.size} ranks; if one is lost, all end, to go on: {command_to_resume(ctx, folder)}")
    interruption, signal, validated = None, None, None
    try:
        history = fit(console, net, prepared, settings, seed, {"checkpoint": folder / FOLDER, **others})
    except TrainingInterrupted as error:
        interruption, signal, history = error, error.signal, error.history
    except CheckpointError as error:
        with suppress(UsageError):  # there may be no room for the network either
            save(console, net, prepared, error.history, config, folder, quiet)
        raise
    if (most := config.get("epochs_on_all_rows")) and interruption is None and history.stopped != "callback":
        also_then = ("recompute", "class_weight", "communicator")
        arguments = {"seed": seed, **{name: value for name, value in others.items() if name in also_then}}
        arguments |= arguments_on_all_rows(settings["learning_rate"], most, history.best_epoch)
        seconds = ranks.of_first((others["time_limit"] or inf) - history.seconds[-1])
        if seconds > 0:
            validated = _how_well_validated(net, prepared)
            signal = presets.train_on_all_rows(console, net, prepared, settings, arguments, seconds)
    if ranks.rank == 0:
        save(console, net, prepared, history, config, folder, quiet, validated)
        if signal is not None and CheckpointFolder(folder / FOLDER).files():
            steps = display.plural(history.steps, "step")
            typer.echo(f"Interrupted after {steps}; to go on: {command_to_resume(ctx, folder)}", err=True)
        if ctx.params["report"]:
            write_report(console, folder)
    if signal is not None:
        raise typer.Exit(128 + signal)


def _how_well_validated(net: MLP, prepared: PreparedData) -> dict[str, Any]:
    """The scores of a network on the validation rows, as in `run_folder.how_well`."""
    from gpubp.cli import run_folder

    net.preprocessing = prepared.preprocessing
    return run_folder.how_well(net, prepared.preprocessing, {"validation": prepared.validation})


def choose_epochs(console: Console, candidates: Sequence[Settings], rows: int) -> list[Settings]:
    """Settings with a number of epochs that suits `rows` training rows where none is set; reports it."""
    from gpubp.cli import display

    with_epochs = [settings.with_epochs(rows) for settings in candidates]
    chosen = {
        after["epochs"] for before, after in zip(candidates, with_epochs, strict=True) if before["epochs"] is None
    }
    if chosen and max(chosen) > EPOCHS:
        numbers = " to ".join(str(epochs) for epochs in sorted({min(chosen), max(chosen)}))
        display.say(console, f"epochs: {numbers}, the data being small, for {FEWEST_STEPS:,} steps; else --epochs")
    return with_epochs


def fit(
    console: Console,
    net: MLP,
    prepared: PreparedData,
    settings: Settings,
    seed: int,
    others: Mapping[str, Any] = MappingProxyType({}),
) -> History:
    """Train `net` on the data, and show it; `others` are further arguments of `gpubp.train`, and a ``time_limit``."""
    from gpubp.cli import display
    from gpubp.cli.curves import show_curves
    from gpubp.training import train as run_training

    rows, others = prepared.rows, dict(others)
    time_limit = others.pop("time_limit", None)
    display.show_network(console, net)
    parts = settings["accumulate"] * others.get("communicator", ALONE).size
    part = -(-min(settings["batch_size"], rows) // parts)
    memory = net.memory(part, settings["optimizer"], others.get("recompute", False))
    of_what = ", ".join(f"{name} {display.size(memory[name])}" for name in memory if name != "total")
    needed, data = display.size(memory["total"]), display.size(prepared.bytes)
    display.say(console, f"loss {net.loss.name}; memory {needed} beside {data} of data ({of_what})")
    display.say(console, f"device {net.device} ({net.stack.backend.reason}), {net.precision}")
    if prepared.task == "regression":
        display.say(console, "loss and rmse while training: of the target as the network sees it, not in its own units")
    with display.TrainingProgress(console, settings["epochs"], rows) as progress:
        history = run_training(
            net,
            **prepared.training_arguments,
            validation_data=prepared.validation,
            **{**settings.train_arguments(), **others},
            seed=seed,
            callbacks=(progress, lambda net, history: time_limit is not None and history.seconds[-1] >= time_limit),
        )
    if history.stopped == "callback":
        display.say(console, f"time limit: stopped after {history.epochs} of {settings['epochs']} epochs")
    display.say(console, display.how_it_ended(history, settings["patience"], settings["update_tolerance"]))
    show_curves(console, history)
    if history.health is not None:
        display.show_verdicts(console, history.health.verdicts(history))
    return history


def command_to_resume(ctx: typer.Context, folder: Path) -> str:
    """The command as typed, changed to resume in `folder`."""
    words = [] if ctx.obj.size == 1 else ["mpiexec", "-n", str(ctx.obj.size)]
    words += ["gpubp", str(ctx.info_name)]
    for parameter in ctx.command.params:
        name = str(parameter.name)
        if getattr(ctx.get_parameter_source(name), "name", "") != "COMMANDLINE" or name in NOT_REPEATED:
            continue
        value = ctx.params[name]
        words += [parameter.opts[0]] if parameter.param_type_name == "option" else []
        words += [] if value is True else map(str, value) if isinstance(value, list) else [str(value)]
    return shlex.join([*words, "--resume", str(folder)])


def config_of(ctx: typer.Context, settings: Settings, prepared: PreparedData) -> dict[str, Any]:
    """The origin of the network, for metrics.json: the command's options, and what was decided since."""
    unless_given = (*presets.PARAMETERS, "memory_limit")
    asked = {key: value for key, value in options.asked_for(ctx).items() if key not in WITHOUT_EFFECT}
    config = {key: value for key, value in asked.items() if value is not None or key not in unless_given}
    return config | settings.as_dict() | {"target": prepared.preprocessing["target"]["name"], "loss": prepared.loss}


def save(
    console: Console,
    net: MLP,
    prepared: PreparedData,
    history: History,
    config: dict[str, Any],
    folder: Path,
    quiet: bool,
    validated: dict[str, Any] | None = None,
) -> None:
    """Measure a trained network, write its folder, and report it; if `quiet`, in one line.

    `validated` has its scores on the validation rows before it was trained on them.
    """
    from gpubp.cli import run_folder, training_rows

    net.preprocessing = prepared.preprocessing
    summary = run_folder.summarize(net, prepared, history, config)
    if validated is not None:
        summary["validation"] = validated["validation"]
        summary["confusion"] = summary["confusion"] if prepared.test is not None else validated["confusion"]
    seen = () if prepared.stream is not None else (prepared.train, prepared.validation)
    rows = [training_rows.numbers_of(*part, prepared.preprocessing) for part in seen if part is not None]
    run_folder.write(folder, net, history, summary, rows)
    show_result(console, prepared.preprocessing, summary, folder, quiet)


def write_report(console: Console, folder: Path) -> None:
    """Write the page on a run into its folder, and report it."""
    from gpubp.cli import display, run_folder
    from gpubp.cli.report.command import write_page

    try:
        missing = write_page(folder / run_folder.REPORT, folder)
    except KeyboardInterrupt:
        typer.echo(f"Interrupted: the run is in {folder}, without {run_folder.REPORT}", err=True)
        raise typer.Exit(130) from None
    display.show_notes(console, [f"missing: {what}" for what in missing])
    display.say(console, f"wrote {folder / run_folder.REPORT}")


def show_result(
    console: Console, preprocessing: dict[str, Any], summary: dict[str, Any], folder: Path, quiet: bool
) -> None:
    """Report how well it predicts and where it is; if `quiet`, in one line."""
    from gpubp.cli import display, metrics, run_folder

    scores = {part: summary[part] for part in run_folder.PARTS if part in summary}
    baseline = dict(summary["baseline"])
    last = list(scores)[-1]
    if quiet:
        typer.echo(f"{last} {display.figures(scores[last])}; {display.baseline_in_short(baseline, last)}; {folder}")
    else:
        display.show_metrics(console, display.with_baseline(scores, baseline))
        for remark in metrics.remarks(preprocessing, summary["confusion"], scores):
            display.say(console, remark, "yellow")
        display.say(console, f"wrote {', '.join(run_folder.files_of(folder))} in {folder}")
