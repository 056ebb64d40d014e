"""The arguments and options of the commands: types, help texts, and choices read off the registries."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from gpubp.activations import ACTIVATIONS
from gpubp.backends import DEVICES
from gpubp.cli.parsing import EPOCHS, FEWEST_STEPS
from gpubp.initializers import INITIALIZERS
from gpubp.losses import LOSSES
from gpubp.optimizers import OPTIMIZERS
from gpubp.precision import PRECISIONS
from gpubp.schedules import SCHEDULES


def _argument(metavar: str, text: str) -> Any:
    return Argument(metavar=metavar, help=text, show_default=False)


def _option(panel: str, text: str, metavar: str = "N", *declared: str, **settings: Any) -> Any:
    return Option(*declared, help=text, rich_help_panel=panel, metavar=metavar, **settings)


def _named(panel: str, text: str, names: Iterable[str]) -> Any:
    return _option(panel, f"{text}: {', '.join(names)}.", "NAME")


Source = Annotated[
    str,
    _argument(
        "DATA",
        "A built-in data set (digits, breast_cancer, wine, diabetes, iris); a .csv, .csv.gz, .parquet, .npz, .npy or "
        ".h5 file; or a folder of MNIST-format IDX files.",
    ),
]
Rows = Annotated[str, _argument("DATA", "Data in the form of what the network was trained on.")]
Model = Annotated[Path, _argument("MODEL_DIR", 'The folder that "gpubp train" wrote, or the model file in it.')]

Target = Annotated[str | None, _option("Data", "Column to predict (default: the last).", "COLUMN")]
Test = Annotated[
    str | None, _option("Data", "Test rows (default: DATA's own test part, else 0.2 of it).", "FILE|FRACTION")
]
Validation = Annotated[float | None, _option("Data", "Part of the training rows to watch, not train on.", "FRACTION")]

Hidden = Annotated[str, _option("Network", 'Sizes of the hidden layers, such as 512,256; or "none".', "SIZES")]
Activation = Annotated[str, _named("Network", "Of all hidden layers; or one each, with commas", ACTIVATIONS)]
Loss = Annotated[str, _named("Network", "auto (by the target), or", LOSSES)]
OutputActivation = Annotated[str, _option("Network", "auto (the loss's own), softmax, or any activation.", "NAME")]
Init = Annotated[str, _named("Network", "First weights: auto (by the activation), or", INITIALIZERS)]

Optimizer = Annotated[str, _named("Training", "Update rule", OPTIMIZERS)]
LearningRate = Annotated[float, _option("Training", "Base learning rate.")]
Schedule = Annotated[str, _named("Training", "Learning rate over time", SCHEDULES)]
Momentum = Annotated[float | None, _option("Training", "For optimizers that have it (default: 0.9).")]
L2 = Annotated[float, _option("Training", "Add L2 times the weights to their gradient.")]
WeightDecay = Annotated[float | None, _option("Training", "Decoupled weight decay (default: 0; adamw 0.01).")]
Dropout = Annotated[float, _option("Training", "Share of hidden units dropped at each step.")]
LabelSmoothing = Annotated[float, _option("Training", "For losses on classes.")]
MaxGradNorm = Annotated[float | None, _option("Training", "Scale longer gradients down to this norm.")]
BatchSize = Annotated[int, _option("Training", "Rows of a step.", min=1)]
Epochs = Annotated[
    int | None,
    _option("Training", f"Passes over the rows (default: {EPOCHS}; more if they make < {FEWEST_STEPS} steps).", min=1),
]
Patience = Annotated[
    int | None, _option("Training", "Stop after so many epochs without a lower validation loss.", min=1)
]
UpdateTolerance = Annotated[
    float | None, _option("Training", "Stop when no weight or bias moved more than this in an epoch.")
]

Seed = Annotated[int, _option("Run", "Of weights, splits, order of rows and dropout.", min=0, max=2**32 - 1)]
Device = Annotated[str, _option("Run", f"One of {', '.join(DEVICES)}; cuda:1 is the second GPU.", "NAME")]
Precision = Annotated[str, _option("Run", f"One of {', '.join(PRECISIONS)}; the last three need a GPU.", "NAME")]
Out = Annotated[Path | None, _option("Run", "Folder for the results (default: runs/NAME-DATE).", "DIR")]
Quiet = Annotated[bool, Option("--quiet", help="Print the result only.", rich_help_panel="Run")]

Predictions = Annotated[Path, Option(help="The file to write.", metavar="FILE")]
Json = Annotated[bool, Option("--json", help="Print one JSON object only.")]

Layers = Annotated[str, Option(help="Sizes of all layers: inputs, hidden ones, outputs.", metavar="SIZES")]
LayersActivation = Annotated[str, Option("--activation", help="Of all hidden layers.", metavar="NAME")]
Precisions = Annotated[
    str, Option("--precision", help=f"One or more, with commas, of {', '.join(PRECISIONS)}.", metavar="NAMES")
]
Tune = Annotated[
    bool,
    Option(
        "--tune",
        help="Instead, time cuBLASLt's algorithms for the matrix products of a step on this GPU, and keep the fastest "
        "in a table that every later run uses.",
    ),
]
JsonFile = Annotated[Path | None, Option("--json", help="Also write the figures there.", metavar="FILE")]
