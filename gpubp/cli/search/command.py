"""The command `search`: candidates trained together on folds; the best is trained on all rows and saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gpubp.backends import get_backend
from gpubp.cli import options
from gpubp.cli.parsing import parse_class_weight, parse_table_options, parse_test
from gpubp.cli.search.grid import Grid, parse_grid
from gpubp.cli.settings import Settings
from gpubp.cli.train import choose_epochs, config_of, fit, save
from gpubp.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from gpubp.cli.search.results import CandidateResult, Results
    from gpubp.data import PreparedData

FOLDS = 5
VALIDATION = 0.2  # of a single split

Grids = Annotated[
    list[str],
    typer.Option(
        "--grid",
        help="What to vary, such as 'learning-rate=1e-3,1e-2;hidden=64,128-64;dropout=0,0.2': names of the options "
        "below (but --loss) or of an option of the optimizer (beta2, ...), their values with "
        '",", layers with "-". '
        "Every combination is a candidate; with several --grid, those of each.",
        metavar="GRID",
        rich_help_panel="Search",
        show_default=False,
    ),
]
Folds = Annotated[
    int | None,
    typer.Option(
        help=f"Parts of the training rows, each validated on once (default: {FOLDS}); 1 is a single split.",
        metavar="N",
        min=1,
        rich_help_panel="Search",
    ),
]
Seeds = Annotated[
    int,
    typer.Option(
        help="Networks per candidate and fold: seeds from --seed on.",
        metavar="N",
        min=1,
        rich_help_panel="Search",
    ),
]
SplitValidation = Annotated[
    float | None,
    typer.Option(
        help=f"Part of the training rows that a single split validates on (default: {VALIDATION}).",
        metavar="FRACTION",
        rich_help_panel="Search",
    ),
]

RankBy = Annotated[
    Literal["loss", "metric"],
    typer.Option(
        help="What candidates are ranked by: their validation loss, of classes the log loss; or the accuracy, "
        "label_accuracy or rmse.",
        rich_help_panel="Search",
    ),
]


@options.takes_options(before="seed")
def search(
    ctx: typer.Context,
    data: options.Source,
    grid: Grids,
    folds: Folds = None,
    validation: SplitValidation = None,
    seeds: Seeds = 3,
    rank_by: RankBy = "loss",
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
    class_weight: options.ClassWeight = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
    resume: options.ResumeSearch = None,
    out: options.SearchOut = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    **values: Any,
) -> None:
    """Search the best settings for DATA: all candidates are trained at once, on folds of its training rows.

    They are ranked by validation loss, or as --rank-by says. The best is trained again on all training rows and saved
    like that of "gpubp train", together with results.csv. Ctrl-C ends the search early; if a candidate is done by then,
    the best one is still trained.
    """
    searched = _parse_grid(ctx, grid, Settings(values))
    number, fraction = _parse_split(folds, validation)
    backend = get_backend(device, precision)

    from gpubp import data as reading
    from gpubp.cli import display, run_folder
    from gpubp.cli.search import display as search_display
    from gpubp.cli.search.finished import FINISHED
    from gpubp.cli.search.results import RESULTS, Results
    from gpubp.cli.search.trials import Search
    from gpubp.data.folds import cut

    out = run_folder.choose(out, resume, overwrite, (RESULTS, FINISHED))
    console = display.make_console(quiet=quiet)
    source = reading.read(data, target, **parse_table_options(ctx.params))
    rows = {"test": parse_test(test), "seed": seed, "dtype": backend.dtype}
    rows["output_activation"] = tuple(dict.fromkeys(c["output_activation"] for c in searched.candidates))
    prepared = reading.prepare(source, loss=values["loss"], **rows)
    parts, notes = cut(source, loss=prepared.loss, folds=number, validation=fraction, **rows)
    display.say(console, display.describe_data(source.name, prepared), "bold")
    display.show_notes(console, [*prepared.notes, *notes])
    candidates = choose_epochs(console, searched.candidates, len(prepared.train[0]))
    every_seed = range(seed, seed + seeds)
    by_class = parse_class_weight(class_weight, prepared.classes)
    trained = Search(candidates, parts, every_seed, prepared.n_outputs, prepared.loss, device, precision, by_class)
    search_display.show_plan(console, trained)
    display.say(console, f"device {backend.device} ({backend.reason}), {backend.precision}")

    metric = {"regression": "rmse", "multilabel": "label_accuracy"}.get(prepared.task, "accuracy")
    with run_folder.claimed(out, f"search-{source.name}") as folder:
        results = Results(trained, searched.names, metric, folder / RESULTS, rank_by)
        _search_and_save(ctx, console, results, prepared)


def _search_and_save(ctx: typer.Context, console: Console, results: Results, prepared: PreparedData) -> None:
    """Train all unfinished candidates, and then a network with the settings of the best."""
    from gpubp.cli import display
    from gpubp.cli.search import display as search_display
    from gpubp.cli.search import finished
    from gpubp.cli.search.finished import FINISHED

    folder, search = results.path.parent, results.search
    if ctx.params["resume"] is not None:
        stacks = finished.load(folder, search)
        display.say(
            console, f"going on in {folder}: {stacks} of {display.plural(len(search.stacks), 'stack')} finished"
        )
    else:
        (folder / FINISHED).unlink(missing_ok=True)
    complete = _train_stacks(console, results)
    search_display.show_results(console, results)
    best = results.ranked()[0]
    if not best.done:
        typer.echo(_why_no_winner(complete, results), err=True)
        if complete:
            (folder / FINISHED).unlink()
        raise typer.Exit(1 if complete else 130)
    typer.echo(f"best: {search_display.summary(best, results.metric)}")
    _train_winner(ctx, console, results, best, prepared)
    if not complete:
        raise typer.Exit(130)
    (folder / FINISHED).unlink(missing_ok=True)


def _parse_grid(ctx: typer.Context, texts: list[str], settings: Settings) -> Grid:
    """The grid to search; options given both on the command line and in the grid are refused."""
    typed = {name for name in ctx.params if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"}
    grid = parse_grid(texts, settings, typed, ctx.params)
    for candidate in grid.candidates:
        candidate.check_names()
    return grid


def _parse_split(folds: int | None, validation: float | None) -> tuple[int, float]:
    """The number of folds, and the fraction of validation rows in a single split."""
    if validation is None:
        return folds or FOLDS, VALIDATION
    if (folds or 1) > 1:
        raise UsageError("--validation is of a single split; leave it out, or use --folds 1")
    if not 0 < validation < 1:
        raise UsageError(f"--validation {validation:g} leaves nothing to train on or to rank by; use one such as 0.2")
    return 1, validation


def _train_stacks(console: Console, results: Results) -> bool:
    """Train stack after stack, saving the results so far; False if Ctrl-C ended it."""
    from gpubp.cli.search import finished
    from gpubp.cli.search.display import SearchProgress

    search = results.search
    try:
        with SearchProgress(console, results) as progress:
            for stack in search.stacks:
                if not stack.finished:
                    search.train(stack, progress)
                    results.save()
                    finished.save(results.path.parent, search)
    except KeyboardInterrupt:
        if not any(trial.epochs for trial in search.trials):
            raise
        results.save()
        done = sum(candidate.done for candidate in results.ranked())
        typer.echo(f"Interrupted: {done} of {len(search.candidates)} candidates are done", err=True)
        return False
    return True


def _train_winner(
    ctx: typer.Context, console: Console, results: Results, best: CandidateResult, prepared: PreparedData
) -> None:
    """Train a network with the best settings on all training rows, and save it."""
    from gpubp.cli.search.display import announce_winner

    search, settings = results.search, best.final()
    announce_winner(console, best, len(prepared.train[0]))
    config = config_of(ctx, settings, prepared) | {"folds": len(search.folds)}
    seed, folder, quiet = search.seeds[0], results.path.parent, ctx.params["quiet"]
    try:
        net = settings.network(
            prepared.n_inputs, prepared.n_outputs, prepared.loss, seed, search.device, search.precision
        )
        history = fit(console, net, prepared, settings, seed, {"class_weight": search.class_weight})
        save(console, net, prepared, history, config, folder, quiet)
    except KeyboardInterrupt:
        typer.echo(f"Interrupted: {results.path} was written, and no network", err=True)
        raise typer.Exit(130) from None


def _why_no_winner(complete: bool, results: Results) -> str:
    """The message to the user if no candidate is done."""
    if not complete:
        return f"{results.path} says how far each came; no network was kept"
    return (
        f"Error: every candidate diverged; {results.path} says when; try learning rates ten times smaller, "
        "--max-grad-norm 1, or inputs scaled to about unit variance"
    )
