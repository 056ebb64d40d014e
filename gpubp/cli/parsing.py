"""The command line's own small languages: lists, sizes, a file or a fraction."""

from __future__ import annotations

import re

from gpubp.errors import UsageError, suggest
from gpubp.optimizers import OPTIMIZERS, get_optimizer
from gpubp.precision import PRECISIONS

EPOCHS = 20
FEWEST_STEPS = 1000
_SIZE = re.compile(r"0*[1-9][0-9]*", re.ASCII)


def parse_list(text: str) -> list[str]:
    """The parts of a list with commas; commas inside parentheses belong to a part.

    >>> parse_list("elu(alpha=0.5), huber(1,2)")
    ['elu(alpha=0.5)', 'huber(1,2)']
    """
    return [part.strip() for part in re.split(r",(?![^(]*\))", text)]


def parse_hidden(text: str) -> list[int]:
    """The sizes of the hidden layers: ``512,256``, or ``none``.

    Raises
    ------
    UsageError
        If a part is not a whole number of at least 1.
    """
    if text.strip().lower() == "none":
        return []
    parts = parse_list(text)
    wrong = next((part for part in parts if not _SIZE.fullmatch(part)), None)
    if wrong is not None:
        named = f' ("{wrong}")' if len(parts) > 1 else ""
        raise UsageError(
            f'--hidden "{text}"{named}: not the sizes of hidden layers; write whole numbers of at least 1 '
            'with commas, such as 128 or 512,256, or "none"'
        )
    return [int(part) for part in parts]


def parse_layers(text: str) -> list[int]:
    """The sizes of all layers, inputs and outputs included: ``784,512,10``.

    Raises
    ------
    UsageError
        If there are fewer than two, or a part is not a whole number of at least 1.
    """
    parts = parse_list(text)
    wrong = next((part for part in parts if not _SIZE.fullmatch(part)), None)
    if wrong is not None or len(parts) < 2:
        named = f' ("{wrong}")' if wrong is not None and len(parts) > 1 else ""
        raise UsageError(
            f'--layers "{text}"{named}: not the sizes of layers; write inputs, hidden layers and outputs, whole '
            "numbers of at least 1, with commas, such as 784,512,10"
        )
    return [int(part) for part in parts]


def parse_precisions(text: str) -> list[str]:
    """``float32`` or ``float32,tf32``, each once.

    Raises
    ------
    UsageError
        If one is unknown.
    """
    names = list(dict.fromkeys(parse_list(text)))
    for name in names:
        if name not in PRECISIONS:
            raise UsageError(f'--precision "{text}": unknown precision "{name}"; {suggest(name, PRECISIONS)}')
    return names


def parse_test(text: str | None) -> float | str | None:
    """``--test``: a number is a fraction of the rows, anything else the place of the test data."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def default_epochs(rows: int, batch_size: int) -> int:
    """20 epochs, or on small data as many as make 1,000 steps.

    With fewer, the default learning rate leaves a network half trained: 240 steps on digits give a test
    accuracy of 0.95, 1,000 steps 0.98.
    """
    steps_per_epoch = -(-rows // max(1, batch_size))
    return max(EPOCHS, -(-FEWEST_STEPS // steps_per_epoch))


def optimizer_options(optimizer: str, momentum: float | None) -> dict[str, float]:
    """The options that ``--momentum`` sets, checked.

    Raises
    ------
    UsageError
        If the optimizer is unknown or has no momentum, or the value does not fit.
    """
    rule = get_optimizer(optimizer)
    options = {} if momentum is None else {"momentum": momentum}
    if options and "momentum" not in rule.options:
        able = " or ".join(name for name, make in OPTIMIZERS.items() if "momentum" in make().options)
        raise UsageError(f'--momentum: optimizer "{rule.name}" has none; use --optimizer {able}')
    rule.configured(options)
    return options
