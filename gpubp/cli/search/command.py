"""The command `search`: candidates trained together on folds, the best of them trained on all rows and kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpubp.backends import get_backend
from gpubp.cli import options
from gpubp.cli.parsing import parse_test
from gpubp.cli.search.grid import parse_grid
from gpubp.cli.settings import Settings
from gpubp.cli.train import config_of, fit, keep, with_epochs
from gpubp.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from gpubp.cli.search.results import Results

FOLDS = 5
VALIDATION = 0.2  # of a single split

Grid = Annotated[
    list[str],
    typer.Option(
        "--grid",
        help="What to vary, such as 'learning-rate=1e-3,1e-2;hidden=64,128-64;dropout=0,0.2': names of the options "
        'below (but --loss) or of an option of the optimizer (beta2, ...), their values with ",", layers with "-". '
        "Every combination is a candidate; with several --grid, those of each.",
        metavar="GRID",
        rich_help_panel="Search",
        show_default=False,
    ),
]
Folds = Annotated[
    int | None,
    typer.Option(help=f"Parts of the training rows, each validated on once (default: {FOLDS}); 1 is a single split.",
                 metavar="N", min=1, rich_help_panel="Search"),
]  # fmt: skip
Seeds = Annotated[
    int,
    typer.Option(
        help="Networks per candidate and fold: seeds from --seed on.", metavar="N", min=1, rich_help_panel="Search"
    ),
]
Validation = Annotated[
    float | None,
    typer.Option(help=f"Part of the training rows that a single split validates on (default: {VALIDATION}).",
                 metavar="FRACTION", rich_help_panel="Search"),
]  # fmt: skip


def search(
    ctx: typer.Context,
    data: options.Source,
    grid: Grid,
    folds: Folds = None,
    validation: Validation = None,
    seeds: Seeds = 3,
    target: options.Target = None,
    test: options.Test = None,
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
    """Search the best settings for DATA: all candidates are trained at once, on folds of its training rows.

    They are ranked by validation accuracy, for values by validation loss. The best is trained again on all
    training rows and kept like that of "gpubp train", beside results.csv. Ctrl-C ends the search early; if a
    candidate is done by then, the best one is still trained.
    """
    given = {name for name in ctx.params if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"}
    searched = parse_grid(grid, Settings.of(ctx.params), given, ctx.params)
    for candidate in searched.candidates:
        candidate.check()
    if validation is not None and (folds or 1) > 1:
        raise UsageError("--validation is of a single split; leave it out, or use --folds 1")
    if validation is not None and not 0 < validation < 1:
        raise UsageError(f"--validation {validation:g} leaves nothing to train on or to rank by; use one such as 0.2")
    backend = get_backend(device, precision)

    from gpubp import data as reading
    from gpubp.cli import display, run_folder
    from gpubp.cli.search import display as search_display
    from gpubp.cli.search.plan import Search
    from gpubp.cli.search.results import RESULTS, Results
    from gpubp.data.folds import cut

    run_folder.check_writable(out or Path("runs"))
    console = display.make_console(quiet=quiet)
    source = reading.read(data, target)
    rows = {"test": parse_test(test), "seed": seed, "dtype": backend.dtype}
    ready = reading.prepare(source, loss=loss, **rows)
    number = folds or (FOLDS if validation is None else 1)
    parts, notes = cut(
        source, loss=ready.loss, folds=number, validation=VALIDATION if validation is None else validation, **rows
    )
    display.say(console, display.describe_data(source.name, ready), "bold")
    display.show_notes(console, [*ready.notes, *notes])
    candidates = with_epochs(console, searched.candidates, len(ready.train[0]))
    trained = Search(candidates, parts, range(seed, seed + seeds), ready.n_outputs, ready.loss, device, precision)
    search_display.show_plan(console, trained)
    display.say(console, f"device {backend.device} ({backend.reason}), {backend.precision}")

    folder = out or run_folder.default_folder(f"search-{source.name}")
    metric = "rmse" if ready.task == "regression" else "accuracy"
    results = Results(trained, searched.names, metric, folder / RESULTS)
    whole = _train(console, results)
    search_display.show_results(console, results)
    best = results.ranked()[0]
    if not best.done:
        typer.echo(_nothing_done(whole, results), err=True)
        raise typer.Exit(1 if whole else 130)
    typer.echo(f"best: {search_display.summary(best, metric)}")
    settings = best.final()
    config = config_of(ctx, settings, ready) | {"folds": len(parts)}
    search_display.announce_winner(console, best, len(ready.train[0]))
    try:
        net = settings.network(ready.n_inputs, ready.n_outputs, ready.loss, seed, device, precision)
        keep(console, net, ready, fit(console, net, ready, settings, seed), config, folder, quiet)
    except KeyboardInterrupt:
        typer.echo(f"Interrupted: {results.path} was written, and no network", err=True)
        raise typer.Exit(130) from None
    if not whole:
        raise typer.Exit(130)


def _train(console: Console, results: Results) -> bool:
    """Train stack after stack, keeping what is known by then; False if Ctrl-C ended it."""
    from gpubp.cli.search.display import SearchProgress

    search = results.search
    try:
        with SearchProgress(console, results) as progress:
            for stack in search.stacks:
                search.train(stack, progress)
                results.save()
    except KeyboardInterrupt:
        if not any(trial.epochs for trial in search.trials):
            raise
        results.save()
        done = sum(standing.done for standing in results.ranked())
        typer.echo(f"Interrupted: {done} of {len(search.candidates)} candidates are done", err=True)
        return False
    return True


def _nothing_done(whole: bool, results: Results) -> str:
    """Why there is no winner."""
    if not whole:
        return f"{results.path} says how far each came; no network was kept"
    return (
        f"Error: every candidate diverged; {results.path} says when; try learning rates ten times smaller, "
        "--max-grad-norm 1, or inputs scaled to about unit variance"
    )
