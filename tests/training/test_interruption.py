"""Ctrl-C and SIGTERM, as they are noted and as they are raised."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from gpubp.training.interruption import SIGNALS, Interruption, RaisingInterruption


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """What handlers hear that were there before, also where tests run in the background, which ignores Ctrl-C."""
    numbers: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: numbers.append(number)) for number in SIGNALS}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_raised_as_ctrl_c_and_the_next_does_what_it_did(number, heard):
    with RaisingInterruption() as interruption:
        assert interruption.signal is None
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert interruption.signal == number and not heard
        signal.raise_signal(number)
    signal.raise_signal(number)
    assert heard == [number, number]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_is_noted_may_be_let_happen(number, heard):
    with Interruption() as interruption:
        signal.raise_signal(number)
        assert interruption.signal == number and not heard
        interruption.let_happen()
        assert heard == [number]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_is_ignored_stays_so(number, heard):
    signal.signal(number, signal.SIG_IGN)
    with RaisingInterruption() as interruption:
        signal.raise_signal(number)
    assert interruption.signal is None and not heard
