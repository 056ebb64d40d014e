"""gpubp's estimators against scikit-learn's: ``python -m benchmarks.estimators --out DIR [--part PART …]``.

Weights are compared before anything is timed. Fits and predictions take turns in one process, in equal numbers of
iterations, on all cores; ratios are scikit-learn's seconds over ours, round by round. What is behind the table goes
into DIR/estimators.json. ``--dry-run`` runs the same on little data.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from sklearn import datasets, neural_network
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import scale

import gpubp
from benchmarks.commands import measure_parts, parser_of
from benchmarks.parts import Part
from benchmarks.timing import interleaved
from gpubp.bench.timing import ratio

FILE, SECONDS = "estimators.json", 900.0
SOLVERS: dict[str, dict[str, Any]] = {
    "sgd": {"solver": "sgd", "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd"},
    "adam": {"solver": "adam"},
}
TASKS: dict[str, tuple[float, int]] = {  # how many times as fast a fit is asked to be, and its iterations
    "digits": (2.5, 50),
    "breast_cancer": (2.0, 100),
    "50,000 x 100": (1.3, 5),
    "50,000 x 100, float32": (1.5, 5),
}


def fitted(module: Any, X: Any, y: Any, weight: Any = None, **parameters: Any) -> Any:
    """A classifier of gpubp or scikit-learn after its fit on the CPU."""
    device = {"device": "cpu"} if module is gpubp else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return module.MLPClassifier(**parameters, **device).fit(X, y, sample_weight=weight)


def parity(part: Part) -> None:
    """Weights after a hundred steps: shuffled, L2, sample weights, a short last batch."""
    rng = np.random.default_rng(0)
    X, y, weight = rng.standard_normal((230, 10)), rng.integers(0, 3, 230), rng.uniform(0.1, 2.0, 230)
    parameters = {"batch_size": 50, "max_iter": 20, "alpha": 0.5, "random_state": 0, "hidden_layer_sizes": (16, 8)}
    for name, solver in SOLVERS.items():
        ours, theirs = (fitted(module, X, y, weight, **parameters, **solver) for module in (gpubp, neural_network))
        pairs = zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True)
        worst = max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)
        what = f"{name}: weights after 100 steps against scikit-learn's, float64, worst tensor"
        part.computed(what, "<= 1e-12", f"{worst:.1e}", worst <= 1e-12)


def data_of(name: str, dry_run: bool) -> tuple[Any, Any]:
    """X and y."""
    if name == "digits":
        X, y = datasets.load_digits(return_X_y=True)
        X = X / 16
    elif name == "breast_cancer":
        X, y = datasets.load_breast_cancer(return_X_y=True)
        X = scale(X)
    else:
        X, y = datasets.make_classification(50_000, 100, n_informative=20, random_state=0)
        X = X.astype(np.float32) if name.endswith("float32") else X
    return (X[:300], y[:300]) if dry_run else (X, y)


def fit(part: Part) -> None:
    """Whole fits with the default parameters, but for the number of iterations."""
    for name, (asked, iterations) in TASKS.items():
        X, y = data_of(name, part.dry_run)
        parameters = {"random_state": 0, "max_iter": iterations, "tol": 0.0, "n_iter_no_change": iterations}
        fits = {
            "sklearn": partial(fitted, neural_network, X, y, **parameters),
            "gpubp": partial(fitted, gpubp, X, y, **parameters),
        }
        theirs, ours = (fit() for fit in fits.values())
        if ours.n_iter_ != theirs.n_iter_ or not np.isclose(ours.loss_, theirs.loss_, rtol=1e-3):
            part.failed(
                f"{name}: fit", f"losses {ours.loss_} and {theirs.loss_}, {ours.n_iter_}, {theirs.n_iter_} epochs"
            )
            continue
        seconds = interleaved(fits, rounds=1 if part.dry_run else 7, warm_up=1)
        times = ratio(seconds["sklearn"], seconds["gpubp"])
        each = " over ".join(f"{np.median(v):.3f} s" for v in seconds.values())
        what = f"{name}, {ours.coefs_[0].dtype}, {iterations} iterations: fit"
        part.timed(what, f">= {asked}", f"{times}; {each}", times.median >= asked)
        part.figures.append({"what": what, "seconds": {k: v.tolist() for k, v in seconds.items()}})


def predict(part: Part) -> None:
    """One row: what is left is the checks."""
    X, y = data_of("50,000 x 100", dry_run=True)
    ours, theirs = (fitted(module, X, y, max_iter=2, random_state=0) for module in (gpubp, neural_network))
    if not np.allclose(ours.predict_proba(X), theirs.predict_proba(X)):
        part.failed("predict", "the probabilities differ")
        return

    def often(model: Any) -> None:
        for _ in range(200):
            model.predict(X[:1])

    functions = {"gpubp": partial(often, ours), "sklearn": partial(often, theirs)}
    seconds = interleaved(functions, rounds=1 if part.dry_run else 41)
    times = ratio(seconds["gpubp"], seconds["sklearn"])
    each = " over ".join(f"{np.median(v) / 200 * 1e6:.0f} us" for v in seconds.values())
    part.timed("predict of one row, our time over scikit-learn's", "<= 1.2", f"{times}; {each}", times.median <= 1.2)


PARTS: dict[str, Callable[[Part], None]] = {"parity": parity, "fit": fit, "predict": predict}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure some parts."""
    options = parser_of("estimators", __doc__, FILE, PARTS).parse_args(arguments)
    return measure_parts("estimators", options, FILE, PARTS, fast_kernels=True, seconds=SECONDS)


if __name__ == "__main__":
    sys.exit(main())
