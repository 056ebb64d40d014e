"""The table that the host prepares for an epoch: which rows, in what order, at what learning rates.

Orders, or the keys that determine them, and schedules are computed only here, so all backends see the same batches at
the same rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.backends.shuffle import MOST_ROWS, order_keys, rows_at
from gpubp.errors import UsageError
from gpubp.schedules import Progress, Schedule


@dataclass(frozen=True, slots=True)
class StepTable:
    """What each step of an epoch needs from the host, for K networks.

    If networks have different numbers of rows, rows of the arrays are padded with zeros.

    Attributes
    ----------
    first_step : (K,) int
        The number, over the whole training, of the epoch's first step.
    batch_size : int
        Step i takes the rows at the positions i·batch_size, … of the order; the last step may have fewer.
    order : (K or 1, m) int or None
        Rows of the data in the order in which each network sees them, 1 if all see the same; with `keys`, each
        network's own rows, which the keys put in order. None for all rows in stored order.
    counts : (K or 1,) int
        The number of rows of each network.
    normalizer : (K, steps) float64
        1/Σ of the sample weights over the whole batch; 0 where that sum is 0.
    learning_rate : (K, steps) float64
        0 for networks whose last epoch is over.
    keys : (K or 1, ROUNDS, 2) uint32 or None
        Keys of the bijections that shuffle rows, see `gpubp.backends.shuffle`.
    """

    first_step: NDArray[np.int64]
    batch_size: int
    order: NDArray[np.int64] | None
    counts: NDArray[np.int64]
    normalizer: NDArray[np.float64]
    learning_rate: NDArray[np.float64]
    keys: NDArray[np.uint32] | None = None

    @property
    def steps(self) -> int:
        """Steps in the epoch."""
        return int(self.normalizer.shape[1])

    @property
    def longest(self) -> int:
        """The number of rows of the network with the most."""
        return int(self.counts.max())

    @property
    def orders(self) -> int:
        """K, or 1 if all networks see the rows in the same order."""
        return max(1 if array is None else len(array) for array in (self.order, self.keys))

    def rows(self, start: int = 0, stop: int | None = None) -> NDArray[np.int64]:
        """The rows of the data at the positions start … stop − 1 of the epoch, (orders, stop − start)."""
        stop = self.longest if stop is None else min(stop, self.longest)
        if self.order is not None and self.keys is None:
            return self.order[:, start:stop]
        counts = self.counts if self.orders > 1 else self.counts[:1]
        return rows_at(np.arange(start, stop), self.order, self.keys, counts)


def draw_table(
    orders: Sequence[NDArray[np.int64]],
    batch_size: int,
    weight: NDArray[np.float64] | None,
    first_step: NDArray[np.int64],
    learning_rates: Sequence[NDArray[np.float64]],
) -> StepTable:
    """The table of an epoch whose orders are given.

    Parameters
    ----------
    orders : K arrays, or 1 for all
        The rows of each network.
    batch_size : int
    weight : (m,), or (K, m), or None
        Sample weights.
    first_step : (K,)
    learning_rates : K arrays
        Learning rates of each network's steps.
    """
    order, counts = _filled_up(orders, np.int64), np.array([len(rows) for rows in orders])
    rates = _filled_up(learning_rates, np.float64)
    normalizer = _normalizers(batch_size, counts, order, weight)
    if len(normalizer) < len(first_step):
        normalizer = np.repeat(normalizer, len(first_step), axis=0)
    return StepTable(first_step, batch_size, order, counts, normalizer, rates)


def _normalizers(
    batch_size: int,
    counts: NDArray[np.int64],
    order: NDArray[np.int64] | None = None,
    weight: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """1/Σ of the weights of each batch, (K or 1, steps); they need the order of rows, unless all are 1."""
    starts = np.arange(0, counts.max(), batch_size)
    total = np.clip(counts[:, None] - starts, 0, batch_size).astype(np.float64)
    if weight is not None:
        assert order is not None
        weights = np.atleast_2d(weight)
        total = np.zeros((max(len(order), len(weights)), len(starts)))
        for k, sums in enumerate(total):
            own = weights[k % len(weights)][order[k % len(order)][: counts[k % len(counts)]]]
            steps = -(-len(own) // batch_size)
            sums[:steps] = np.add.reduceat(own, starts[:steps])
    normalizer: NDArray[np.float64] = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
    return normalizer


def _filled_up(rows: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    """Rows of different lengths as a matrix."""
    if len(rows) == 1:
        return np.asarray(rows[0], dtype)[None]
    matrix: NDArray[Any] = np.zeros((len(rows), max(map(len, rows))), dtype)
    for row, values in zip(matrix, rows, strict=True):
        row[: len(values)] = values
    return matrix


class Planner:
    """Prepares the step table of each epoch on the host: keys of the orders, and learning rates.

    Parameters
    ----------
    m : int
        Rows of the data.
    rows : K arrays of int, or None
        The rows that each network trains on; None for all of them.
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
        m: int,
        rows: Sequence[NDArray[np.int64]] | None,
        batch_size: int,
        epochs: NDArray[np.int64],
        weight: NDArray[np.float64] | None,
        learning_rate: NDArray[np.float64],
        schedules: Sequence[Schedule],
        seeds: tuple[int, ...] | None,
    ) -> None:
        self.batch_size, self.epochs, self.weight, self.learning_rate = batch_size, epochs, weight, learning_rate
        models = len(learning_rate)
        self.counts = np.full(models, m) if rows is None else np.array([len(own) for own in rows])
        if self.counts.max() > MOST_ROWS:
            raise UsageError(f"{self.counts.max():,} rows are more than {MOST_ROWS:,}, the most that can be shuffled")
        self.order = None if rows is None else _filled_up(rows, np.int64)
        self.seeds = None if seeds is None else np.array([seed & (2**64 - 1) for seed in seeds], np.uint64)
        self.steps_per_epoch = -(-self.counts // batch_size)
        self.orders = models if seeds is not None or rows is not None else 1
        self._unweighted = _normalizers(batch_size, self.counts)
        # Networks that share a schedule and everything about its clock are evaluated together.
        self._clocks: dict[tuple[int, int, int], tuple[Schedule, list[int]]] = {}
        clocks = zip(schedules, self.steps_per_epoch.tolist(), epochs.tolist(), strict=True)
        for k, (schedule, per_epoch, length) in enumerate(clocks):
            self._clocks.setdefault((id(schedule), per_epoch, length), (schedule, []))[1].append(k)

    def table(self, epoch: int, monitored: NDArray[np.float64]) -> StepTable:
        """The table of an epoch, given the monitored losses of earlier epochs, (epoch, K).

        An order depends on seed and epoch alone, so it can be drawn again.
        """
        keys = None
        if self.seeds is not None:
            keys = order_keys(self.seeds, epoch)
            keys[self.counts <= self.batch_size] = 0  # one batch needs no order
        table = StepTable(
            first_step=epoch * self.steps_per_epoch,
            batch_size=self.batch_size,
            order=self.order,
            counts=self.counts,
            normalizer=self._unweighted,
            learning_rate=self._learning_rates(epoch, monitored),
            keys=keys,
        )
        if self.weight is None:
            return table
        weighted = _normalizers(self.batch_size, self.counts, table.rows(), self.weight)
        return replace(table, normalizer=np.broadcast_to(weighted, self._unweighted.shape))

    def _learning_rates(self, epoch: int, monitored: NDArray[np.float64]) -> NDArray[np.float64]:
        """(K, steps)."""
        rates = np.zeros(self._unweighted.shape)
        for (_, per_epoch, epochs), (schedule, members) in self._clocks.items():
            if epoch >= epochs:  # their training is over, and a schedule has no factors beyond its end
                continue
            steps = np.arange(epoch * per_epoch, (epoch + 1) * per_epoch)
            for networks in [members] if schedule.stacked else [[k] for k in members]:
                losses = monitored[:, networks, None] if schedule.stacked else monitored[:, networks[0]]
                factors = schedule.factor(Progress(steps, per_epoch, epochs * per_epoch, tuple(losses)))
                rates[networks, :per_epoch] = factors * self.learning_rate[networks, None]
        return rates
