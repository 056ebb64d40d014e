"""How the learning rate changes during training.

A schedule is a pure function from the progress of a training to multipliers of the base learning rate, one per step. It
is computed on the host before an epoch begins, so it is the same on every device, and asking again for the same steps
gives the same factors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpubp.errors import UsageError
from gpubp.registry import canonical, require, resolve

Factors: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Progress:
    """How far a training has come.

    Attributes
    ----------
    step : (n,) ndarray of int64
        The steps whose factors are asked for, counted from 0 over the whole training.
    steps_per_epoch, total_steps : int
        Steps in an epoch, and in the whole training if it is not stopped early.
    losses : tuple of float, or of (K, 1) arrays
        The monitored loss (the validation loss where there is one), one per finished epoch; arrays where a `stacked`
        schedule is asked for K networks at once.
    """

    step: NDArray[np.int64]
    steps_per_epoch: int
    total_steps: int
    losses: tuple[Any, ...] = ()

    @property
    def epoch(self) -> NDArray[np.int64]:
        """The epoch, counted from 0, in which each step lies."""
        return self.step // self.steps_per_epoch


@dataclass(frozen=True, slots=True)
class Schedule:
    """A learning-rate schedule.

    Attributes
    ----------
    name : str
        Its name in files and on the command line.
    factor : callable
        ``factor(progress)``, a float64 array shaped like ``progress.step``: the multiplier of the base learning rate at
        each step.
    stacked : bool
        Whether `factor` takes losses of K networks, (K, 1) each, and then returns factors (K, n), or (n,) for all.
        Otherwise it is called for one network after the other.

    Examples
    --------
    >>> import numpy as np
    >>> from gpubp.schedules import Progress, get_schedule
    >>> start = Progress(step=np.arange(4), steps_per_epoch=2, total_steps=8)
    >>> get_schedule("warmup(constant, 0.5)").factor(start).tolist()
    [0.25, 0.5, 0.75, 1.0]
    >>> import gpubp
    >>> halving = gpubp.Schedule(name="halving", factor=lambda progress: 0.5**progress.epoch)
    >>> halving.factor(start).tolist()
    [1.0, 1.0, 0.5, 0.5]
    """

    name: str
    factor: Callable[[Progress], Factors]
    stacked: bool = False


ScheduleSpec: TypeAlias = str | Schedule | Callable[[Progress], ArrayLike] | None


def constant() -> Schedule:
    """factor = 1."""
    return Schedule(name="constant", factor=lambda progress: np.ones(progress.step.shape), stacked=True)


def inverse_scaling(power: float = 0.5) -> Schedule:
    """factor = (1 + t)^−power at step t. Source: Robbins and Monro, 1951 (½ < power ≤ 1 for convergence)."""
    require("inverse_scaling", "power", power, 0 <= power < inf, "power >= 0, such as 0.5")
    return Schedule(
        name=canonical("inverse_scaling", power=(power, 0.5)),
        factor=lambda progress: (1 + progress.step.astype(np.float64)) ** -power,
        stacked=True,
    )


def step(every: int = 10, gamma: float = 0.1) -> Schedule:
    """factor = gamma^⌊epoch / every⌋. Source: common practice, such as He et al., 2016; PyTorch's StepLR."""
    require("step", "every", every, every >= 1 and float(every).is_integer(), "a whole number of epochs >= 1")
    _check_gamma("step", gamma)
    return Schedule(
        name=canonical("step", every=(every, 10), gamma=(gamma, 0.1)),
        factor=lambda progress: gamma ** (progress.epoch // every).astype(np.float64),
        stacked=True,
    )


def exponential(gamma: float = 0.95) -> Schedule:
    """factor = gamma^epoch, constant within an epoch. Source: common practice; PyTorch's ExponentialLR."""
    _check_gamma("exponential", gamma)
    return Schedule(
        name=canonical("exponential", gamma=(gamma, 0.95)),
        factor=lambda progress: gamma ** progress.epoch.astype(np.float64),
        stacked=True,
    )


def cosine(final: float = 0.0) -> Schedule:
    """factor = final + (1 − final)(1 + cos(πt/T))/2 at step t of T. Source: Loshchilov and Hutter, 2017.

    SGDR without restarts: from 1 towards `final`, which it would reach at step T, the first not taken.
    """
    require("cosine", "final", final, 0 <= final < inf, "final >= 0, such as 0.01")
    return Schedule(
        name=canonical("cosine", final=(final, 0.0)),
        factor=lambda progress: _half_cosine(1.0, final, progress.step / progress.total_steps),
        stacked=True,
    )


def warmup(into: ScheduleSpec = "constant", fraction: float = 0.05) -> Schedule:
    """factor = (t + 1)/n for the first n = ⌈fraction·T⌉ steps, then `into`. Source: Goyal et al., 2017.

    `into` has a clock of its own: its step 0 is step n, its training the remaining T − n steps.
    """
    require("warmup", "fraction", fraction, 0 < fraction <= 1, "0 < fraction <= 1, such as 0.05")
    then = get_schedule(into)

    def factor(progress: Progress) -> Factors:
        n = max(1, ceil(round(fraction * progress.total_steps, 6)))  # 0.07 * 100 is a little more than 7
        rest = Progress(
            step=np.maximum(progress.step - n, 0),
            steps_per_epoch=progress.steps_per_epoch,
            total_steps=max(progress.total_steps - n, 1),
            losses=progress.losses[n // progress.steps_per_epoch :],
        )
        return np.where(progress.step < n, (progress.step + 1) / n, then.factor(rest))

    inner = then.name if then.name.isidentifier() else repr(then.name)  # a name with arguments is quoted
    name = canonical("warmup", into=(inner, "constant"), fraction=(fraction, 0.05))
    return Schedule(name=name, factor=factor, stacked=then.stacked)


def one_cycle(peak: float = 1.0, start: float = 0.04, end: float = 1e-4, fraction: float = 0.3) -> Schedule:
    """From `start` up to `peak` in `fraction` of the steps and down to `end`, along half cosines.

    All three are factors of the base learning rate; `end` is reached at the last step. PyTorch's OneCycleLR
    with max_lr = peak, div_factor = peak/start, final_div_factor = start/end. Source: Smith and Topin, 2018.
    """
    require("one_cycle", "peak", peak, 0 < peak < inf, "peak > 0, such as 1")
    require("one_cycle", "start", start, 0 <= start <= peak, f"0 <= start <= peak, which is {peak}")
    require("one_cycle", "end", end, 0 <= end <= peak, f"0 <= end <= peak, which is {peak}")
    require("one_cycle", "fraction", fraction, 0 < fraction < 1, "0 < fraction < 1, such as 0.3")

    def factor(progress: Progress) -> Factors:
        top = max(fraction * progress.total_steps - 1, 0.0)  # the step, rarely a whole one, of the peak
        t = progress.step.astype(np.float64)
        up = t / (top or 1.0)
        down = (t - top) / ((progress.total_steps - 1 - top) or 1.0)
        return np.where(t < top, _half_cosine(start, peak, up), _half_cosine(peak, end, down))

    spelling = {"peak": (peak, 1.0), "start": (start, 0.04), "end": (end, 1e-4), "fraction": (fraction, 0.3)}
    return Schedule(name=canonical("one_cycle", **spelling), factor=factor, stacked=True)


def reduce_on_plateau(patience: int = 5, gamma: float = 0.5, threshold: float = 1e-4) -> Schedule:
    """factor is multiplied by gamma after more than `patience` epochs in a row without improvement.

    An epoch improves if its loss is below the best so far by more than `threshold` times the best's size.
    The factor is replayed from ``progress.losses``, so nothing is remembered between epochs.
    Source: common practice; PyTorch's ReduceLROnPlateau.
    """
    whole = patience >= 0 and float(patience).is_integer()
    require("reduce_on_plateau", "patience", patience, whole, "a whole number of epochs >= 0")
    _check_gamma("reduce_on_plateau", gamma)
    require("reduce_on_plateau", "threshold", threshold, 0 <= threshold < 1, "0 <= threshold < 1")

    def factor(progress: Progress) -> Factors:
        shape = np.shape(progress.losses[0]) if progress.losses else ()  # (), or (K, 1) for a stack
        after = [np.ones(shape)]  # the factor after 0, 1, 2, … finished epochs
        best, bad = np.full(shape, inf), np.zeros(shape, np.int64)
        for loss in progress.losses:
            improved = loss < best * (1 - np.copysign(threshold, best))
            best, bad = np.where(improved, loss, best), np.where(improved, 0, bad + 1)
            reduce = bad > patience
            after.append(np.where(reduce, after[-1] * gamma, after[-1]))
            bad = np.where(reduce, 0, bad)
        finished = np.minimum(progress.epoch, len(progress.losses))
        return np.concatenate(after, axis=1)[:, finished] if shape else np.array(after)[finished]

    spelling = {"patience": (patience, 5), "gamma": (gamma, 0.5), "threshold": (threshold, 1e-4)}
    return Schedule(name=canonical("reduce_on_plateau", **spelling), factor=factor, stacked=True)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "inverse_scaling": inverse_scaling,
    "step": step,
    "exponential": exponential,
    "cosine": cosine,
    "warmup": warmup,
    "one_cycle": one_cycle,
    "reduce_on_plateau": reduce_on_plateau,
}


def get_schedule(spec: ScheduleSpec) -> Schedule:
    """The schedule that `spec` means.

    Parameters
    ----------
    spec : str, Schedule, callable or None
        A name such as ``"cosine"`` or ``"warmup(cosine, 0.1)"``, a record, None for a constant learning
        rate, or a function of a `Progress` that returns factors (an array like ``progress.step``, or one
        number); a function becomes a schedule named "custom".

    Raises
    ------
    UsageError
        If the name is unknown, its arguments do not fit, or `spec` is something else.
    """
    if spec is None:
        return constant()
    if callable(spec):
        return _custom(spec)
    return resolve("schedule", SCHEDULES, spec, Schedule)


def schedules_of(spec: ScheduleSpec | Sequence[ScheduleSpec], models: int) -> list[Schedule]:
    """One schedule per network, from one for all or from a list."""
    if isinstance(spec, (list, tuple)):
        if len(spec) != models:
            raise UsageError(f"schedule names {len(spec)} for {models} networks; give one, or one per network")
        named = {one: get_schedule(one) for one in spec if isinstance(one, str)}  # one record per name
        return [named[one] if isinstance(one, str) else get_schedule(one) for one in spec]
    return [get_schedule(spec)] * models  # type: ignore[arg-type]


def _custom(function: Callable[[Progress], ArrayLike]) -> Schedule:
    """A user's function, whose factors are checked at every call."""

    def factor(progress: Progress) -> Factors:
        factors = np.asarray(function(progress), dtype=np.float64)
        if factors.shape not in ((), progress.step.shape):
            raise UsageError(
                f"the schedule function returned shape {factors.shape} for {progress.step.size} steps; "
                f"return one factor per step, {progress.step.shape}, or one number"
            )
        factors = np.broadcast_to(factors, progress.step.shape)
        bad = ~(np.isfinite(factors) & (factors >= 0))
        if bad.any():
            raise UsageError(
                f"the schedule function returned {factors[bad][0]} for step {progress.step[bad][0]}; "
                f"return finite factors of the learning rate, 0 or more"
            )
        return factors.copy()

    return Schedule(name="custom", factor=factor)


def _half_cosine(first: float, last: float, way: Factors) -> Factors:
    """From `first` at way = 0 to `last` at way = 1 along half a cosine."""
    return last + (first - last) * (1 + np.cos(np.pi * way)) / 2


def _check_gamma(schedule: str, gamma: float) -> None:
    require(schedule, "gamma", gamma, 0 < gamma <= 1, "0 < gamma <= 1, such as 0.5")
