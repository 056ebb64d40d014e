"""What the host plans of an epoch: one call for networks that share a schedule, and orders that can be drawn again."""

from __future__ import annotations

import numpy as np
import pytest

from gpubp.backends.shuffle import shuffled
from gpubp.errors import UsageError
from gpubp.schedules import SCHEDULES, Schedule, schedules_of
from gpubp.training.step_table import Planner

K, M, BATCH, EPOCHS = 3, 10, 4, 6


def planner(schedules, *, rows=None, weight=None, seeds=(5, 6, 7), epochs=(EPOCHS,) * K):
    return Planner(
        m=M,
        rows=rows,
        batch_size=BATCH,
        epochs=np.array(epochs),
        weight=weight,
        learning_rate=np.array([0.1, 0.2, 0.3]),
        schedules=schedules,
        seeds=seeds,
    )


def alone(schedule, k, **options):
    """The planner of network k by itself."""
    stack = planner([schedule] * K, **options)
    rows = options.get("rows")
    return Planner(
        M,
        rows and [rows[k]],
        BATCH,
        stack.epochs[k : k + 1],
        None,
        stack.learning_rate[k : k + 1],
        [schedule],
        (5 + k,),
    )


@pytest.mark.parametrize("name", [*SCHEDULES, "warmup('reduce_on_plateau(0)', 0.2)", "warmup(cosine, 0.3)"])
@pytest.mark.parametrize("epochs", [(EPOCHS,) * K, (2, EPOCHS, 4)], ids=["equally long", "of different lengths"])
def test_a_network_of_a_stack_has_the_rates_that_it_has_alone(name, epochs):
    (schedule,) = schedules_of(name, 1)
    monitored = np.array([[1.0, 1.0, 3.0], [2.0, 0.5, np.nan], [0.5, 0.5, np.nan], [0.5, 0.6, 1.0], [0.7, 0.1, 1.0]])
    rows = [np.arange(10), np.arange(4, 10), np.array([1, 1, 2])]
    for epoch in range(EPOCHS):
        table = planner([schedule] * K, rows=rows, epochs=epochs).table(epoch, monitored[:epoch])
        for k in range(K):
            solo = alone(schedule, k, rows=rows, epochs=epochs).table(epoch, monitored[:epoch, k : k + 1])
            np.testing.assert_array_equal(table.learning_rate[k, : solo.steps], solo.learning_rate[0])
            np.testing.assert_array_equal(table.normalizer[k, : solo.steps], solo.normalizer[0])
            np.testing.assert_array_equal(table.rows()[k, : len(rows[k])], solo.rows()[0])
            assert not table.normalizer[k, solo.steps :].any() and not table.learning_rate[k, solo.steps :].any()


def test_networks_that_share_a_schedule_are_asked_for_at_once():
    calls = []

    def factor(progress):
        calls.append([np.shape(loss) for loss in progress.losses])
        return np.ones(progress.step.shape)

    for stacked, expected in ((True, [[(K, 1)]]), (False, [[()]] * K)):
        calls.clear()
        planner([Schedule("mine", factor, stacked)] * K).table(1, np.ones((1, K)))
        assert calls == expected


def test_schedules_of_one_name_are_one_record():
    first, second, third = schedules_of(["cosine", "constant", "cosine"], 3)
    assert first is third and first is not second


def test_orders_are_those_of_seed_and_epoch_and_of_the_networks_own_rows():
    rows = [np.arange(10), np.arange(9, 1, -1), np.array([3, 3, 4])]
    table = planner(schedules_of("constant", K), rows=rows).table(2, np.ones((2, K)))
    for k, own in enumerate(rows):
        order = own[shuffled(np.arange(len(own)), table.keys[k], len(own))]
        np.testing.assert_array_equal(table.rows()[k], [*order, *[0] * (10 - len(own))])
        np.testing.assert_array_equal(table.rows(2, 7)[k], table.rows()[k, 2:7])
    assert table.rows()[2, :3].tolist() == [3, 3, 4], "one batch has no order"


def test_seeds_count_with_64_bits():
    seeds = (2**64 - 1, 2**63 - 1, 2**65 - 1)
    orders = planner(schedules_of("constant", K), seeds=seeds).table(0, np.ones((0, K))).rows().tolist()
    assert orders[0] != orders[1] and orders[0] == orders[2]


def test_weights_are_summed_in_the_order_of_the_epoch():
    weight = np.arange(1.0, M + 1)
    table = planner(schedules_of("constant", K), weight=weight).table(0, np.ones((0, K)))
    for k, order in enumerate(table.rows()):
        sums = [weight[order[start : start + BATCH]].sum() for start in range(0, M, BATCH)]
        np.testing.assert_allclose(table.normalizer[k], 1 / np.array(sums))


def test_without_seeds_rows_stay_as_they_lie():
    table = planner(schedules_of("constant", K), seeds=None).table(0, np.ones((0, K)))
    assert table.keys is None and table.order is None and table.orders == 1
    np.testing.assert_array_equal(table.rows(), [np.arange(M)])


def test_more_rows_than_can_be_shuffled_are_refused():
    with pytest.raises(UsageError, match="4,294,967,297 rows are more than"):
        Planner(2**32 + 1, None, 1 << 20, np.ones(1), None, np.ones(1), schedules_of("constant", 1), (0,))


@pytest.mark.parametrize("rows", [None, [np.arange(4, 16), np.arange(0, 12), np.arange(2, 16, 2)]])
def test_every_epoch_draws_a_new_order_of_the_rows(rows):
    drawn = planner(schedules_of("constant", K), rows=rows)
    orders = [drawn.table(epoch, np.zeros((epoch, K))).rows() for epoch in range(EPOCHS)]
    for k in range(K):
        expected = np.arange(M) if rows is None else rows[k]
        of_network = [order[k, : len(expected)].tolist() for order in orders]
        assert all(sorted(order) == expected.tolist() for order in of_network)
        assert len({tuple(order) for order in of_network}) == EPOCHS
