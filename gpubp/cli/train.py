"""The command `train`, and what other commands that train a network share with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gpubp.backends import get_backend
from gpubp.cli import options
from gpubp.cli.parsing import EPOCHS, FEWEST_STEPS, parse_test
from gpubp.cli.settings import Settings
from gpubp.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from gpubp.data import PreparedData
    from gpubp.network import MLP
    from gpubp.training.history import History


def train(
    ctx: typer.Context,
    data: options.Source,
    target: options.Target = None,
    test: options.Test = None,
    validation: options.Validation = None,
    hidden: options.Hidden = "128",
    activation: options.Activation = "relu",
    loss: options.Loss = "auto",
    output_activation: options.OutputActivation = "auto",
    init: options.Init = "auto",
    optimizer: options.Optimizer = "adam",
    learning_rate: options.LearningRate = 1e-3,
    schedule: options.Schedule = "cosine",
    momentum: options.Momentum = None,
    l2: options.L2 = 0.0,
    weight_decay: options.WeightDecay = None,
    dropout: options.Dropout = 0.0,
    label_smoothing: options.LabelSmoothing = 0.0,
    max_grad_norm: options.MaxGradNorm = None,
    batch_size: options.BatchSize = 128,
    epochs: options.Epochs = None,
    patience: options.Patience = None,
    update_tolerance: options.UpdateTolerance = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
    out: options.Out = None,
    quiet: options.Quiet = False,
) -> None:
    """Train a network on DATA, and keep it with its metrics in a folder.

    Names take arguments where they have parameters: 'leaky_relu(0.2)', 'quantile(0.9)', 'warmup(cosine,0.1)'.
    """
    settings = Settings.of(ctx.params)
    settings.check()
    backend = get_backend(device, precision)
    if patience is not None and not validation:
        raise UsageError("--patience watches a validation part; give one, such as --validation 0.1")

    from gpubp import data as reading
    from gpubp.cli import display, run_folder

    run_folder.check_writable(out or Path("runs"))
    console = display.make_console(quiet=quiet)
    source = reading.read(data, target)
    ready = reading.prepare(
        source, loss=loss, test=parse_test(test), validation=validation, seed=seed, dtype=backend.dtype
    )
    net = settings.network(ready.n_inputs, ready.n_outputs, ready.loss, seed, device, precision)
    display.say(console, display.describe_data(source.name, ready), "bold")
    display.show_notes(console, ready.notes)
    (settings,) = with_epochs(console, [settings], len(ready.train[0]))
    history = fit(console, net, ready, settings, seed)
    config = config_of(ctx, settings, ready)
    keep(console, net, ready, history, config, out or run_folder.default_folder(source.name), quiet)


def with_epochs(console: Console, given: Sequence[Settings], rows: int) -> list[Settings]:
    """Settings with a number of epochs that suits so many training rows, where none is given; that is said."""
    from gpubp.cli import display

    found = [settings.with_epochs(rows) for settings in given]
    chosen = {after.epochs or 0 for before, after in zip(given, found, strict=True) if before.epochs is None}
    if chosen and max(chosen) > EPOCHS:
        numbers = " to ".join(str(epochs) for epochs in sorted({min(chosen), max(chosen)}))
        display.say(console, f"epochs: {numbers}, the data being small, for {FEWEST_STEPS:,} steps; else --epochs")
    return found


def fit(console: Console, net: MLP, ready: PreparedData, settings: Settings, seed: int) -> History:
    """Train `net` on what is ready for it, and show it all."""
    from gpubp.cli import display
    from gpubp.training import train as run_training

    rows, epochs, tolerance = len(ready.train[0]), settings.epochs, settings.update_tolerance
    assert epochs is not None
    display.show_network(console, net)
    memory = net.memory(min(settings.batch_size, rows), settings.optimizer)
    parts = ", ".join(f"{name} {display.size(memory[name])}" for name in memory if name != "total")
    needed = display.size(memory["total"])
    display.say(console, f"loss {net.loss.name}; memory {needed} beside the data ({parts})")
    display.say(console, f"device {net.device} ({net.stack.backend.reason}), {net.precision}")
    if ready.task == "regression":
        display.say(console, "loss and rmse while training: of the target as the network sees it, not in its own units")
    with display.TrainingProgress(console, epochs, rows) as progress:
        history = run_training(
            net,
            *ready.train,
            validation_data=ready.validation,
            **settings.arguments(),
            seed=seed,
            callbacks=(progress,),
        )
    display.say(console, display.how_it_ended(history, settings.patience, tolerance))
    return history


def config_of(ctx: typer.Context, settings: Settings, ready: PreparedData) -> dict[str, Any]:
    """What the network comes from, for metrics.json: the command's options as they were settled."""
    asked = {parameter.name: ctx.params.get(parameter.name) for parameter in ctx.command.params}
    config = {str(key): value for key, value in asked.items() if key not in ("out", "quiet", "help")}
    return config | settings.as_dict() | {"target": ready.preprocessing["target"]["name"], "loss": ready.loss}


def keep(
    console: Console, net: MLP, ready: PreparedData, history: History, config: dict[str, Any], folder: Path, quiet: bool
) -> None:
    """Measure a trained network, write its folder, and say so; if `quiet`, in one line."""
    from gpubp.cli import display, run_folder

    net.preprocessing = ready.preprocessing
    metrics = run_folder.summarize(net, ready, history, config)
    run_folder.write(folder, net, history, metrics)
    scored: dict[str, Any] = {part: metrics[part] for part in run_folder.PARTS if part in metrics}
    if quiet:
        last = list(scored)[-1]
        typer.echo(f"{last} {display.figures(scored[last])}; {folder}")
    else:
        display.show_metrics(console, scored)
        display.say(console, f"wrote {', '.join(run_folder.FILES)} in {folder}")
