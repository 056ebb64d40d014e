"""The table of training options: it is `train`'s signature, its bounds, and what a stack has in common."""

from __future__ import annotations

import inspect
from math import inf, nan
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.errors import UsageError
from gpubp.optimizers import OPTIMIZERS
from gpubp.training.options import TRAINING_OPTIONS, Option
from gpubp.training.packing import in_common, merged_arguments

# What `train` takes besides options: data, what is drawn from the seed, who looks after an epoch or before it, and
# checkpoints.
NO_OPTIONS = {"net", "X", "y", "batches", "sample_weight", "validation_data", "rows", "validation_rows", "class_weight"}
NO_OPTIONS |= {
    "optimizer_options",
    "shuffle",
    "seed",
    "augment",
    "callbacks",
    "checkpoint",
    "checkpoint_every",
    "resume",
    "recompute",
    "diagnostics",
    "watch_test",
    "verbose",
    "communicator",
}
OF_TRAIN = {name: option for name, option in TRAINING_OPTIONS.items() if not option.of_optimizer}
NUMBERS = [option for option in TRAINING_OPTIONS.values() if option.type is not str]


def train(models: int = 1, **options: Any) -> gpubp.MLP:
    """Networks after an epoch on seven rows."""
    net = gpubp.MLP([2, 3, 2], models=models, device="cpu-reference", precision="float64")
    X, y = np.arange(14.0).reshape(7, 2) / 10, np.arange(7) % 2
    gpubp.train(net, X, y, **{"epochs": 1, **options})
    return net


def test_the_table_is_the_signature_of_train() -> None:
    keywords = {name: p.default for name, p in inspect.signature(gpubp.train).parameters.items()}
    defaults = {name: option.default for name, option in OF_TRAIN.items()}
    assert defaults == {name: default for name, default in keywords.items() if name not in NO_OPTIONS}
    assert keywords.keys() >= NO_OPTIONS


def test_the_docstring_of_train_names_every_option_and_says_which_a_stack_may_mix() -> None:
    lines = {line.split(" : ")[0].strip(): line for line in inspect.getdoc(gpubp.train).splitlines() if " : " in line}
    for name, option in OF_TRAIN.items():
        assert ("(K,)" in lines[name]) == option.per_network, name


def test_options_of_optimizers_are_options_of_optimizers() -> None:
    known = {name for make in OPTIMIZERS.values() for name in make().options}
    assert TRAINING_OPTIONS.keys() - OF_TRAIN.keys() <= known


def test_what_the_command_line_may_leave_to_gpubp() -> None:
    left = {name for name, option in TRAINING_OPTIONS.items() if option.optional_in_command}
    assert left == {"momentum", "weight_decay", "max_grad_norm", "epochs", "patience", "update_tolerance"}


def outside(option: Option) -> list[Any]:
    """Values just beyond the bounds of a number, and what is no number."""
    if option.type is int:
        return [int(option.low) - 1, option.low + 0.5, True, "x"]
    values = [option.low if option.low_open else np.nextafter(option.low, -inf), nan, "x"]
    if option.high_open or option.high < inf:
        values.append(option.high if option.high_open else np.nextafter(option.high, inf))
    return values


def inside(option: Option) -> list[Any]:
    """The first and the last value within the bounds of a number."""
    if option.type is int:
        return [int(option.low), 2**31]
    low = np.nextafter(option.low, inf) if option.low_open else option.low
    return [low, np.nextafter(option.high, -inf) if option.high_open else option.high]


@pytest.mark.parametrize("option", [o for o in NUMBERS if not o.of_optimizer], ids=lambda option: option.name)
def test_a_number_is_checked_by_its_record(option: Option) -> None:
    for value in inside(option):
        np.testing.assert_array_equal(option.check(value, 3), np.full(3, value) if option.per_network else value)
    for value in outside(option):
        with pytest.raises(UsageError, match=option.name):
            option.check(value, 3)
    if option.optional:
        assert option.check(None, 3) is None
    else:
        with pytest.raises(UsageError, match=option.name):
            option.check(None, 3)


@pytest.mark.parametrize("option", [o for o in NUMBERS if not o.of_optimizer], ids=lambda option: option.name)
def test_train_checks_by_the_record(option: Option) -> None:
    rows = {"validation_rows": [np.arange(7)]}
    for value in outside(option):
        with pytest.raises(UsageError, match=option.name):
            train(**rows, **{option.name: value})


@pytest.mark.parametrize("option", NUMBERS, ids=lambda option: option.name)
def test_one_for_a_stack_or_one_per_network(option: Option) -> None:
    """`train` takes a list, of as many as there are networks, where the record says that it does."""
    value = 0.5 if option.type is float else 2
    keywords: dict[str, Any] = {option.name: [value, value]}
    if option.of_optimizer:
        keywords = {"optimizer": "nesterov", "optimizer_options": keywords}
    keywords |= {"validation_rows": [np.arange(7)] * 2}
    if not option.per_network:
        with pytest.raises(UsageError, match=option.name):
            train(models=2, **keywords)
        return
    train(models=2, **keywords)
    with pytest.raises(UsageError, match=option.name):
        train(models=3, **keywords | {"validation_rows": [np.arange(7)] * 3})


ARGUMENTS = {name: option.default for name, option in OF_TRAIN.items()} | {"optimizer_options": {}}
ANOTHER = {"optimizer": "sgd", "schedule": "cosine"}


@pytest.mark.parametrize("name", OF_TRAIN)
def test_networks_that_differ_in_an_option_share_a_stack_where_they_can(name: str) -> None:
    option = OF_TRAIN[name]
    one, other = ARGUMENTS | {name: ANOTHER.get(name, 1)}, ARGUMENTS | {name: ANOTHER.get(name, 2)}
    if name in ANOTHER:
        one = ARGUMENTS
    assert (in_common(one) == in_common(other)) == option.per_network
    if option.per_network:
        assert merged_arguments([one, other])[name] == [one[name], other[name]]
    assert merged_arguments([one, one])[name] == one[name]


def test_options_of_an_optimizer_are_listed_also_for_a_stack_of_one() -> None:
    one = ARGUMENTS | {"optimizer_options": {"beta1": 0.5, "beta2": 0.9}}
    assert merged_arguments([one])["optimizer_options"] == {"beta1": [0.5], "beta2": [0.9]}


def test_networks_with_and_without_an_option_share_a_stack_where_a_number_switches_it_off() -> None:
    for name, option in OF_TRAIN.items():
        if option.optional:
            without, using = ARGUMENTS | {name: None}, ARGUMENTS | {name: 1}
            assert (in_common(without) == in_common(using)) == (option.off is not None), name
            if option.off is not None:
                assert merged_arguments([without, using])[name] == [option.off, 1]
                assert option.check([option.off, 1], 2) is not None


def test_what_switches_an_option_off_trains_as_without_it() -> None:
    for name, option in OF_TRAIN.items():
        if option.off is not None:
            np.testing.assert_array_equal(train(**{name: option.off}).weights[0], train().weights[0])


@pytest.mark.parametrize("verbose", ["x", 2, None])
def test_verbose_is_0_or_1(verbose: Any) -> None:
    net = gpubp.MLP([2, 2], device="cpu-reference")
    with pytest.raises(gpubp.UsageError, match="verbose=.* does not fit; give 0 or 1"):
        gpubp.train(net, np.zeros((4, 2)), np.zeros(4, int), verbose=verbose)
