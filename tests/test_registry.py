"""Names of records: what resolves, what the canonical spelling is, and what is said about a wrong one."""

from __future__ import annotations

from inspect import signature

import numpy as np
import pytest

from gpubp.activations import ACTIVATIONS, Activation
from gpubp.errors import UsageError
from gpubp.initializers import INITIALIZERS, Initializer
from gpubp.losses import LOSSES, Loss
from gpubp.optimizers import OPTIMIZERS, Optimizer
from gpubp.registry import canonical, resolve
from gpubp.schedules import SCHEDULES, Schedule

TABLES = {
    "activation": ACTIVATIONS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "initializer": INITIALIZERS,
    "schedule": SCHEDULES,
}
RECORDS = {
    "activation": Activation,
    "loss": Loss,
    "optimizer": Optimizer,
    "initializer": Initializer,
    "schedule": Schedule,
}
PLAIN = [(kind, name) for kind, table in TABLES.items() for name in table]

# Every parametrised record, spelled as a user may, and the one spelling that files hold.
SPELLINGS = [
    ("activation", "leaky_relu(0.2)", "leaky_relu(slope=0.2)"),
    ("activation", "leaky_relu(slope=0.01)", "leaky_relu"),
    ("activation", "elu(0.5)", "elu(alpha=0.5)"),
    ("loss", "huber(2)", "huber(delta=2.0)"),
    ("loss", "quantile( q = 0.9 )", "quantile(q=0.9)"),
    ("loss", "quantile(0.5)", "quantile"),
    ("loss", "quantile(0.1,0.5, .9)", "quantile(0.1, 0.5, 0.9)"),
    ("initializer", "orthogonal(1.4142135623730951)", "orthogonal(gain=1.4142135623730951)"),
    ("schedule", "inverse_scaling(1)", "inverse_scaling(power=1)"),
    ("schedule", "step(5, gamma=0.3)", "step(every=5, gamma=0.3)"),
    ("schedule", "exponential(1e-3)", "exponential(gamma=0.001)"),
    ("schedule", "cosine(0.01)", "cosine(final=0.01)"),
    ("schedule", "warmup(cosine, 0.1)", "warmup(into=cosine, fraction=0.1)"),
    ("schedule", "warmup('cosine', fraction=0.1)", "warmup(into=cosine, fraction=0.1)"),
    ("schedule", "warmup('step(5)', 0.1)", "warmup(into='step(every=5)', fraction=0.1)"),
    ("schedule", "one_cycle(2, fraction=0.5)", "one_cycle(peak=2, fraction=0.5)"),
    ("schedule", "reduce_on_plateau(3, threshold=0)", "reduce_on_plateau(patience=3, threshold=0)"),
]


@pytest.mark.parametrize("kind, name", PLAIN)
def test_a_plain_name_is_the_name_of_its_record(kind, name):
    assert resolve(kind, TABLES[kind], name, RECORDS[kind]).name == name
    assert resolve(kind, TABLES[kind], f" {name}() ", RECORDS[kind]).name == name


@pytest.mark.parametrize("kind, name", PLAIN)
def test_every_factory_says_what_it_is(kind, name):
    assert TABLES[kind][name].__doc__


@pytest.mark.parametrize("kind, spec, name", SPELLINGS)
def test_arguments_are_spelled_canonically_and_read_back(kind, spec, name):
    record = resolve(kind, TABLES[kind], spec, RECORDS[kind])
    assert record.name == name
    assert resolve(kind, TABLES[kind], name, RECORDS[kind]).name == name


def test_every_parametrised_record_is_spelled_above():
    parametrised = {name for kind, name in PLAIN if signature(TABLES[kind][name]).parameters}
    assert parametrised == {spec.partition("(")[0] for _, spec, _ in SPELLINGS}


@pytest.mark.parametrize("kind, name", PLAIN)
def test_records_cannot_be_changed(kind, name):
    record = resolve(kind, TABLES[kind], name, RECORDS[kind])
    with pytest.raises(AttributeError):
        record.name = "other"
    assert resolve(kind, TABLES[kind], record, RECORDS[kind]) is record


@pytest.mark.parametrize("value", [np.float64(0.25), np.float32(0.25)])
def test_numpy_numbers_are_spelled_like_pythons(value):
    assert canonical("leaky_relu", slope=(value, 0.01)) == "leaky_relu(slope=0.25)"


@pytest.mark.parametrize(
    "kind, spec, complaint",
    [
        ("activation", "rleu", 'unknown activation "rleu"; did you mean "relu"?'),
        ("activation", "rleu(0.1)", 'unknown activation "rleu"; did you mean "relu"?'),
        ("loss", "quantil(q=0.9)", 'unknown loss "quantil"; did you mean "quantile"?'),
        ("optimizer", "xyz", 'unknown optimizer "xyz"; known: sgd, momentum, '),
        ("schedule", "", 'unknown schedule ""; known: constant, '),
        ("schedule", "not a name", 'unknown schedule "not a name"; known: '),
    ],
)
def test_unknown_names_are_answered_with_a_suggestion(kind, spec, complaint):
    with pytest.raises(UsageError) as caught:
        resolve(kind, TABLES[kind], spec, RECORDS[kind])
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize(
    "spec",
    [
        "leaky_relu(",
        "leaky_relu(0.1",
        "leaky_relu(0.1))",
        "leaky_relu(slope=)",
        "leaky_relu(*a)",
        "leaky_relu(slope=0.1, slope=0.2)",
        "leaky_relu(1 + a)",
        "leaky_relu(print(1))",
        "leaky_relu(__import__('os').getcwd())",
    ],
)
def test_what_cannot_be_read_is_refused_with_an_example(spec):
    with pytest.raises(UsageError, match=r"cannot be read; write it as name\(0\.1\) or name\(key=0\.1\)"):
        resolve("activation", ACTIVATIONS, spec, Activation)


@pytest.mark.parametrize("spec", ["relu(0.1)", "leaky_relu(1, 2)", "leaky_relu(alpha=1)", "leaky_relu(fast)"])
def test_arguments_that_do_not_fit_name_the_whole_spelling(spec):
    with pytest.raises(UsageError) as caught:
        resolve("activation", ACTIVATIONS, spec, Activation)
    assert str(caught.value).startswith(f'activation "{spec}": ')


@pytest.mark.parametrize("kind", TABLES)
def test_what_is_neither_a_name_nor_a_record_is_refused(kind):
    with pytest.raises(UsageError, match=f"{kind} 3 is neither a name nor a {RECORDS[kind].__name__}; known: "):
        resolve(kind, TABLES[kind], 3, RECORDS[kind])
