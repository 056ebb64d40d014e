"""Ctrl-C and SIGTERM, as they are noted and as they are raised."""

from __future__ import annotations

import signal

import pytest

from gpubp.training.interruption import SIGNALS, Interruption, RaisingInterruption


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_raised_as_ctrl_c_and_handlers_are_what_they_were(number):
    handlers = [signal.getsignal(each) for each in SIGNALS]
    with RaisingInterruption() as interruption:
        assert interruption.signal is None
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert interruption.signal == number
        assert [signal.getsignal(each) for each in SIGNALS] == handlers
    assert [signal.getsignal(each) for each in SIGNALS] == handlers


def test_a_signal_that_is_noted_may_be_let_happen():
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGTERM)
            assert interruption.signal == signal.SIGTERM and not heard
            interruption.let_happen()
            assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
