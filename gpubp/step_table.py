"""The table that the host draws up for an epoch: which rows, in what order, at what learning rates.

Permutations and schedules are computed here and nowhere else, so all machines see the same batches at the
same rates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpubp.schedules import Progress, Schedule


@dataclass(frozen=True, slots=True)
class StepTable:
    """What each step of an epoch needs from the host, for K networks.

    Attributes
    ----------
    first_step : int
        The number, over the whole training, of the epoch's first step.
    batch_size : int
        Step i takes the rows ``order[:, i·batch_size:(i + 1)·batch_size]``; the last step may have fewer.
    order : (K or 1, m) int
        Rows of the data in the order in which each network sees them; 1 where all see the same.
    normalizer : (steps, K) float64
        1/Σ of the sample weights over the whole batch; 0 where that sum is 0.
    learning_rate : (steps, K) float64
    """

    first_step: int
    batch_size: int
    order: NDArray[np.int64]
    normalizer: NDArray[np.float64]
    learning_rate: NDArray[np.float64]

    @property
    def steps(self) -> int:
        """Steps in the epoch."""
        return len(self.normalizer)

    @property
    def rows(self) -> int:
        """Rows in the epoch."""
        return int(self.order.shape[1])


def draw_table(
    order: NDArray[np.int64],
    batch_size: int,
    models: int,
    weight: NDArray[np.float64] | None,
    first_step: int,
    learning_rate: NDArray[np.float64],
) -> StepTable:
    """The table of an epoch from the order of its rows, the weights (m,) and the learning rates (steps, K)."""
    starts = range(0, order.shape[1], batch_size)
    normalizer = np.zeros((len(starts), models))
    if weight is None:
        normalizer[:-1] = 1 / batch_size
        normalizer[-1] = 1 / (order.shape[1] - starts[-1])
    else:
        total = np.add.reduceat(weight[order], starts, axis=1).T
        np.divide(1.0, total, out=normalizer, where=total > 0)
    return StepTable(first_step, batch_size, order, normalizer, learning_rate)


class Planner:
    """Draws up the step table of each epoch: orders and learning rates, on the host."""

    def __init__(
        self,
        m: int,
        batch_size: int,
        epochs: int,
        weight: NDArray[np.float64] | None,
        learning_rate: NDArray[np.float64],
        schedule: Schedule,
        seeds: tuple[int, ...] | None,
    ) -> None:
        self.m, self.batch_size, self.epochs, self.weight = m, batch_size, epochs, weight
        self.learning_rate, self.schedule, self.seeds = learning_rate, schedule, seeds
        self.steps_per_epoch = -(-m // batch_size)
        self.orders = 1 if seeds is None else len(seeds)

    def table(self, epoch: int, monitored: NDArray[np.float64]) -> StepTable:
        """The table of an epoch, given the monitored losses of those before, (epoch, K).

        An order depends on seed and epoch alone, so it can be drawn again.
        """
        models, first = len(self.learning_rate), epoch * self.steps_per_epoch
        steps = np.arange(first, first + self.steps_per_epoch)
        factors = [
            self.schedule.factor(
                Progress(steps, self.steps_per_epoch, self.epochs * self.steps_per_epoch, tuple(losses))
            )
            for losses in monitored.T
        ]
        if self.seeds is None:
            order = np.arange(self.m)[None]
        else:
            order = np.stack([np.random.default_rng([seed, epoch]).permutation(self.m) for seed in self.seeds])
        rates = np.stack(factors, axis=1) * self.learning_rate
        return draw_table(order, self.batch_size, models, self.weight, first, rates)
