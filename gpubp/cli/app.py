"""The command line. Each command reads, checks and calls; `display` makes the printed text."""

from __future__ import annotations

import errno
import io
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import gpubp
from gpubp.activations import get_activation
from gpubp.cli import options, processes
from gpubp.cli.demo import demo
from gpubp.cli.explain import explain
from gpubp.cli.export import export
from gpubp.cli.parsing import parse_delimiter, parse_layers, parse_precisions
from gpubp.cli.report.command import report
from gpubp.cli.report.plot import plot
from gpubp.cli.search.command import search
from gpubp.cli.train import train
from gpubp.errors import CheckpointError, DivergenceError, GpubpError, RankError, UsageError
from gpubp.optimizers import get_optimizer
from gpubp.training.ranks import ALONE

NO_MEMORY_FOR_LIBRARY = ("failed to map segment", "annot allocate memory")  # messages of Linux's dynamic linker
MOST_SHOWN_CLASSES = 10  # in a confusion matrix


class Commands(TyperGroup):
    """The commands, with a single place that turns errors into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; exit with 1 if training or a checkpoint failed, 2 for wrong usage or data, 130 for Ctrl-C.

        If an MPI launcher started several processes, all end together, and only the first prints.
        """
        try:
            with processes.joined() as ranks:
                ctx.obj = ranks
                return super().invoke(ctx)
        except GpubpError as error:
            _say(f"Error: {error}")
            failed = isinstance(error, (DivergenceError, CheckpointError, RankError))
            raise typer.Exit(1 if failed and not getattr(error, "usage", False) else 2) from None
        except (MemoryError, ImportError, OSError) as error:
            if isinstance(error, OSError) and error.filename is not None and error.errno != errno.ENOMEM:
                _say(f"Error: {error.filename}: {error.strerror}")
                raise typer.Exit(2) from None
            if not _is_of_memory(error):
                raise
            _say(f"Error: not enough memory ({error}); use less data or a smaller network")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            _say("Interrupted: nothing was written")
            raise typer.Exit(130) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of that name; refused if it is for one process and there are several."""
        name, command, rest = super().resolve_command(ctx, args)
        processes.check(ctx.obj or ALONE, name)
        return name, command, rest

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Print usage errors like all others: ``Error: …``, not in a box that breaks lines."""
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except Exception as error:
            show = getattr(error, "show", None)  # marks typer's errors, which have no public base class
            if show is None:
                raise
            if processes.speaks():
                show()
            sys.exit(getattr(error, "exit_code", 2))
        sys.exit(code or 0)


def _say(text: str) -> None:
    if processes.speaks():
        typer.echo(text, err=True)


def _is_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, for arrays or for importing a library."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(error, ImportError) and any(text in str(error) for text in NO_MEMORY_FOR_LIBRARY)


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"gpubp {gpubp.__version__}")
        raise typer.Exit


@app.callback()
def commands(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Multilayer perceptrons trained by backpropagation written out by hand."""


app.command()(train)


@app.command()
def predict(
    model: options.Model,
    data: options.Rows,
    decimal: options.DecimalOfRows = None,
    delimiter: options.Delimiter = None,
    encoding: options.Encoding = None,
    out: options.Predictions = Path("predictions.csv"),
) -> None:
    """Predict the rows of DATA with a trained network; classes come with their probabilities."""
    from gpubp import data as reading
    from gpubp.cli import display, predictions, run_folder
    from gpubp.tabular.predictor import encode

    predictions.check(out, data)
    net, preprocessing = run_folder.load_predictor(model, decimal)
    source = run_folder.unseen_part(_read_rows(data, preprocessing, delimiter, encoding))
    X, _ = encode(net, source, with_target=False)
    columns = reading.decode(preprocessing, net.forward(X))
    console = display.make_console(stderr=predictions.goes_to_standard_output(out))
    predictions.write(out, columns)
    display.show_notes(console, source.notes)
    display.say(console, f"wrote {len(X):,} predictions to {out}")


@app.command()
def evaluate(
    model: options.Model,
    data: options.Rows,
    decimal: options.DecimalOfRows = None,
    delimiter: options.Delimiter = None,
    encoding: options.Encoding = None,
    as_json: options.Json = False,
) -> None:
    """Measure how well a trained network predicts DATA."""
    from gpubp.cli import display, metrics, run_folder, training_rows
    from gpubp.tabular.predictor import encode

    net, preprocessing = run_folder.load_predictor(model, decimal)
    source = run_folder.unseen_part(_read_rows(data, preprocessing, delimiter, encoding))
    X, y = encode(net, source)
    if y is None:
        column = f'column "{name}"' if (name := preprocessing["target"]["name"]) else "target"
        raise UsageError(f'{source.name}: has no {column} to compare with; to predict, use "gpubp predict"')
    scores = metrics.score(net, X, y)
    reached = metrics.baseline(preprocessing, y)
    name = metrics.baseline_name(preprocessing) if reached is not None else None
    matrix = metrics.confusion(preprocessing, y, net.forward(X))
    known = training_rows.known(model, X, y, preprocessing)
    console = display.make_console(stderr=as_json)  # keeps standard output one JSON object
    display.show_notes(console, source.notes)
    classes = preprocessing["target"].get("classes")
    if as_json:
        more = {"baseline": {"predicts": name, **(reached or {})}, "classes": classes, "confusion": matrix}
        more |= {"training_rows": None if known is None else known.count}
        return typer.echo(json.dumps({"rows": len(X), **scores, **more}))
    part = f"{source.name}, {len(X):,} rows"
    display.show_metrics(console, display.with_baseline({part: scores}, {"predicts": name, part: reached}))
    if matrix is not None and len(matrix) <= MOST_SHOWN_CLASSES:
        display.show_confusion(console, classes, matrix)
    if known is not None and known.count:
        display.say(console, known.remark(), "yellow")
    for remark in metrics.remarks(preprocessing, matrix, {part: scores}):
        display.say(console, remark, "yellow")


def _read_rows(data: str, trained: dict[str, Any], delimiter: str | None, encoding: str | None) -> Any:
    """Read rows in the way a network's training rows were; the file's format may differ."""
    from gpubp import data as reading

    return reading.read(data, trained=trained, delimiter=parse_delimiter(delimiter), encoding=encoding)


app.command()(search)


@app.command()
def doctor() -> None:
    """Say what this machine can run and why, and check the computations on it."""
    from gpubp.bench import doctor as examination
    from gpubp.cli import display

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
    """Time training steps of your network on every backend of this machine, and say which to use."""
    from gpubp.bench import run as measuring
    from gpubp.bench.steps import workload
    from gpubp.cli import display

    network = workload(parse_layers(layers), batch_size, get_activation(activation).name)
    precisions = parse_precisions(precision)
    get_optimizer(optimizer)  # refuses an unknown one before anything is measured
    if tune and json_file is not None:
        raise UsageError("--json keeps figures, and --tune writes a table of its own; leave out one of them")
    if json_file is not None and not json_file.parent.is_dir():
        raise UsageError(f"--json {json_file}: there is no folder {json_file.parent}; make it first")
    console = display.make_console()
    display.say(console, f"{network.name}, {network.parameters:,} parameters, {optimizer}", "bold")
    if tune:
        from gpubp.bench.tune import tune as choose

        return display.show_tuned(console, *choose(network, precisions))
    report = measuring.bench(network, precisions, optimizer)
    display.show_bench(console, report)
    if json_file is not None:
        report.save(json_file)
        display.say(console, f"wrote {json_file}")
    if report.interrupted:
        raise typer.Exit(130)
    if not any(row.measured for row in report.rows):
        raise typer.Exit(1)


@app.command()
def inspect(model: options.Model, data: options.LookedAt = None) -> None:
    """Show a trained network: its layers, what its inputs and outputs mean, and with DATA how its layers fare."""
    from gpubp.cli import display, run_folder
    from gpubp.tabular.model import TabularModel

    net = run_folder.load_model(model, "cpu")
    console = display.make_console()
    if isinstance(net, TabularModel):
        return display.show_preset(console, net)
    stack = f", a stack of {net.models}" if net.models > 1 else ""
    display.say(console, f"{'-'.join(map(str, net.layer_sizes))}, {net.parameters:,} parameters{stack}", "bold")
    display.show_weights(console, net)
    display.say(console, f"loss {net.loss.name}; {net.precision}; seed {', '.join(map(str, net.stack.seeds))}")
    for line in display.describe_preprocessing(net.preprocessing):
        display.say(console, line)
    if data is not None:
        display.show_health(console, run_folder.health(model, data))


app.command()(explain)
app.command()(report)
app.command()(plot)
app.command()(export)
app.command()(demo)


def main() -> None:
    """The console script ``gpubp``."""
    for stream in (sys.stdout, sys.stderr):
        # For a character in a name that a terminal cannot show, it shows "?".
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="gpubp")
