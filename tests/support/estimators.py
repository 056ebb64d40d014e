"""Which machine estimators compute on in a test: their parameter `device` is a string, which is cloned and pickled."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import gpubp.network
from gpubp.backends import Backend
from support.machines import BACKENDS, GPU_BACKENDS


def compute_on(
    machine: str | Callable[[str], Backend], monkeypatch: pytest.MonkeyPatch, device: str | None = None
) -> None:
    """Have networks computed on a machine, whatever `device` they ask for, or where they ask for this one.

    Parameters
    ----------
    machine : str or callable
        The name of a backend without its precision, ``"reference"``; or ``machine(precision)``, which opens one.
    monkeypatch : MonkeyPatch
    device : str or None
        None redirects all devices.
    """
    real = gpubp.network.get_backend

    def opened(asked: str, precision: str) -> Backend:
        if device not in (None, asked):
            return real(asked, precision)
        return (
            {**BACKENDS, **GPU_BACKENDS}[f"{machine}-{precision}"]() if isinstance(machine, str) else machine(precision)
        )

    monkeypatch.setattr(gpubp.network, "get_backend", opened)
