"""Many networks at once against one after the other: ``python -m benchmarks.stacks --out DIR [--part PART …]``.

Parts: whether each network of a stack is trained as by itself; a grid search against scikit-learn's; a stack of
trainings against as many trainings, and a step's time by the size of the stack; memory; steps of PyTorch's and JAX's
vmap. What is compared is verified before it is timed, and takes turns, on all cores. What is behind the table goes
into DIR/stacks.json. ``--dry-run`` runs the same on little data; its figures mean nothing and never stand beside
measured ones. A GPU's figures: ``python -m benchmarks.gpu --part stacks``.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier

import gpubp
from benchmarks.cases import Task
from benchmarks.commands import measure_parts, parser_of
from benchmarks.contest import environment
from benchmarks.devices import open_backend
from benchmarks.parts import Part
from benchmarks.peers import WITH_STACKS, UnavailableError
from benchmarks.remote import Remote, RemoteError
from benchmarks.stack_cases import StackContest, StackWorkload
from benchmarks.stack_equality import bits, one_step
from benchmarks.stack_memory import HostMemory, memory_row
from benchmarks.timing import interleaved
from gpubp.backends import get_backend
from gpubp.bench.steps import Steps, Workload
from gpubp.bench.timing import ratio, spread

FILE, SECONDS = "stacks.json", 900.0

FOLDS, SEARCH_AT_LEAST = 5, 3.0  # times as fast as GridSearchCV over scikit-learn's classifier
GRID = {"alpha": np.geomspace(1e-5, 1e-1, 8), "learning_rate_init": np.geomspace(5e-4, 1e-2, 4)}
ALIKE = 0.01  # of a fold's accuracy; a row of a fold is 0.003

SMALL, LARGE = Workload((64, 64, 64, 10), 32, 56), Workload((64, 256, 256, 10), 128, 16)
TINY = Workload((64, 8, 10), 8, 4)  # of dry runs
MODELS, EPOCHS, TRAINING_AT_LEAST = 64, 5, 1.5  # times as fast as one training after the other
SIZES = (1, 4, 16, 64, 256)
PEERS, OURS = tuple(name for name in WITH_STACKS if "graph" not in name), "gpubp stack cpu"


def digits(part: Part, dtype: type) -> tuple[Any, Any]:
    """X in 0 … 1 and y; 300 rows in a dry run."""
    X, y = load_digits(return_X_y=True)
    rows = slice(300 if part.dry_run else None)
    return (X[rows] / 16).astype(dtype), y[rows]


def equality(part: Part) -> None:
    """On the reference to the last bit; the first step compiled and, where there is one, on a GPU."""
    bits(part)
    for device in ("cpu", "cuda"):
        try:
            one_step(part, open_backend(device, "float64", dry_run=False))
        except UnavailableError as error:
            part.skipped(f"networks of a stack and by themselves, {device}", str(error))


# -- a search -----------------------------------------------------------------------------------------------


def search(part: Part) -> None:
    """`MLPSearchCV` against `GridSearchCV`, over scikit-learn's classifier and over gpubp's."""
    grid: dict[str, Any] = {name: values[:2] if part.dry_run else values for name, values in GRID.items()}
    iterations = 2 if part.dry_run else 30
    fixed = {"hidden_layer_sizes": (64,), "batch_size": 64, "max_iter": iterations, "random_state": 0}
    fixed |= {"n_iter_no_change": iterations, "tol": 0.0}  # everyone takes all iterations
    X, y = digits(part, np.float64)
    ours, theirs = gpubp.MLPClassifier(**fixed, device="cpu"), MLPClassifier(**fixed)

    def searched(make: Callable[..., Any], estimator: Any, grid: Any, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return make(estimator, grid, cv=FOLDS, refit=False, **options).fit(X, y)

    searches = {
        "sklearn": partial(searched, GridSearchCV, theirs, grid, n_jobs=2),
        "gpubp": partial(searched, gpubp.MLPSearchCV, ours, grid),
    }
    results = {name: search().cv_results_ for name, search in searches.items()}
    candidates = len(results["gpubp"]["params"])
    off = largest_difference(results["gpubp"], results["sklearn"])
    what = f"{candidates} candidates x {FOLDS} folds of digits, hidden 64, batch 64, {iterations} epochs"
    part.computed(
        f"{what}: largest difference of a score from scikit-learn's", f"<= {ALIKE}", f"{off:.4f}", off <= ALIKE
    )
    if off <= ALIKE:
        seconds = interleaved(searches, rounds=1 if part.dry_run else 3, warm_up=0)
        times = ratio(seconds["sklearn"], seconds["gpubp"])
        each = " over ".join(f"{np.median(v):.2f} s" for v in seconds.values())
        name = f"{what}: GridSearchCV(sklearn, n_jobs=2) over MLPSearchCV"
        met = times.median >= SEARCH_AT_LEAST
        part.timed(name, f">= {SEARCH_AT_LEAST}", f"{times}; {each}", met)
        part.figures.append({"what": name, "seconds": {k: v.tolist() for k, v in seconds.items()}})
    some = {name: values[:2] for name, values in grid.items()}
    of_stacks, one_by_one = (searched(make, ours, some).cv_results_ for make in (gpubp.MLPSearchCV, GridSearchCV))
    off = largest_difference(of_stacks, one_by_one)
    same_ranks = np.array_equal(of_stacks["rank_test_score"], one_by_one["rank_test_score"])
    part.computed(
        "MLPSearchCV against GridSearchCV over gpubp's classifier: scores, ranking",
        "the same",
        f"largest difference {off:.1g}, ranking {'the same' if same_ranks else 'another'}",
        off == 0 and same_ranks,
    )


def largest_difference(results: Any, expected: Any) -> float:
    """The largest difference of a candidate's score on a fold."""
    names = [f"split{fold}_test_score" for fold in range(FOLDS)]
    return max(float(np.abs(results[name] - expected[name]).max()) for name in names)


# -- trainings ----------------------------------------------------------------------------------------------


def training(part: Part) -> None:
    """A stack against as many trainings, each network with a learning rate and a seed of its own."""
    workload, models, epochs = (TINY, 4, 1) if part.dry_run else (SMALL, MODELS, EPOCHS)
    X, y = digits(part, np.float32)
    rates, seeds = np.geomspace(3e-4, 1e-2, models), list(range(models))
    fixed = {"batch_size": workload.batch_size, "epochs": epochs}

    def together() -> Any:
        net = gpubp.MLP(workload.layer_sizes, models=models, seed=seeds, device="cpu")
        return gpubp.train(net, X, y, learning_rate=rates, seed=seeds, **fixed).loss[-1]

    def one_by_one() -> Any:
        losses = []
        for seed, rate in zip(seeds, rates, strict=True):
            net = gpubp.MLP(workload.layer_sizes, seed=seed, device="cpu")
            losses.append(gpubp.train(net, X, y, learning_rate=rate, seed=seed, **fixed).loss[-1])
        return np.array(losses)

    what = f"{models} networks {workload.name}, {epochs} epochs of digits: one by one over a stack"
    off = float(np.max(np.abs(together() / one_by_one() - 1)))
    if not off <= 1e-3:
        return part.failed(what, f"their losses differ by {off:.2g}")
    seconds = interleaved({"stack": together, "one by one": one_by_one}, *((1, 0) if part.dry_run else (7, 1)))
    times = ratio(seconds["one by one"], seconds["stack"])
    each = ", ".join(f"{name} {np.median(v):.2f} s" for name, v in seconds.items())
    met = times.median >= TRAINING_AT_LEAST
    part.timed(what, f">= {TRAINING_AT_LEAST}", f"{times}; {each}", met)
    part.figures.append({"what": what, "seconds": {k: v.tolist() for k, v in seconds.items()}})
    _by_size(part, workload)


def _by_size(part: Part, workload: Workload) -> None:
    """Step time per network."""
    backend = get_backend("cpu")
    sizes = SIZES[:2] if part.dry_run else SIZES
    shape = workload.layer_sizes, workload.batch_size, workload.batches
    epochs = {K: max(1, 16 // K) for K in sizes}  # in a turn, so that none is too short to be timed
    steps = {K: Steps(StackWorkload(*shape, models=K), backend) for K in sizes}
    functions = {str(K): partial(steps[K].run, epochs[K] * workload.batches) for K in sizes}
    by_stack = interleaved(functions, *((2, 0) if part.dry_run else (21, 2)))
    each = {K: by_stack[str(K)] / (K * epochs[K] * workload.batches) for K in sizes}
    for K, seconds in each.items():
        middle, low, high = spread(seconds * 1e6)
        gain = ratio(each[1], seconds)
        what = f"step of {workload.name} per network, K = {K}"
        part.timed(what, "", f"{middle:.1f} us ({low:.1f}-{high:.1f}), {gain} times as fast as K = 1", None)
        part.figures.append({"what": what, "microseconds per network": middle, "quartiles": [low, high]})


# -- memory and peers ---------------------------------------------------------------------------------------


def memory(part: Part) -> None:
    """What a training of a stack adds to a fresh process at its peak."""
    process = Remote(HostMemory, environment=environment(part.dry_run))
    workload = (
        StackWorkload((64, 8, 10), 8, 4, models=4)
        if part.dry_run
        else StackWorkload((64, 256, 256, 10), 128, 64, models=64)
    )
    try:
        memory_row(part, workload, process.call("training", workload), "peak resident memory")
    except RemoteError as error:
        part.failed("memory of a stack", str(error))
    finally:
        process.close()


def peers(part: Part) -> None:
    """Steps of whole stacks, for information."""
    workloads = ((TINY, 3),) if part.dry_run else ((SMALL, 64), (LARGE, 32))
    with StackContest(part, (OURS, *PEERS)) as contest:
        for alone, models in workloads:
            workload = StackWorkload(alone.layer_sizes, alone.batch_size, alone.batches, models=models)
            times = contest.measure(Task(workload, "float32", "cpu", part.dry_run))
            for name, reason in times.missing.items():
                (part.failed if name == OURS else part.skipped)(f"{workload.name}: {name}", reason)
            print(f"     {workload.name}, us: " + ", ".join(f"{n} {times.microseconds(n):,.0f}" for n in times.seconds))
            there = [name for name in PEERS if name in times.seconds]
            if OURS in times.seconds and there:
                ratios = times.compared(lambda ours, *theirs: np.min(theirs, axis=0) / ours, OURS, *there)
                fastest = min(there, key=times.microseconds)
                part.timed(f"{workload.name}: fastest vmap over gpubp", "", f"{ratios}; {fastest}", None)


PARTS: dict[str, Callable[[Part], None]] = {
    "equality": equality,
    "search": search,
    "training": training,
    "memory": memory,
    "peers": peers,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure some parts."""
    options = parser_of("stacks", __doc__, FILE, PARTS).parse_args(arguments)
    return measure_parts("stacks", options, FILE, PARTS, fast_kernels=True, seconds=SECONDS)


if __name__ == "__main__":
    sys.exit(main())
