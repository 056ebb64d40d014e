"""What the suites share: every backend of this machine in turn. ``pytest benchmarks --benchmark-only`` runs them."""

from __future__ import annotations

import pytest

from gpubp.backends import Backend
from gpubp.bench.run import DEVICES, open_backend
from gpubp.errors import GpubpError


@pytest.fixture(params=DEVICES)
def backend(request: pytest.FixtureRequest) -> Backend:
    """In float32; one that is not here is skipped by name."""
    try:
        return open_backend(request.param, "float32")
    except GpubpError as error:
        pytest.skip(f"{request.param}: {error}")
