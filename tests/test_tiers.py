"""The tiers of tests: together they are all tests, and plain `pytest` leaves no kernel and no record out."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gpubp.activations import ACTIVATIONS
from gpubp.backends.cuda.source import folder
from gpubp.losses import LOSSES
from gpubp.optimizers import OPTIMIZERS
from support.kernel_variants import launched_by
from support.machines import BACKENDS, DEFAULT_BACKENDS, GPU_BACKENDS, KERNEL_PRECISION
from support.package import REPOSITORY
from support.tiers import COLLECTED
from test_gradients import CASES

MARKED = ("backends", "thorough", "slow", "clients")  # each a tier; the default one has none of these marks
PYTEST = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
IN_16_BITS = {"cast"}  # kernels of no other precision


@pytest.fixture
def collected(request: pytest.FixtureRequest) -> list[pytest.Item]:
    """Every test."""
    if request.config.args != PYTEST["testpaths"]:
        pytest.skip("only some files are collected; run pytest without naming any")
    return request.config.stash[COLLECTED]


def tiers(item: pytest.Item) -> list[str]:
    return [mark for mark in MARKED if item.get_closest_marker(mark)]


def chosen(expression: str, item: pytest.Item) -> bool:
    """Whether `pytest -m EXPRESSION` runs a test."""
    return bool(eval(expression, {mark: mark in tiers(item) for mark in MARKED}))


def parameters(item: pytest.Item) -> dict[str, Any]:
    """What a test is run with, and what stands in the case that it is run with."""
    by_name = item.callspec.params if hasattr(item, "callspec") else {}
    case = by_name.get("case")
    return {**by_name, **case} if isinstance(case, dict) else by_name


def names(item: pytest.Item) -> set[str]:
    """Of backends, precisions and records, a test's parameters."""
    return {value for value in parameters(item).values() if isinstance(value, str)}


def of_file(items: list[pytest.Item], name: str) -> list[pytest.Item]:
    return [item for item in items if item.path.name == name]


@pytest.fixture
def default(collected: list[pytest.Item]) -> list[pytest.Item]:
    """What plain `pytest` runs."""
    return [item for item in collected if not tiers(item)]


def test_every_test_is_in_one_tier(collected):
    assert not [item.nodeid for item in collected if len(tiers(item)) > 1]


def test_plain_pytest_and_the_marks_are_all_tests(collected):
    flag, plain = PYTEST["addopts"][:2]
    assert flag == "-m"
    assert all(chosen(plain, item) == (not tiers(item)) for item in collected)
    (others,) = re.findall(
        r"^pytest .*-m '(.*)'$", (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert all(chosen(others, item) == bool({"backends", "thorough"} & set(tiers(item))) for item in collected)


def test_other_packages_on_our_estimators_are_run_in_their_own_environment(collected):
    ran = re.findall(r"/pytest\" -m clients (\S+)$", (REPOSITORY / ".ci" / "run").read_text("utf-8"), re.MULTILINE)
    assert ran == ["tests/clients"]
    clients = [item for item in collected if "clients" in tiers(item)]
    assert clients and all(item.path.parent == REPOSITORY / ran[0] for item in clients)


def test_only_some_backends_are_in_the_default_tier(collected):
    every = {*BACKENDS, *GPU_BACKENDS}
    for item in collected:
        assert tiers(item) or names(item) & every <= set(DEFAULT_BACKENDS), item.nodeid
    assert every <= set().union(*map(names, collected))


@pytest.mark.parametrize("backend_name", DEFAULT_BACKENDS)
@pytest.mark.parametrize(
    "file, records",
    [
        ("test_backprop.py", ACTIVATIONS),
        ("test_gradients.py", ACTIVATIONS),
        ("test_gradients.py", CASES),
        ("test_model_files.py", LOSSES),
        ("test_optimizers.py", OPTIMIZERS),
    ],
    ids=["slopes", "gradients by activation", "gradients by loss", "losses", "optimizers"],
)
def test_plain_pytest_has_every_record_on_each_of_its_backends(default, file, records, backend_name):
    on_backend = [names(item) for item in of_file(default, file) if backend_name in names(item)]
    assert set(records) <= set().union(*on_backend)


@pytest.mark.parametrize("file", ["test_kernels_host.py", "test_kernels_steps.py"])
def test_plain_pytest_has_every_record_in_kernels_on_the_host(default, file):
    tested = set().union(*map(names, of_file(default, file)))
    assert {*ACTIVATIONS, *LOSSES, *OPTIMIZERS, KERNEL_PRECISION} <= tested


def test_plain_pytest_has_every_kernel_on_the_host(default):
    cases = [parameters(item).get("case") for item in of_file(default, "test_kernels_host.py")]
    launched = {source.name for case in cases if case for source in launched_by(case)}
    assert of_file(default, "test_on_chip.py")
    assert launched | IN_16_BITS | {"train_on_chip"} == {path.stem for path in folder().glob("*.cu")}
    in_float16 = "test_the_scale_doubles_after_clean_steps"
    assert in_float16 in {item.name for item in of_file(default, "test_kernels_steps.py")}


@pytest.mark.parametrize("ending, status", [("true", 0), ("sleep 60 & false", 1)])
def test_the_checks_end_with_their_own_status_and_leave_no_folder(ending: str, status: int, tmp_path: Path) -> None:
    """The shell ends at the first command that fails, also in what it runs last: with that one's status."""
    lines = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    beginning = [line for line in lines if line.startswith(("set ", "scratch=", "trap "))]
    assert len(beginning) == 3
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = ["bash", "-c", "\n".join([*beginning, ending])]
    assert subprocess.run(command, env=environment, timeout=30).returncode == status
    assert not list(tmp_path.iterdir())
