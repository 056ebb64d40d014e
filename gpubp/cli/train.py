"""The command `train`, and what other commands that train a network share with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gpubp.backends import get_backend
from gpubp.cli import options
from gpubp.cli.parsing import parse_class_weight, parse_table_options, parse_test
from gpubp.cli.settings import Settings
from gpubp.errors import UsageError
from gpubp.training.options import EPOCHS, FEWEST_STEPS

if TYPE_CHECKING:
    from rich.console import Console

    from gpubp.data import PreparedData
    from gpubp.network import MLP
    from gpubp.training.history import History


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
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    **values: Any,
) -> None:
    """Train a network on DATA, and keep it with its metrics in a folder.

    Names take arguments where they have parameters: 'leaky_relu(0.2)', 'quantile(0.9)', 'warmup(cosine,0.1)'.
    """
    settings = Settings(values)
    settings.check_names()
    backend = get_backend(device, precision)
    if settings["patience"] is not None and not validation:
        raise UsageError("--patience watches a validation part; give one, such as --validation 0.1")

    from gpubp import data as reading
    from gpubp.cli import display, run_folder

    run_folder.check_writable(out or Path("runs"))
    if out is not None:
        run_folder.check_new(out, overwrite)
    console = display.make_console(quiet=quiet)
    source = reading.read(data, target, **parse_table_options(ctx.params))
    prepared = reading.prepare(
        source,
        loss=settings["loss"],
        output_activation=settings["output_activation"],
        test=parse_test(test),
        validation=validation,
        seed=seed,
        dtype=backend.dtype,
    )
    weights = parse_class_weight(class_weight, prepared.classes)
    net = settings.network(prepared.n_inputs, prepared.n_outputs, prepared.loss, seed, device, precision)
    name = source.name
    del source  # the table's cells, which training needs no more
    display.say(console, display.describe_data(name, prepared), "bold")
    display.show_notes(console, prepared.notes)
    (settings,) = choose_epochs(console, [settings], len(prepared.train[0]))
    history = fit(console, net, prepared, settings, seed, weights)
    config = config_of(ctx, settings, prepared)
    save(console, net, prepared, history, config, out or run_folder.default_folder(name), quiet)


def choose_epochs(console: Console, candidates: Sequence[Settings], rows: int) -> list[Settings]:
    """Settings with a number of epochs that suits so many training rows, where none is set; that is said."""
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
    class_weight: Any = None,
) -> History:
    """Train `net` on the data, and show it all."""
    from gpubp.cli import display
    from gpubp.training import train as run_training

    rows = len(prepared.train[0])
    display.show_network(console, net)
    memory = net.memory(min(settings["batch_size"], rows), settings["optimizer"])
    parts = ", ".join(f"{name} {display.size(memory[name])}" for name in memory if name != "total")
    needed, data = display.size(memory["total"]), display.size(prepared.bytes)
    display.say(console, f"loss {net.loss.name}; memory {needed} beside {data} of data ({parts})")
    display.say(console, f"device {net.device} ({net.stack.backend.reason}), {net.precision}")
    if prepared.task == "regression":
        display.say(console, "loss and rmse while training: of the target as the network sees it, not in its own units")
    with display.TrainingProgress(console, settings["epochs"], rows) as progress:
        history = run_training(
            net,
            *prepared.train,
            validation_data=prepared.validation,
            **settings.train_arguments(),
            class_weight=class_weight,
            seed=seed,
            callbacks=(progress,),
        )
    display.say(console, display.how_it_ended(history, settings["patience"], settings["update_tolerance"]))
    return history


def config_of(ctx: typer.Context, settings: Settings, prepared: PreparedData) -> dict[str, Any]:
    """What the network comes from, for metrics.json: what the command was asked for, and what was settled since."""
    asked = {parameter.name: ctx.params.get(parameter.name) for parameter in ctx.command.params}
    config = {str(key): value for key, value in asked.items() if key not in ("out", "overwrite", "quiet", "help")}
    return config | settings.as_dict() | {"target": prepared.preprocessing["target"]["name"], "loss": prepared.loss}


def save(
    console: Console,
    net: MLP,
    prepared: PreparedData,
    history: History,
    config: dict[str, Any],
    folder: Path,
    quiet: bool,
) -> None:
    """Measure a trained network, write its folder, and say so; if `quiet`, in one line."""
    from gpubp.cli import display, metrics, run_folder

    net.preprocessing = prepared.preprocessing
    summary = run_folder.summarize(net, prepared, history, config)
    run_folder.write(folder, net, history, summary)
    scores = {part: summary[part] for part in run_folder.PARTS if part in summary}
    baseline = dict(summary["baseline"])
    last = list(scores)[-1]
    if quiet:
        typer.echo(f"{last} {display.figures(scores[last])}; {display.baseline_in_short(baseline, last)}; {folder}")
    else:
        display.show_metrics(console, display.with_baseline(scores, baseline))
        for remark in metrics.remarks(prepared.preprocessing, summary["confusion"], scores):
            display.say(console, remark, "yellow")
        display.say(console, f"wrote {', '.join(run_folder.FILES)} in {folder}")
