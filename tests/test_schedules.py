"""Learning-rate schedules: hand-worked factors, PyTorch's schedulers as an oracle, and replay."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from math import sqrt

import numpy as np
import pytest

from gpubp.errors import UsageError
from gpubp.schedules import SCHEDULES, Progress, Schedule, get_schedule, schedules_of


def factors(spec, total=20, steps_per_epoch=4, losses=None):
    """The factors of a whole training; by default the loss halves every epoch."""
    epochs = -(-total // steps_per_epoch)
    losses = tuple(0.5**epoch for epoch in range(epochs)) if losses is None else losses
    return get_schedule(spec).factor(Progress(np.arange(total), steps_per_epoch, total, losses))


@pytest.mark.parametrize(
    "spec, expected",
    [
        (None, [1, 1, 1, 1, 1, 1, 1, 1]),
        ("constant", [1, 1, 1, 1, 1, 1, 1, 1]),
        ("inverse_scaling", [1 / sqrt(1 + t) for t in range(8)]),
        ("inverse_scaling(1)", [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 1 / 7, 1 / 8]),
        ("step(every=2, gamma=0.5)", [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]),
        ("exponential(0.5)", [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
        ("cosine", [(1 + np.cos(np.pi * t / 8)) / 2 for t in range(8)]),
        ("cosine(final=0.5)", [0.5 + (1 + np.cos(np.pi * t / 8)) / 4 for t in range(8)]),
        ("warmup(fraction=0.5)", [1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1]),
        ("warmup(fraction=1)", [1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 1]),
        (
            "warmup(cosine, 0.5)",
            [1 / 4, 2 / 4, 3 / 4, 1, *((1 + np.cos(np.pi * t / 4)) / 2 for t in range(4))],
        ),
        ("warmup(exponential, 0.25)", [1 / 2, 1, 1, 1, 0.95, 0.95, 0.95**2, 0.95**2]),
        (
            "one_cycle(start=0.5, end=0, fraction=0.5)",  # the peak is at step 0.5 * 8 - 1 = 3
            [
                0.5,
                0.5 + (1 - np.cos(np.pi / 3)) / 4,
                0.5 + (1 - np.cos(2 * np.pi / 3)) / 4,
                1,
                *((1 + np.cos(np.pi * t / 4)) / 2 for t in range(1, 5)),
            ],
        ),
    ],
    ids=str,
)
def test_hand_worked_factors(spec, expected):
    np.testing.assert_allclose(factors(spec, total=8, steps_per_epoch=2), expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    "losses, expected",
    [
        ([3, 2, 1, 0.5], [1, 1, 1, 1, 1]),
        ([1, 1, 1, 1, 1, 1], [1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        ([1, 2, 0.5, 2, 2, 0.4], [1, 1, 1, 1, 1, 0.1, 0.1]),
        ([1, 0.9999, 0.9999, 0.99], [1, 1, 1, 0.1, 0.1]),  # less than the threshold's 0.1 % is no improvement
        ([-1, -2, -3, -4], [1, 1, 1, 1, 1]),  # the loss of a Poisson model may be negative
        ([-1, -1.0001, -1.0001], [1, 1, 1, 0.1]),
        ([1, float("nan"), float("nan")], [1, 1, 1, 0.1]),
    ],
    ids=str,
)
def test_hand_worked_plateaus(losses, expected):
    schedule = get_schedule("reduce_on_plateau(patience=1, gamma=0.1, threshold=1e-3)")
    epochs = np.arange(len(losses) + 1)
    np.testing.assert_allclose(schedule.factor(Progress(epochs, 1, len(epochs), tuple(losses))), expected)


@pytest.mark.parametrize(
    "spec, values",
    [
        ("step", {0: 1, 9: 1, 10: 0.1, 20: 0.01}),
        ("exponential", {0: 1, 1: 0.95, 20: 0.95**20}),
        ("cosine", {0: 1, 50: 0.5}),
        ("warmup", {0: 0.2, 4: 1, 99: 1}),
        ("one_cycle", {0: 0.04, 29: 1, 99: 1e-4}),  # its peak is at step 0.3 * 100 - 1
        ("reduce_on_plateau", {0: 1, 6: 1, 7: 0.5, 13: 0.25}),  # more than 5 epochs after the one that is the best
    ],
)
def test_hand_worked_factors_of_defaults(spec, values):
    actual = factors(spec, total=100, steps_per_epoch=1, losses=(1.0,) * 100)
    np.testing.assert_allclose(actual[list(values)], list(values.values()), rtol=1e-12)


@pytest.mark.parametrize("loss, factor", [(0.99989, 1.0), (0.99991, 0.5)])
def test_an_improvement_on_a_plateau_is_by_a_ten_thousandth(loss, factor):
    assert factors("reduce_on_plateau(0)", total=3, steps_per_epoch=1, losses=(1.0, loss))[2] == factor


def test_there_is_one_schedule_for_all_networks_or_one_each():
    assert [one.name for one in schedules_of("cosine", 3)] == ["cosine"] * 3
    halves = Schedule("halves", lambda progress: np.full(progress.step.shape, 0.5))
    assert [one.name for one in schedules_of(["cosine", halves, None], 3)] == ["cosine", "halves", "constant"]
    with pytest.raises(UsageError, match=r"schedule names 2 for 3 networks; give one, or one per network"):
        schedules_of(["cosine", "step"], 3)


def torch_factors(make, steps, *, peak=1.0, losses=None):
    """The learning rates that a PyTorch scheduler gives over a number of its own steps."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for index in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*([losses[index]] if losses else []))
    return rates


@pytest.mark.parametrize(
    "spec, make",
    [
        ("step", lambda lr, optimizer: lr.StepLR(optimizer, 10, 0.1)),
        ("step(3, 0.7)", lambda lr, optimizer: lr.StepLR(optimizer, 3, 0.7)),
        ("exponential", lambda lr, optimizer: lr.ExponentialLR(optimizer, 0.95)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_epochwise_schedules_agree_with_torch(spec, make):
    expected = np.repeat(torch_factors(make, 25), 4)
    np.testing.assert_allclose(factors(spec, total=100, steps_per_epoch=4), expected, rtol=1e-12)


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_agrees_with_torch(final):
    expected = torch_factors(lambda lr, o: lr.CosineAnnealingLR(o, T_max=50, eta_min=final), 50)
    np.testing.assert_allclose(factors(f"cosine({final})", total=50), expected, rtol=1e-10)


@pytest.mark.parametrize("total", [4, 10, 97])
@pytest.mark.parametrize(
    "spec, options",
    [
        ("one_cycle", {"max_lr": 1.0, "pct_start": 0.3, "div_factor": 25, "final_div_factor": 400}),
        (
            "one_cycle(peak=3, start=0.5, end=0.01, fraction=0.6)",
            {"max_lr": 3.0, "pct_start": 0.6, "div_factor": 6, "final_div_factor": 50},
        ),
    ],
    ids=["default", "own"],
)
def test_one_cycle_agrees_with_torch(spec, options, total):
    make = lambda lr, o: lr.OneCycleLR(o, total_steps=total, cycle_momentum=False, **options)  # noqa: E731
    np.testing.assert_allclose(factors(spec, total=total), torch_factors(make, total), rtol=1e-12)


@pytest.mark.parametrize("patience, gamma", [(0, 0.5), (2, 0.1), (5, 0.5)])
def test_reduce_on_plateau_agrees_with_torch(patience, gamma):
    rng = np.random.default_rng(patience)
    losses = tuple(np.exp(-np.arange(40) / 10) + 0.2 * rng.random(40))
    expected = torch_factors(
        lambda lr, o: lr.ReduceLROnPlateau(o, factor=gamma, patience=patience, threshold=1e-4, eps=0),
        40,
        losses=losses,
    )
    assert expected[-1] < 1
    actual = factors(f"reduce_on_plateau({patience}, {gamma})", total=40, steps_per_epoch=1, losses=losses)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("spec", [*SCHEDULES, "warmup(reduce_on_plateau, 0.3)", "warmup('step(1, 0.5)', 0.22)"])
def test_an_epoch_asked_for_alone_gets_the_factors_of_the_whole_training(spec):
    """However much is known of later losses: a resumed training sees the same rates."""
    losses = (1.0, 0.9, 1.1, 1.2, 1.3, 1.3, 1.3, 1.4, 1.3, 1.2)
    whole = factors(spec, total=40, steps_per_epoch=4, losses=losses)
    for epoch in range(10):
        steps = np.arange(4 * epoch, 4 * epoch + 4)
        alone = get_schedule(spec).factor(Progress(steps, 4, 40, losses[:epoch]))
        np.testing.assert_array_equal(alone, whole[steps])


@pytest.mark.parametrize("total, steps_per_epoch", [(1, 1), (2, 1), (3, 2), (100, 7), (5, 100)])
@pytest.mark.parametrize("spec", [*SCHEDULES, "warmup(one_cycle)", "warmup(cosine, 1)"])
@pytest.mark.filterwarnings("error")
def test_factors_are_finite_float64_and_within_reach_however_short_the_training(spec, total, steps_per_epoch):
    factor = factors(spec, total=total, steps_per_epoch=steps_per_epoch)
    assert factor.shape == (total,) and factor.dtype == np.float64
    assert (factor >= 0).all() and (factor <= 1).all()


@pytest.mark.parametrize("spec", SCHEDULES)
def test_no_steps_no_factors(spec):
    assert get_schedule(spec).factor(Progress(np.arange(0), 4, 20)).shape == (0,)


@pytest.mark.parametrize("fraction, steps", [(0.07, 7), (0.05, 5), (0.051, 6), (1e-9, 1)])
def test_warmup_lasts_the_fraction_rounded_up(fraction, steps):
    rising = factors(f"warmup(fraction={fraction})", total=100)
    np.testing.assert_allclose(rising[:steps], np.arange(1, steps + 1) / steps)
    assert (rising[steps:] == 1).all()


def test_warmup_takes_records_and_functions_too():
    halves = Schedule("halves", lambda progress: np.full(progress.step.shape, 0.5))
    for into in (halves, halves.factor, lambda progress: 0.5):
        np.testing.assert_array_equal(factors(SCHEDULES["warmup"](into, fraction=0.5), total=4), [1 / 2, 1, 0.5, 0.5])


def test_a_function_is_a_schedule():
    schedule = get_schedule(lambda progress: 1 / (1 + progress.epoch))
    assert schedule.name == "custom"
    expected = [1, 1, 1 / 2, 1 / 2, 1 / 3, 1 / 3]
    np.testing.assert_array_equal(factors(schedule, total=6, steps_per_epoch=2), expected)


@pytest.mark.parametrize(
    "function, complaint",
    [
        (
            lambda progress: [1.0, 2.0],
            r"returned shape \(2,\) for 20 steps; return one factor per step, \(20,\)",
        ),
        (lambda progress: 1.0 - progress.step, r"returned -1\.0 for step 2; return finite factors"),
        (lambda progress: float("nan"), r"returned nan for step 0; return finite factors"),
    ],
)
def test_a_functions_unusable_factors_are_refused(function, complaint):
    with pytest.raises(UsageError, match=complaint):
        factors(function)


@pytest.mark.parametrize(
    "spec, complaint",
    [
        ("inverse_scaling(-1)", r"inverse_scaling: power=-1 does not fit; use power >= 0"),
        ("step(every=0)", r"step: every=0 does not fit; use a whole number of epochs >= 1"),
        ("step(every=2.5)", r"step: every=2\.5 does not fit"),
        ("step(every=1e999)", r"step: every=inf does not fit"),
        ("step(gamma=0)", r"step: gamma=0 does not fit; use 0 < gamma <= 1"),
        ("exponential(1.5)", r"exponential: gamma=1\.5 does not fit"),
        ("cosine(-0.1)", r"cosine: final=-0\.1 does not fit; use final >= 0"),
        ("warmup(fraction=0)", r"warmup: fraction=0 does not fit; use 0 < fraction <= 1"),
        ("warmup(cosin)", r'unknown schedule "cosin"; did you mean "cosine"'),
        ("one_cycle(peak=0)", r"one_cycle: peak=0 does not fit; use peak > 0"),
        ("one_cycle(start=2)", r"one_cycle: start=2 does not fit; use 0 <= start <= peak, which is 1\.0"),
        ("one_cycle(end=2)", r"one_cycle: end=2 does not fit"),
        ("one_cycle(fraction=1)", r"one_cycle: fraction=1 does not fit"),
        ("reduce_on_plateau(patience=-1)", r"reduce_on_plateau: patience=-1 does not fit"),
        ("reduce_on_plateau(gamma=2)", r"reduce_on_plateau: gamma=2 does not fit"),
        ("reduce_on_plateau(threshold=1)", r"reduce_on_plateau: threshold=1 does not fit"),
        ("exponential(fast)", r'schedule "exponential\(fast\)"'),
        (3, r"schedule 3 is neither a name nor a Schedule; known: constant"),
    ],
)
def test_what_cannot_be_meant_is_refused(spec, complaint):
    with pytest.raises(UsageError, match=complaint):
        get_schedule(spec)


def test_a_schedule_of_a_users_own_cannot_change_what_it_is_told():
    progress = Progress(np.arange(3), 3, 9, ())
    with pytest.raises(FrozenInstanceError):
        progress.total_steps = 10
