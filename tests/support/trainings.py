"""Rows to train on, and what networks that were trained are compared by."""

from __future__ import annotations

import hashlib

import numpy as np

from gpubp import MLP
from support.machines import host


def blobs(m: int = 60, classes: int = 3, inputs: int = 4, seed: int = 0):
    """Rows around one centre per class."""
    rng = np.random.default_rng(seed)
    y = np.arange(m) % classes
    return rng.standard_normal((m, inputs)) + 3 * rng.standard_normal((classes, inputs))[y], y


def digest(net: MLP) -> str:
    return hashlib.sha256(host(net.theta).tobytes()).hexdigest()


def assert_close(net: MLP, other: MLP, rtol: float = 1e-12) -> None:
    np.testing.assert_allclose(host(net.theta), host(other.theta), rtol=rtol, atol=rtol)


def all_finite(net: MLP) -> bool:
    return bool(np.isfinite(host(net.theta)).all())
