"""The command line. Each command reads, checks and calls; what is printed is made in `display`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from gpubp import options
from gpubp.activations import get_activation, get_output_activation
from gpubp.arguments import (
    EPOCHS,
    FEWEST_STEPS,
    default_epochs,
    optimizer_options,
    parse_hidden,
    parse_layers,
    parse_list,
    parse_precisions,
    parse_test,
)
from gpubp.backends import get_backend
from gpubp.errors import DivergenceError, GpubpError, UsageError
from gpubp.initializers import get_initializer
from gpubp.losses import get_loss
from gpubp.schedules import get_schedule


class Commands(TyperGroup):
    """The commands, with one place where errors become one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command: 1 where the training failed, 2 for wrong usage or data, 130 for Ctrl-C."""
        try:
            return super().invoke(ctx)
        except GpubpError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(1 if isinstance(error, DivergenceError) else 2) from None
        except MemoryError as error:
            typer.echo(f"Error: not enough memory ({error}); use less data or a smaller network", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("Interrupted: nothing was written", err=True)
            raise typer.Exit(130) from None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Print wrong usage as every other error: ``Error: …``, not in a box that breaks lines."""
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except Exception as error:
            show = getattr(error, "show", None)  # the mark of typer's errors, which have no public base class
            if show is None:
                raise
            show()
            sys.exit(getattr(error, "exit_code", 2))
        sys.exit(code or 0)


app = typer.Typer(
    cls=Commands,
    help="Multilayer perceptrons trained by backpropagation written out by hand.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
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
    hidden_sizes, activations = parse_hidden(hidden), parse_list(activation)
    backend = get_backend(device, precision)
    for name in activations:
        get_activation(name)
    if loss != "auto":
        get_loss(loss)
    if output_activation != "auto":
        get_output_activation(output_activation)
    get_initializer(init, "zeros")
    get_schedule(schedule)
    chosen_options = optimizer_options(optimizer, momentum)
    if patience is not None and not validation:
        raise UsageError("--patience watches a validation part; give one, such as --validation 0.1")

    from gpubp import data as reading
    from gpubp import display, runs
    from gpubp.network import MLP
    from gpubp.training import train as run_training

    runs.check_writable(out or Path("runs"))
    console = display.make_console(quiet=quiet)
    source = reading.read(data, target)
    ready = reading.prepare(
        source, loss=loss, test=parse_test(test), validation=validation, seed=seed, dtype=backend.dtype
    )
    net = MLP(
        [ready.n_inputs, *hidden_sizes, ready.n_outputs],
        activations if len(activations) > 1 else activations[0],
        ready.loss,
        init,
        seed,
        device,
        precision,
        output_activation=output_activation,
    )
    net.preprocessing = ready.preprocessing

    display.say(console, display.describe_data(source.name, ready), "bold")
    display.show_notes(console, ready.notes)
    display.show_network(console, net)
    memory = net.memory(min(batch_size, len(ready.train[0])), optimizer)
    parts = ", ".join(f"{name} {display.size(memory[name])}" for name in memory if name != "total")
    needed = display.size(memory["total"])
    display.say(console, f"loss {net.loss.name}; memory {needed} beside the data ({parts})")
    display.say(console, f"device {net.device} ({net.device_reason}), {net.precision}")
    if epochs is None:
        epochs = default_epochs(len(ready.train[0]), batch_size)
        if epochs > EPOCHS:
            display.say(console, f"epochs: {epochs}, the data being small, for {FEWEST_STEPS:,} steps; else --epochs")

    if ready.task == "regression":
        display.say(console, "loss and rmse while training: of the target as the network sees it, not in its own units")

    with display.TrainingProgress(console, epochs, len(ready.train[0])) as progress:
        history = run_training(
            net,
            *ready.train,
            validation_data=ready.validation,
            optimizer=optimizer,
            optimizer_options=chosen_options,
            learning_rate=learning_rate,
            schedule=schedule,
            l2=l2,
            weight_decay=weight_decay,
            dropout=dropout,
            label_smoothing=label_smoothing,
            max_grad_norm=max_grad_norm,
            batch_size=batch_size,
            epochs=epochs,
            patience=patience,
            update_tolerance=update_tolerance,
            seed=seed,
            callbacks=(progress,),
        )
    display.say(console, display.how_it_ended(history, patience, update_tolerance))
    asked = {parameter.name: ctx.params.get(parameter.name) for parameter in ctx.command.params}
    config = {key: value for key, value in asked.items() if key not in ("out", "quiet", "help")}
    config |= {"epochs": epochs, "target": ready.preprocessing["target"]["name"], "loss": ready.loss}
    metrics = runs.summarize(net, ready, history, config)
    folder = out or runs.default_folder(source.name)
    runs.write(folder, net, history, metrics)
    scored: dict[str, Any] = {part: metrics[part] for part in runs.PARTS if part in metrics}
    if quiet:
        last = list(scored)[-1]
        typer.echo(f"{last} {display.figures(scored[last])}; {folder}")
    else:
        display.show_metrics(console, scored)
        display.say(console, f"wrote {', '.join(runs.FILES)} in {folder}")


@app.command()
def predict(model: options.Model, data: options.Rows, out: options.Predictions = Path("predictions.csv")) -> None:
    """Predict the rows of DATA with a trained network; classes come with their probabilities."""
    from gpubp import data as reading
    from gpubp import display, runs

    net, preprocessing = runs.load_predictor(model)
    source = runs.unseen_part(reading.read(data))
    X, _ = reading.encode(preprocessing, source, with_target=False, dtype=net.backend.dtype)
    columns = reading.decode(preprocessing, net.forward(X))
    runs.write_predictions(out, columns)
    console = display.make_console()
    display.show_notes(console, source.notes)
    display.say(console, f"wrote {len(X):,} predictions to {out}")


@app.command()
def evaluate(model: options.Model, data: options.Rows, as_json: options.Json = False) -> None:
    """Measure how well a trained network predicts DATA."""
    from gpubp import data as reading
    from gpubp import display, runs

    net, preprocessing = runs.load_predictor(model)
    source = runs.unseen_part(reading.read(data))
    X, y = reading.encode(preprocessing, source, dtype=net.backend.dtype)
    if y is None:
        column = f'column "{name}"' if (name := preprocessing["target"]["name"]) else "target"
        raise UsageError(f'{source.name}: has no {column} to compare with; to predict, use "gpubp predict"')
    found = runs.score(net, X, y)
    console = display.make_console(stderr=as_json)  # so that standard output is one JSON object
    display.show_notes(console, source.notes)
    if as_json:
        typer.echo(json.dumps({"rows": len(X), **found}))
    else:
        display.show_metrics(console, {f"{source.name}, {len(X):,} rows": found})


@app.command()
def doctor() -> None:
    """Say what this machine can run and why, and check the computations on it."""
    from gpubp import display
    from gpubp import doctor as examination

    console = display.make_console()
    display.show_findings(console, examination.findings())
    checks = list(examination.checks_of_this_machine())
    console.print()
    display.show_checks(console, checks)
    failed = sum(not check.ok for check in checks)
    if failed:
        display.say(console, f"{failed} of {len(checks)} checks FAILED", "bold red")
        raise typer.Exit(1)
    display.say(console, f"all {len(checks)} checks passed")


@app.command()
def bench(
    layers: options.Layers = "784,512,10",
    batch_size: options.BatchSize = 128,
    activation: options.LayersActivation = "relu",
    optimizer: options.Optimizer = "adam",
    precision: options.Precisions = "float32",
    json_file: options.JsonFile = None,
    tune: options.Tune = False,
) -> None:
    """Time training steps of a network of yours on every backend of this machine, and say which to use."""
    from gpubp import bench as measuring
    from gpubp import display
    from gpubp.bench_steps import workload

    network = workload(parse_layers(layers), batch_size, get_activation(activation).name)
    precisions = parse_precisions(precision)
    optimizer_options(optimizer, None)
    if tune and json_file is not None:
        raise UsageError("--json keeps figures, and --tune writes a table of its own; leave out one of them")
    if json_file is not None and not json_file.parent.is_dir():
        raise UsageError(f"--json {json_file}: there is no folder {json_file.parent}; make it first")
    console = display.make_console()
    display.say(console, f"{network.name}, {network.parameters:,} parameters, {optimizer}", "bold")
    if tune:
        from gpubp.bench_tune import tune as choose

        return display.show_tuned(console, *choose(network, precisions))
    report = measuring.bench(network, precisions, optimizer)
    display.show_bench(console, report)
    if json_file is not None:
        report.save(json_file)
        display.say(console, f"wrote {json_file}")
    if report.interrupted:
        raise typer.Exit(130)


@app.command()
def inspect(model: options.Model) -> None:
    """Show a trained network: its layers, what they hold, and what its inputs and outputs mean."""
    from gpubp import display, runs

    net = runs.load_model(model, "cpu")
    console = display.make_console()
    stack = f", a stack of {net.models}" if net.models > 1 else ""
    display.say(console, f"{'-'.join(map(str, net.layer_sizes))}, {net.parameters:,} parameters{stack}", "bold")
    display.show_weights(console, net)
    display.say(console, f"loss {net.loss.name}; {net.precision}; seed {', '.join(map(str, net.seeds))}")
    for line in display.describe_preprocessing(net.preprocessing):
        display.say(console, line)


def main() -> None:
    """The console script ``gpubp``."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character of a file's or a column's name shows "?" for it.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="gpubp")
