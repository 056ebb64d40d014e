"""Part ``training`` of the figures of a CPU: whole trainings, and what surrounds their steps."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import gpubp
from benchmarks.cases import SMALL
from benchmarks.contest import environment
from benchmarks.data import like_mnist, pixels
from benchmarks.machine import described
from benchmarks.parts import Part
from benchmarks.peers import version
from benchmarks.remote import Remote, RemoteError
from benchmarks.timing import interleaved
from gpubp.backends import get_backend
from gpubp.bench.steps import Steps, Workload
from gpubp.bench.timing import ratio

SUBJECTS = ("gpubp", "Python", "processor", "BLAS", "BLAS kernels")  # of what gpubp doctor finds
LIBRARIES = ("numpy", "numba", "scikit-learn", "torch", "jax", "thinc")
EPOCHS, DROPOUT = 5, 0.2

END_TO_END = ((((512, 512), 128), 2.5), (((100,), 200), 1.5))  # hidden layers and batch; how many times as fast
OVERHEAD = (  # of train() over its steps, at most
    (Workload((784, 512, 512, 10), 128, 468), 1.03),
    (Workload((64, 64, 64, 10), 32, 1875), 1.15),
)
DROPOUT_AT_MOST = 1.25
TINY = Workload((784, 8, 10), 16, 4)


class Machine:
    """What figures were measured on."""

    def described(self) -> dict[str, str]:
        """One line per subject."""
        return described(SUBJECTS) | {name: number for name in LIBRARIES if (number := version(name))}


class Comparisons:
    """Measures one thing against another in this process; the seconds of each come back, round by round."""

    def __init__(self, dry_run: bool) -> None:
        self.rounds, self.warm_up, self.epochs = (2, 0, 1) if dry_run else (5, 1, EPOCHS)

    def end_to_end(self, hidden: tuple[int, ...], batch_size: int, folder: str | None, rows: int) -> dict[str, Any]:
        """A training against scikit-learn's, from arrays to a trained network."""
        from sklearn.neural_network import MLPClassifier

        X, y, _, _ = like_mnist(rows) if folder is None else pixels(folder)
        X, y = X[:rows], y[:rows]

        def ours() -> None:
            net = gpubp.MLP([784, *hidden, 10], device="cpu")
            gpubp.train(net, X, y, batch_size=batch_size, epochs=self.epochs)

        def theirs() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it has not converged
                MLPClassifier(hidden, batch_size=batch_size, max_iter=self.epochs, alpha=0.0, random_state=0).fit(X, y)

        return interleaved({"gpubp": ours, "scikit-learn": theirs}, self.rounds, self.warm_up)

    def overhead(self, workload: Workload) -> dict[str, Any]:
        """`gpubp.train` against the same number of steps."""
        X, y, _ = workload.rows
        steps = Steps(workload, get_backend("cpu"))

        def train() -> None:
            net = gpubp.MLP(workload.layer_sizes, device="cpu")
            gpubp.train(net, X, y, batch_size=workload.batch_size, epochs=self.epochs)

        functions = {"training": train, "steps": partial(steps.run, self.epochs * workload.batches)}
        return interleaved(functions, self.rounds, self.warm_up)

    def dropout(self, workload: Workload) -> dict[str, Any]:
        """Steps with dropout on all hidden layers against steps without."""
        backend = get_backend("cpu")
        with_dropout, without = Steps(workload, backend, dropout=DROPOUT), Steps(workload, backend)
        functions = {
            "with": partial(with_dropout.run, workload.batches),
            "without": partial(without.run, workload.batches),
        }
        return interleaved(functions, 4 * self.rounds, self.warm_up)


def training(part: Part, mnist: str | None) -> None:
    """Rows of all three."""
    data, rows = "MNIST" if mnist else "data of the shape of MNIST", 640 if part.dry_run else 60_000
    for (hidden, batch_size), bar in END_TO_END:
        what = f"{data}, {hidden}, batch {batch_size}, {EPOCHS} epochs: MLPClassifier.fit over gpubp.train"
        _row(part, what, f">= {bar}", bar, "end_to_end", hidden, batch_size, mnist, rows)
    for workload, bar in OVERHEAD:
        what = f"{workload.name}: gpubp.train over its steps"
        _row(part, what, f"<= {bar}", bar, "overhead", TINY if part.dry_run else workload)
    what = f"{SMALL[2].name}: step with dropout {DROPOUT} over step without"
    _row(part, what, f"<= {DROPOUT_AT_MOST}", DROPOUT_AT_MOST, "dropout", TINY if part.dry_run else SMALL[2])


def _row(part: Part, what: str, asked: str, bar: float, method: str, *arguments: Any) -> None:
    """One measurement in a process of its own: the slower over the faster, as asked."""
    process = Remote(Comparisons, part.dry_run, environment=environment(part.dry_run))
    try:
        seconds = process.call(method, *arguments, timeout=part.left())
    except RemoteError as error:
        return part.failed(what, str(error))
    finally:
        process.close()
    a, b = seconds.values()
    more = asked.startswith(">=")
    times = ratio(b, a) if more else ratio(a, b)
    part.timed(what, asked, str(times), times.median >= bar if more else times.median <= bar)
    part.figures.append({"what": what, "seconds": {name: values.tolist() for name, values in seconds.items()}})
