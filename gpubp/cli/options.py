"""The arguments and options of the commands: types, help texts, and choices taken from the registries.

Options on the network and its training are records: `train` and `search` take them all, a search's grid varies them,
and `gpubp.cli.settings.Settings` holds a value for each.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from gpubp.activations import ACTIVATIONS
from gpubp.backends import DEVICES
from gpubp.data.encodings import ENCODINGS
from gpubp.data.schema import KINDS
from gpubp.initializers import INITIALIZERS
from gpubp.losses import LOSSES
from gpubp.precision import PRECISIONS
from gpubp.tabular.recipes import PRESETS
from gpubp.training.options import TRAINING_OPTIONS, Option

Command = TypeVar("Command", bound=Callable[..., None])

NETWORK_OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        Option(
            name="hidden",
            type=str,
            default="128",
            per_network=False,
            help='Sizes of the hidden layers, such as 512,256; or "none".',
            metavar="SIZES",
        ),
        Option(
            name="activation",
            type=str,
            default="relu",
            per_network=False,
            help=f"Of all hidden layers; or one each, with commas: {', '.join(ACTIVATIONS)}.",
            metavar="NAME",
        ),
        Option(
            name="loss",
            type=str,
            default="auto",
            per_network=False,
            help=f"auto (by the target), or: {', '.join(LOSSES)}.",
            metavar="NAME",
            not_searched="values of different losses cannot be compared; search with each --loss by itself",
        ),
        Option(
            name="output_activation",
            type=str,
            default="auto",
            per_network=False,
            help="auto (the loss's own), softmax, or any activation.",
            metavar="NAME",
        ),
        Option(
            name="init",
            type=str,
            default="auto",
            per_network=False,
            help=f"First weights: auto (by the activation), or: {', '.join(INITIALIZERS)}.",
            metavar="NAME",
        ),
    )
}
PANELS = {"Network": NETWORK_OPTIONS, "Training": TRAINING_OPTIONS}
OPTIONS = NETWORK_OPTIONS | TRAINING_OPTIONS
# Parameters of a command on where its results go and what is shown, which are no settings of a run.
NOT_KEPT = ("out", "overwrite", "diagnostics", "watch_test", "report", "quiet", "help")


def takes_options(before: str) -> Callable[[Command], Command]:
    """Let a command take all OPTIONS as ``**values``; on the command line they come before its parameter `before`.

    Parameters
    ----------
    before : str

    Returns
    -------
    callable
        A decorator that only changes the signature that typer reads.
    """

    def decorate(command: Command) -> Command:
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if parameter.name == before:
                parameters += [_parameter(option, panel) for panel in PANELS for option in PANELS[panel].values()]
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                parameters.append(parameter)
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def asked_for(ctx: typer.Context) -> dict[str, Any]:
    """What a command was asked for, by parameter, as metrics.json keeps it."""
    names = [str(parameter.name) for parameter in ctx.command.params]
    return {name: ctx.params.get(name) for name in names if name not in NOT_KEPT}


def _parameter(option: Option, panel: str) -> inspect.Parameter:
    """An option as a parameter of a command."""
    return inspect.Parameter(
        option.name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=_declaration(option, panel, option.command_default),
        annotation=option.type | None if option.optional_in_command else option.type,
    )


def _declaration(option: Option, panel: str, default: Any = ...) -> Any:
    """typer's declaration of an option without its type; bounds of non-integer numbers are left to `train`."""
    return typer.Option(
        default,
        help=option.help,
        metavar=option.metavar,
        min=option.low if option.type is int else None,
        rich_help_panel=panel,
    )


# -- what single commands declare ----------------------------------------------------------------------

Source = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A built-in data set (digits, breast_cancer, wine, diabetes, iris); a .csv, .csv.gz, .parquet, .npz, "
        ".npy, .h5 or .xlsx file; a folder of pictures for each class, or of MNIST-format IDX files; or - for CSV on "
        "standard input.",
        show_default=False,
    ),
]
Rows = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Data in the form of what the network was trained on; or - for CSV on standard input.",
        show_default=False,
    ),
]
LookedAt = Annotated[
    str | None, typer.Argument(metavar="DATA", help="Rows with their target, to look at the layers with.")
]
Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL_DIR",
        help='The folder that "gpubp train" wrote, or the model file in it.',
        show_default=False,
    ),
]

Target = Annotated[
    str | None,
    typer.Option(
        help="Column to predict (default: the last), or several with commas.", metavar="COLUMN", rich_help_panel="Data"
    ),
]
Test = Annotated[
    str | None,
    typer.Option(
        help="Test rows (default: DATA's own test part, else 0.2 of it).",
        metavar="FILE|FRACTION",
        rich_help_panel="Data",
    ),
]
Validation = Annotated[
    float | None,
    typer.Option(help="Part of the training rows to watch, not train on.", metavar="FRACTION", rich_help_panel="Data"),
]

ClassWeight = Annotated[
    str | None,
    typer.Option(
        help='How much rows of a class count: "balanced" for all classes alike, or such as cat=5,dog=1.',
        metavar="balanced|CLASS=WEIGHT,…",
        rich_help_panel="Data",
    ),
]


def _table_option(*names: str, help: str, metavar: str | None = None) -> Any:
    """Declare an option on how a table is read."""
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Data")


Ignore = Annotated[str | None, _table_option(help="Columns to leave out, with commas.", metavar="COLUMNS")]
Kind = Annotated[
    str | None,
    _table_option(
        help=f"What columns are, such as zip=category,age=number; one of {', '.join(KINDS)}.", metavar="COLUMN=KIND,…"
    ),
]
Missing = Annotated[
    str | None,
    _table_option(help="Texts that mean that a value is missing, such as -999,unknown.", metavar="TEXTS"),
]
Decimal = Annotated[
    str | None, _table_option(help="What stands before decimals, where that is open.", metavar=". or ,")
]
DecimalOfRows = Annotated[
    str | None, _table_option(help="What stands before decimals, if not what did in training.", metavar=". or ,")
]
Delimiter = Annotated[
    str | None, _table_option(help='Separates the cells of a CSV file (detected by default); "tab".', metavar="CHAR")
]
Encoding = Annotated[
    str | None, _table_option(help="Of a CSV file (detected by default), such as latin-1.", metavar="NAME")
]
Header = Annotated[
    bool,
    _table_option("--header", help="The first line of a CSV file names the columns, though it looks like data."),
]
NoHeader = Annotated[
    bool,
    _table_option("--no-header", help='The first line of a CSV file is a row; columns are called "1", "2", ….'),
]

Numbers = Annotated[
    str | None,
    typer.Option(
        help=f"How columns of numbers are encoded: {', '.join(ENCODINGS)}; or several, as robust+piecewise.",
        metavar="NAMES",
        rich_help_panel="Data",
    ),
]
PresetName = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help=f"For tables: {', '.join(PRESETS)}, or none (default: fast; none for arrays and pictures).",
        metavar="NAME",
        rich_help_panel="Run",
    ),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(help="Seconds that the training may take.", metavar="SECONDS", rich_help_panel="Run"),
]
Seed = Annotated[
    int,
    typer.Option(
        help="Of weights, splits, order of rows and dropout.", metavar="N", min=0, max=2**32 - 1, rich_help_panel="Run"
    ),
]
Device = Annotated[
    str,
    typer.Option(help=f"One of {', '.join(DEVICES)}; cuda:1 is the second GPU.", metavar="NAME", rich_help_panel="Run"),
]
Precision = Annotated[
    str,
    typer.Option(
        help=f"One of {', '.join(PRECISIONS)}; the last three need a GPU.", metavar="NAME", rich_help_panel="Run"
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder for the results (default: runs/NAME-DATE).", metavar="DIR", rich_help_panel="Run"),
]
SearchOut = Annotated[
    Path | None,
    typer.Option(help="Folder for the results (default: runs/search-NAME-DATE).", metavar="DIR", rich_help_panel="Run"),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        help="Memory to use, such as 4GB (default: half of the machine's): a .parquet, .csv, .npy or .h5 file that "
        "would take more is read in blocks.",
        metavar="SIZE",
        rich_help_panel="Run",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the run that --out holds already.", rich_help_panel="Run")
]
Recompute = Annotated[
    bool,
    typer.Option(
        "--recompute",
        help="Keep few layers' activations and compute the others again in the backward pass: less memory if deep.",
        rich_help_panel="Run",
    ),
]
Diagnostics = Annotated[
    bool,
    typer.Option(
        "--diagnostics",
        help="Look at every layer in each epoch: says what is wrong, and keeps norms, saturated and dead units.",
        rich_help_panel="Run",
    ),
]
WatchTest = Annotated[
    bool,
    typer.Option(
        "--watch-test",
        help="Keep the loss of the test rows by epoch too; it is only watched, nothing is chosen by it.",
        rich_help_panel="Run",
    ),
]
Report = Annotated[
    bool,
    typer.Option(
        "--report",
        help='Write report.html into the folder, as "gpubp report" does: some seconds more (extra "plot").',
        rich_help_panel="Run",
    ),
]
CheckpointEvery = Annotated[
    str | None,
    typer.Option(
        help="Write a checkpoint to go on from, such as every 500steps, 1epochs or 10minutes; one is always written at "
        "Ctrl-C and SIGTERM.",
        metavar="N{steps|epochs|minutes}",
        rich_help_panel="Run",
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        help="Go on in this folder from its last checkpoint, with all other options as they were.",
        metavar="DIR",
        rich_help_panel="Run",
    ),
]
ResumeSearch = Annotated[
    Path | None,
    typer.Option(
        "--resume",
        help="Go on in this folder after the stacks that were finished, with all other options as they were.",
        metavar="DIR",
        rich_help_panel="Run",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the result only.", rich_help_panel="Run")]

Predictions = Annotated[
    Path, typer.Option(help="A .csv, .csv.gz or .parquet file, or - for CSV on standard output.", metavar="FILE")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object only.")]

Layers = Annotated[str, typer.Option(help="Sizes of all layers: inputs, hidden ones, outputs.", metavar="SIZES")]
LayersActivation = Annotated[str, typer.Option("--activation", help="Of all hidden layers.", metavar="NAME")]
BatchSize = Annotated[int, _declaration(TRAINING_OPTIONS["batch_size"], "Training")]
Optimizer = Annotated[str, _declaration(TRAINING_OPTIONS["optimizer"], "Training")]
Precisions = Annotated[
    str,
    typer.Option("--precision", help=f"One or more, with commas, of {', '.join(PRECISIONS)}.", metavar="NAMES"),
]
Tune = Annotated[
    bool,
    typer.Option(
        "--tune",
        help="Instead, time cuBLASLt's algorithms for the matrix products of a step on this GPU, and keep the fastest "
        "in a table that every later run uses.",
    ),
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the figures there.", metavar="FILE")]
