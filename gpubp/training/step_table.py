"""The table that the host draws up for an epoch: which rows, in what order, at what learning rates.

Permutations and schedules are computed here and nowhere else, so all machines see the same batches at the
same rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.schedules import Progress, Schedule


@dataclass(frozen=True, slots=True)
class StepTable:
    """What each step of an epoch needs from the host, for K networks.

    Where networks have different numbers of rows, rows of the arrays are filled up with zeros.

    Attributes
    ----------
    first_step : (K,) int
        The number, over the whole training, of the epoch's first step.
    batch_size : int
        Step i takes the rows ``order[:, i·batch_size:(i + 1)·batch_size]``; the last step may have fewer.
    order : (K or 1, m) int
        Rows of the data in the order in which each network sees them; 1 where all see the same.
    normalizer : (K, steps) float64
        1/Σ of the sample weights over the whole batch; 0 where that sum is 0.
    learning_rate : (K, steps) float64
    """

    first_step: NDArray[np.int64]
    batch_size: int
    order: NDArray[np.int64]
    normalizer: NDArray[np.float64]
    learning_rate: NDArray[np.float64]

    @property
    def steps(self) -> int:
        """Steps in the epoch."""
        return int(self.normalizer.shape[1])


def draw_table(
    orders: Sequence[NDArray[np.int64]],
    batch_size: int,
    weight: NDArray[np.float64] | None,
    first_step: NDArray[np.int64],
    learning_rates: Sequence[NDArray[np.float64]],
) -> StepTable:
    """The table of an epoch.

    Parameters
    ----------
    orders : K arrays, or 1 for all
        Of as many rows as each network has.
    batch_size : int
    weight : (m,), or (K, m), or None
        Of samples.
    first_step : (K,)
    learning_rates : K arrays
        Of each network's steps.
    """
    weights = [None] if weight is None else list(np.atleast_2d(weight))
    owners = max(len(orders), len(weights))
    rows = [_normalizers(orders[k % len(orders)], batch_size, weights[k % len(weights)]) for k in range(owners)]
    normalizer = _filled_up(rows, np.float64)
    if owners < len(first_step):
        normalizer = np.repeat(normalizer, len(first_step), axis=0)
    return StepTable(
        first_step, batch_size, _filled_up(orders, np.int64), normalizer, _filled_up(learning_rates, np.float64)
    )


def _normalizers(order: NDArray[np.int64], batch_size: int, weight: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """1/Σ of the weights of each batch."""
    starts = np.arange(0, len(order), batch_size)
    if weight is None:
        return 1 / np.minimum(batch_size, len(order) - starts)
    total = np.add.reduceat(weight[order], starts)
    return np.divide(1.0, total, out=np.zeros(len(starts)), where=total > 0)


def _filled_up(rows: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    """Rows of different lengths as a matrix."""
    if len(rows) == 1:
        return np.asarray(rows[0], dtype)[None]
    matrix: NDArray[Any] = np.zeros((len(rows), max(map(len, rows))), dtype)
    for row, values in zip(matrix, rows, strict=True):
        row[: len(values)] = values
    return matrix


class Planner:
    """Draws up the step table of each epoch: orders and learning rates, on the host.

    Parameters
    ----------
    rows : K arrays of int, or 1 for all
        The rows of the data that each network trains on.
    batch_size : int
    epochs : (K,) int
        The length of each network's training, which its schedule knows.
    weight : (m,), or (K, m), or None
    learning_rate : (K,)
    schedules : K schedules
    seeds : K ints or None
        None leaves the rows in their order.
    """

    def __init__(
        self,
        rows: Sequence[NDArray[np.int64]],
        batch_size: int,
        epochs: NDArray[np.int64],
        weight: NDArray[np.float64] | None,
        learning_rate: NDArray[np.float64],
        schedules: Sequence[Schedule],
        seeds: tuple[int, ...] | None,
    ) -> None:
        self.rows, self.batch_size, self.epochs, self.weight = rows, batch_size, epochs, weight
        self.learning_rate, self.schedules, self.seeds = learning_rate, schedules, seeds
        models = len(learning_rate)
        self.counts = np.array([len(rows[k % len(rows)]) for k in range(models)])
        self.steps_per_epoch = -(-self.counts // batch_size)
        self.orders = models if seeds is not None or len(rows) > 1 else 1

    def table(self, epoch: int, monitored: NDArray[np.float64]) -> StepTable:
        """The table of an epoch, given the monitored losses of those before, (epoch, K).

        An order depends on seed and epoch alone, so it can be drawn again.
        """
        first = epoch * self.steps_per_epoch
        rates = []
        for k, (schedule, per_epoch) in enumerate(zip(self.schedules, self.steps_per_epoch.tolist(), strict=True)):
            steps = np.arange(first[k], first[k] + per_epoch)
            progress = Progress(steps, per_epoch, int(self.epochs[k]) * per_epoch, tuple(monitored[:, k]))
            rates.append(schedule.factor(progress) * self.learning_rate[k])
        orders = [self._order(epoch, k) for k in range(self.orders)]
        return draw_table(orders, self.batch_size, self.weight, first, rates)

    def _order(self, epoch: int, k: int) -> NDArray[np.int64]:
        rows = self.rows[k % len(self.rows)]
        if self.seeds is None or len(rows) <= self.batch_size:  # one batch has no order
            return rows
        return rows[np.random.default_rng([self.seeds[k], epoch]).permutation(len(rows))]
