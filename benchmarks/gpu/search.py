"""Stage ``search``: a grid of candidates on folds of digits, from the call to results."""

from __future__ import annotations

from typing import Any

import numpy as np

import gpubp
from benchmarks.gpu.settings import Settings
from benchmarks.parts import Part
from benchmarks.timing import interleaved
from gpubp.bench.timing import spread

AT_MOST = 1.0  # seconds


def search(part: Part, settings: Settings) -> None:
    """Rows on the scores, beside those of a search on the CPU, and on the time."""
    try:
        from benchmarks.stacks import ALIKE, FOLDS, GRID, digits, largest_difference
    except ModuleNotFoundError as error:
        return part.skipped("a search", str(error), "search")
    grid: dict[str, Any] = {name: values[:2] if part.dry_run else values for name, values in GRID.items()}
    iterations = 2 if part.dry_run else 30
    X, y = digits(part, np.float32)

    def searched(device: str) -> Any:
        network = gpubp.MLPClassifier(
            hidden_layer_sizes=(64,),
            batch_size=64,
            max_iter=iterations,
            random_state=0,
            n_iter_no_change=iterations,  # all candidates take all iterations
            tol=0.0,
            device=device,
        )
        return gpubp.MLPSearchCV(network, grid, cv=FOLDS, refit=False).fit(X, y).cv_results_

    device = "cpu" if part.dry_run else "cuda"
    results = searched(device)
    candidates = len(results["params"])
    what = f"{candidates} candidates x {FOLDS} folds of digits, 64-64-10 b64, {iterations} epochs"
    off = largest_difference(results, searched("cpu"))
    part.computed(
        what=f"{what}: largest difference of a score from the CPU's",
        asked=f"<= {ALIKE}",
        measured=f"{off:.4f}",
        met=off <= ALIKE,
        bar="search-scores",
    )
    seconds = interleaved({"search": lambda: searched(device)}, *((1, 0) if part.dry_run else (5, 1)))["search"]
    times = spread(seconds)
    part.timed(
        what=f"{what}: from the call to results",
        asked=f"<= {AT_MOST} s",
        measured=f"{times} s",
        met=times.median <= AT_MOST,
        bar="search",
    )
    part.figures.append({"what": what, "seconds": seconds.tolist()})
