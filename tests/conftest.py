"""Fixtures that the whole suite shares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.backends import Backend, Epoch
from gpubp.backends.reference import ReferenceBackend

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = Path(gpubp.__file__).resolve().parent
# Every module by its dotted name, without importing any; the package itself only resolves names.
MODULES = {
    ".".join(("gpubp", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

# Every backend that the suite runs on; a new one is a line here.
BACKENDS: dict[str, Callable[[], Backend]] = {
    "reference-float64": lambda: ReferenceBackend(np.float64),
    "reference-float32": lambda: ReferenceBackend(np.float32),
}


def one_step(
    backend: Backend, networks: int, *, normalizer: Any = 1.0, learning_rate: Any = 0.0, step: int = 0
) -> Epoch:
    """The tables of an epoch of one step; numbers may be one per network."""

    def row(value: Any) -> Any:
        return backend.from_host(np.broadcast_to(np.asarray(value, np.float64), (1, networks)).copy())

    totals = backend.zeros((1, networks, 2), backend.accumulator)
    cursor = backend.from_host(np.array([0, step]))
    return Epoch(cursor, 1, backend.zeros((1, 1), np.int64), row(normalizer), row(learning_rate), totals)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that starts at the same place in every test."""
    return np.random.default_rng(20240229)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend in turn."""
    return BACKENDS[request.param]()


@pytest.fixture
def mlp(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`gpubp.MLP`, whose networks run on `backend`, in its precision."""
    monkeypatch.setattr("gpubp.network.get_backend", lambda device, precision: backend)
    return gpubp.MLP


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets (MNIST, cats, housing) beside the checkout; absent elsewhere."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the data folder ../shared/data is not beside this checkout")
    return SHARED_DATA
