"""Fixtures that the whole suite shares."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.backends import Backend
from gpubp.backends.compiled.cache import loops_failed
from gpubp.backends.cuda.probe import probe_device
from support.machines import BACKENDS, GPU_BACKENDS, backend_parameters
from support.package import REPOSITORY, SHARED_DATA
from support.tiers import COLLECTED

sys.path.append(str(REPOSITORY))  # for benchmarks/, behind the package that is tested


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that starts at the same place in every test."""
    return np.random.default_rng(20240229)


@pytest.fixture(autouse=True)
def loops_compile() -> Iterator[None]:
    """A loop that cannot be compiled fails the test, which would go on with the reference otherwise."""
    yield
    assert not loops_failed()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-gpu", action="store_true", help="tests that need a GPU fail where there is none")
    parser.addoption(
        "--all-architectures", action="store_true", help="compile each kernel for every GPU; takes a few minutes"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[COLLECTED] = list(items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None or (state := probe_device()).usable:
        return
    if item.config.getoption("--require-gpu"):
        pytest.fail(f"--require-gpu: {state.summary}; {state.remedy}")
    pytest.skip(f"no GPU to run on: {state.summary}")


@pytest.fixture(params=backend_parameters())
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend in turn."""
    return {**BACKENDS, **GPU_BACKENDS}[request.param]()


@pytest.fixture
def mlp(backend: Backend) -> Any:
    """`gpubp.MLP`, whose networks run on `backend`, in its precision."""

    def make(*args: Any, **options: Any) -> gpubp.MLP:
        return gpubp.MLP(*args, **{**options, "device": backend})

    make.load = functools.partial(gpubp.MLP.load, device=backend)
    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets (MNIST, cats, housing) beside the checkout; absent elsewhere."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the data folder ../shared/data is not beside this checkout")
    return SHARED_DATA
