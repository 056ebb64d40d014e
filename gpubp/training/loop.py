"""Training: arguments are checked and put together here; `run.py` then goes from epoch to epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpubp import checks
from gpubp.errors import UsageError
from gpubp.network import MLP
from gpubp.optimizers import Optimizer, get_optimizer
from gpubp.schedules import ScheduleSpec, schedules_of
from gpubp.stack import Stack
from gpubp.training.accumulation import Batches
from gpubp.training.augmentation import Augment, checked_augment
from gpubp.training.batches import as_row_source
from gpubp.training.built_step import built_step
from gpubp.training.checkpoint import EVERY, TrainingIdentity, open_checkpoints
from gpubp.training.data_parallel import check_same
from gpubp.training.divergence import with_finite_outputs
from gpubp.training.history import History
from gpubp.training.options import TRAINING_OPTIONS
from gpubp.training.ranks import ranks_of
from gpubp.training.run import Callback, TrainingRun
from gpubp.training.samples import Samples, samples_in_memory, total_weights, validation_samples, with_class_weight
from gpubp.training.step_table import Planner
from gpubp.training.stopping import EarlyStopping
from gpubp.training.streaming import streamed_samples
from gpubp.training.watching import checked_callbacks, shown, watchers

Numbers = float | Sequence[float] | NDArray[Any]  # one for all networks of a stack, or one each


def train(
    net: MLP,
    X: Any = None,
    y: Any = None,
    sample_weight: Any = None,
    validation_data: Sequence[Any] | None = None,
    *,
    batches: Any = None,
    optimizer: str | Optimizer = "adam",
    optimizer_options: Mapping[str, Any] | None = None,
    learning_rate: Numbers = 1e-3,
    schedule: ScheduleSpec | Sequence[ScheduleSpec] = None,
    l2: Numbers = 0.0,
    weight_decay: Numbers | None = None,
    dropout: Numbers = 0.0,
    label_smoothing: Numbers = 0.0,
    class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
    max_grad_norm: Numbers | None = None,
    batch_size: int = 128,
    accumulate: int = 1,
    recompute: bool = False,
    epochs: int | Sequence[int] | NDArray[Any] = 20,
    patience: int | Sequence[int] | NDArray[Any] | None = None,
    update_tolerance: Numbers | None = None,
    shuffle: bool = True,
    seed: int | Sequence[int] = 0,
    augment: Augment | None = None,
    callbacks: Sequence[Callback] = (),
    rows: Sequence[Any] | None = None,
    validation_rows: Sequence[Any] | None = None,
    diagnostics: bool = False,
    watch_test: Sequence[Any] | None = None,
    verbose: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: str | None = EVERY,
    resume: str | Path | None = None,
    communicator: Any = None,
) -> History:
    """Train a network, or a stack, in place.

    Options marked (K,) take one value for all networks of a stack, or one for each. Each network of a stack is trained
    as it would be by itself.

    Parameters
    ----------
    net : MLP
    X : (m, n_0) array
        Finite real numbers of any dtype; cast batch by batch.
    y : (m,) or (m, n_L) array
        Classes 0 … n_L − 1, one-hot rows, labels 0/1 or values, as the loss asks.
    sample_weight : (m,) or (K, m) array, optional
        The loss of a batch is Σ w C / Σ w.
    validation_data : (X, y) or (X, y, sample_weight), optional
        Evaluated after every epoch.
    batches : iterable of (X, y), data set of (x, y), or callable, optional
        Instead of X and y, rows that need not fit into memory. An iterable, or what the callable returns, is read once,
        and its rows are kept in a scratch file; a data set with ``len()``, such as PyTorch's, is asked for its rows in
        every epoch. Blocks of rows come in a seeded order, and as many as fit in 64 MB are shuffled together; all
        networks of a stack see the same order.
    optimizer : str or Optimizer
    optimizer_options : dict, optional
        ``{"momentum": 0.95}``, ``{"beta2": 0.99}``, … (K,)
    learning_rate : float (K,)
        The base rate, multiplied by `schedule`'s factor at each step.
    schedule : str, Schedule, callable or None (K,)
        ``"cosine"``, ``"warmup(cosine, 0.1)"``, …; None is constant. A list holds one per network.
    l2 : float (K,)
        l2 · W is added to the gradient of weights, before clipping.
    weight_decay : float (K,) or None
        Decoupled: W loses learning_rate · weight_decay · W at each step. None is 0, for ``"adamw"`` 0.01.
    dropout : float (K,)
        Probability with which each element of a hidden layer is dropped.
    label_smoothing : float (K,)
        For classification losses.
    class_weight : dict or "balanced", optional
        Multiplies the sample weights by a weight per class.
    max_grad_norm : float (K,) or None
        If the norm of the gradient over all parameters is larger, the gradient is scaled down to this norm.
    batch_size : int
        1 is online, m or more is full-batch. The last batch of an epoch may be smaller and counts by its rows.
    accumulate : int
        Equal parts in which each batch is processed: their gradients are added up for one update, which takes the
        memory of one part. Up to rounding, the result is that of whole batches; dropout draws other masks. A batch that
        does not fit on the device is cut into parts automatically, with a notice.
    recompute : bool
        Keep the activations of about √L of L hidden layers, and recompute the others in the backward pass: deep
        networks take less memory and about a third more time, and end with the same bits.
    epochs : int (K,)
    patience : int or None (K,)
        Stop after this many epochs without a lower validation loss, and return to the best weights.
    update_tolerance : float (K,) or None
        Stop when no weight or bias moved more than this in any step of an epoch.
    shuffle : bool
        Draw a new order every epoch.
    seed : int or sequence of K ints
        Seed of the order: network k of a stack sees the order of a single network with seed ``seed + k``.
    augment : callable, optional
        ``augment(xp, X, epoch)`` before every epoch returns the rows that it trains on, (m, n_0), made from a copy of X
        in the network's type on the device, with functions of `xp`: CuPy on a GPU, NumPy on a CPU. All networks of a
        stack see the same rows. Draws that depend on
        `epoch` alone, such as those of ``xp.random.default_rng([7, epoch])``, are the same when a training resumes from
        a checkpoint. Validation and diagnostics see X as it is.
    callbacks : sequence of callable
        ``callback(net, history)`` after every epoch; one that returns True ends the training.
    rows : sequence of K index arrays, optional
        The rows of X that each network trains on: a fold, or a bootstrap sample, in which rows may repeat. This is
        fastest if networks with equally many rows are next to each other.
    validation_rows : sequence of K index arrays, optional
        Instead of `validation_data`: the rows of X that each network is validated on.
    diagnostics : bool
        Examine every layer of a single network before training and after each epoch, on up to 256 training rows:
        ``history.health`` has norms, saturated and dead units, and ``history.health.verdicts(history)`` says what is
        wrong.
    watch_test : (X, y) or (X, y, sample_weight), optional
        Test rows that are only watched: ``history.watched_test_loss`` has their loss after every epoch, and nothing in
        the training depends on it.
    verbose : int
        1 shows progress: a bar on a terminal and in notebooks, else at most 20 lines.
    checkpoint : path, optional
        A folder for checkpoints: the last two, and the one after the epoch with the lowest loss. With it, Ctrl-C and
        SIGTERM end the training between two steps, once a checkpoint is written.
    checkpoint_every : str or None
        ``"500steps"``, ``"1epochs"`` or ``"10minutes"``; with None, a checkpoint is written only at an interrupt.
        Values other than the default need `checkpoint` or `resume`.
    resume : path, optional
        A folder with checkpoints, whose last one is used, or a single checkpoint: the training goes on from there, and
        ends with the bits of an unbroken run if the machine and the versions are those it was started with. All other
        arguments must be as they were. Further checkpoints go to that folder, unless `checkpoint` is given.
    communicator : mpi4py.MPI.Comm, optional
        The processes that train the network together, each of which calls this with the same arguments, such as
        ``MPI.COMM_WORLD``: each processes an equal part of every batch, on a GPU of its own or on its share of the
        cores, and their gradients are added up for one update. All end with the same weights, which are up to rounding
        those of one process. `callbacks` and `augment` are called in each; only the first writes checkpoints.

    Returns
    -------
    History

    Raises
    ------
    DataError, UsageError
        Before anything is trained, naming what does not fit; also if `resume` belongs to another training.
    CheckpointError
        If a checkpoint cannot be written. Earlier ones are intact; the weights so far are in `net`.
    TrainingInterrupted
        If Ctrl-C or SIGTERM ended a training with checkpoints. The weights so far are in `net`.
    RankError
        If another process failed; the message has its error.
    DivergenceError
        At the end of the epoch in which the loss or the gradient stopped being finite. The last finite
        weights are in `net`. In a stack the other networks go on; the error is raised when none is left.

    Examples
    --------
    >>> import numpy as np
    >>> import gpubp
    >>> X = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    >>> y = (X[:, 0] * X[:, 1] > 0).astype(int)
    >>> net = gpubp.MLP([2, 16, 2], seed=0, device="cpu")
    >>> history = gpubp.train(net, X, y, learning_rate=0.05, schedule="cosine", batch_size=32, epochs=30)
    >>> net.evaluate(X, y)["accuracy"] > 0.9
    True

    Two networks at once, each with a learning rate of its own:

    >>> stack = gpubp.MLP([2, 16, 2], seed=0, models=2, device="cpu")
    >>> history = gpubp.train(stack, X, y, learning_rate=[0.05, 0.001], batch_size=32, epochs=5)
    >>> history.loss[-1].shape
    (2,)
    """
    shuffle, recompute, diagnostics = _flags(shuffle=shuffle, recompute=recompute, diagnostics=diagnostics)
    with ranks_of(communicator) as ranks:
        stack, models = _stack_of(net), net.models
        schedules, seeds = schedules_of(schedule, models), checks.seeds(seed, models)
        if batches is None:
            samples = samples_in_memory(stack, X, y, sample_weight, rows)
        else:
            at_once = {"X": X, "y": y, "sample_weight": sample_weight, "class_weight": class_weight, "rows": rows}
            at_once |= {"validation_rows": validation_rows, "diagnostics": diagnostics or None, "augment": augment}
            samples = streamed_samples(as_row_source(batches), stack, seeds[0] if shuffle else None, at_once)
        validation = validation_samples(stack, validation_data, validation_rows, samples)
        samples = with_class_weight(samples, class_weight, stack)
        total_weight = total_weights(samples, models)
        callbacks = [*watchers(stack, samples, diagnostics, watch_test), *checked_callbacks(callbacks)]
        augmented = {} if augment is None else {"augment": checked_augment(augment, samples)}
        rule = get_optimizer(optimizer)
        options = _checked_options(
            models,
            learning_rate=learning_rate,
            l2=l2,
            weight_decay=rule.weight_decay if weight_decay is None else weight_decay,
            dropout=dropout,
            label_smoothing=label_smoothing,
            max_grad_norm=max_grad_norm,
            batch_size=batch_size,
            accumulate=accumulate,
            epochs=epochs,
            patience=patience,
            update_tolerance=update_tolerance,
        )
        options["accumulate"] *= ranks.size  # parts of a batch, by all ranks together
        rule_options = _checked_options_of(rule, optimizer_options, models)
        _check_together(options, validation, stack)
        batch_size = options["batch_size"] = min(options["batch_size"], samples.most_rows)
        shuffles = rows is not None or (batches is None and batch_size < len(samples.X))
        planner = Planner(
            m=len(samples.X),
            rows=samples.rows,
            batch_size=batch_size,
            epochs=options["epochs"],
            weight=samples.weight,
            learning_rate=options["learning_rate"],
            schedules=schedules,
            seeds=seeds if shuffle and shuffles else None,
        )
        asked = Batches.asked(options, samples.most_rows, recompute, ranks)
        step = built_step(stack, samples, planner, asked, (rule, rule_options), options, augment)
        settings = {"optimizer": rule.name, **rule_options, **options, "seed": list(seeds), "shuffle": shuffle}
        identity = TrainingIdentity(
            stack,
            {**settings, "schedule": [one.name for one in schedules], **augmented},
            {"training": samples.arrays(), "validation": None if validation is None else validation.arrays()},
        )
        checkpoints, state = open_checkpoints(checkpoint, checkpoint_every, resume, identity, ranks)
        check_same(ranks, stack, identity, state)
        stopping = EarlyStopping(patience=options["patience"], update_tolerance=options["update_tolerance"])
        with shown(verbose if ranks.rank == 0 else 0, int(options["epochs"].max()), samples.most_rows) as bar:
            run = TrainingRun(net, step, planner, total_weight, validation, stopping, [*callbacks, *bar], checkpoints)
            return with_finite_outputs(run.run(state), stack, samples)


def _stack_of(net: MLP) -> Stack:
    if not isinstance(net, MLP):
        raise UsageError(f"gpubp.train trains an MLP, not a {type(net).__name__}; an estimator has a fit of its own")
    return net.stack


def _flags(**flags: Any) -> Iterator[bool]:
    return (checks.flag(name, value) for name, value in flags.items())


def _checked_options(models: int, **values: Any) -> dict[str, Any]:
    """Options of a training by name, as numbers for K = `models` networks."""
    return {name: TRAINING_OPTIONS[name].check(value, models) for name, value in values.items()}


def _checked_options_of(
    rule: Optimizer, asked: Mapping[str, Any] | None, models: int
) -> dict[str, NDArray[np.float64]]:
    """Options of an optimizer by name, (K,) each."""
    return {name: checks.per_network(name, value, models, 0.0) for name, value in rule.configured(asked).items()}


def _check_together(options: Mapping[str, Any], validation: Samples | None, stack: Stack) -> None:
    """Refuse options whose prerequisites are missing."""
    if options["patience"] is not None and validation is None:
        raise UsageError("patience needs validation_data to watch; give (X, y), or leave patience out")
    if options["label_smoothing"].any() and not stack.loss.classification:
        raise UsageError(f'label_smoothing smooths classes; loss "{stack.loss.name}" has none')
