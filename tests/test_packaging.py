"""What is installed, and that the files which describe it agree."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

import gpubp
from support.package import PACKAGE, REPOSITORY

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
# Where conda-forge's name is not that of the wheel.
CONDA_NAMES = {"duckdb": "python-duckdb", "cupy-cuda13x[ctk]": "cupy"}
# What needs a device, benchmarks' peers, the site that CI builds, other packages on our estimators, fuzzing.
UNTESTED = {"cuda13", "cuda12", "bench", "bench-tables", "docs", "clients", "fuzz"}


@pytest.fixture
def installed() -> importlib.metadata.Distribution:
    """The installed distribution, where the package under test is one."""
    if PACKAGE.parent == REPOSITORY:
        pytest.skip("gpubp is imported from the checkout, not from an installed wheel")
    return importlib.metadata.distribution("gpubp")


def _conda(requirement: str) -> str:
    name, bounds = re.fullmatch(r"([\w.\[\]-]+?)([<>=!~].*)?", requirement).groups(default="")
    return CONDA_NAMES.get(name, name) + bounds


def test_environment_yml_lists_what_pyproject_requires() -> None:
    project = PYPROJECT["project"]
    text = (REPOSITORY / "environment.yml").read_text(encoding="utf-8").partition("\ndependencies:")[2]
    conda, _, pip = text.partition("\n  - pip:\n")
    listed = re.findall(r"^  - (\S+)$", conda, re.MULTILINE)
    extras = project["optional-dependencies"]
    required = list(dict.fromkeys([*project["dependencies"], *extras["test"], *extras["cuda13"]]))
    anywhere = [requirement for requirement in required if ";" not in requirement]
    assert set(listed) == {
        "python" + project["requires-python"],
        "pip",
        *PYPROJECT["build-system"]["requires"],
        *map(_conda, anywhere),
    }
    assert len(listed) == len(set(listed))
    assert re.findall(r"^      - (.+)$", pip, re.MULTILINE) == [r for r in required if r not in anywhere]


def test_the_test_extra_covers_the_extras_of_users() -> None:
    """Otherwise their code would go untested under the README's test command."""
    extras = dict(PYPROJECT["project"]["optional-dependencies"])
    test = set(extras.pop("test"))
    assert all(set(extra) <= test for name, extra in extras.items() if name not in UNTESTED)


def test_the_version_is_written_once() -> None:
    assert "version" not in PYPROJECT["project"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "gpubp.__version__"}
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[?{re.escape(gpubp.__version__)}\b", changelog, re.MULTILINE)


def test_every_folder_of_code_is_a_listed_package() -> None:
    folders = {p.parent.relative_to(REPOSITORY) for p in (REPOSITORY / "gpubp").rglob("*.py")}
    listed = set(PYPROJECT["tool"]["setuptools"]["packages"])
    assert listed == {".".join(f.parts) for f in folders} | {"gpubp.kernels"}
    assert all((REPOSITORY / f / "__init__.py").is_file() for f in folders)


def test_kernels_hold_no_python() -> None:
    assert not list((REPOSITORY / "kernels").rglob("*.py"))


def test_the_wheel_holds_the_checkout_and_nothing_else(installed: importlib.metadata.Distribution) -> None:
    sources = [(p, Path("gpubp")) for p in (REPOSITORY / "gpubp").rglob("*") if p.suffix in {".py", ".typed"}]
    sources += [(p, Path("gpubp", "kernels")) for p in (REPOSITORY / "kernels").iterdir()]
    expected = {target / p.relative_to(REPOSITORY / target.name) for p, target in sources}
    shipped = {Path(f) for f in installed.files or [] if f.suffix != ".pyc"}
    info = {f for f in shipped if f.parts[0].endswith(".dist-info")}
    scripts = {f for f in shipped if f.parts[0] == ".."}
    assert shipped - info - scripts == expected
    assert any(f.name == "LICENSE" for f in info)
    assert {f.stem for f in scripts} == {"gpubp"}


def test_metadata_tells_the_version(installed: importlib.metadata.Distribution) -> None:
    assert installed.version == gpubp.__version__


def test_the_kernel_folder_is_found_beside_the_code(installed: importlib.metadata.Distribution) -> None:
    text = (PACKAGE / "kernels" / "README.md").read_text(encoding="utf-8")
    assert text == (REPOSITORY / "kernels" / "README.md").read_text(encoding="utf-8")
