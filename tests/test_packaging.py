"""What is installed, and that the files which describe it agree."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import gpubp
from support.package import PACKAGE, REPOSITORY

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
# Where conda-forge's name is not that of the wheel.
CONDA_NAMES = {"duckdb": "python-duckdb", "cupy-cuda13x[ctk]": "cupy"}
# What needs a device, benchmarks' peers, the site that CI builds, other packages on our estimators, what tests tests.
UNTESTED = {"cuda13", "cuda12", "nccl13", "nccl12", "bench", "bench-tables", "docs", "clients"}
UNTESTED |= {"fuzz", "mutants", "coverage"}


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
    head, _, text = (REPOSITORY / "environment.yml").read_text(encoding="utf-8").partition("\ndependencies:")
    conda, _, pip = text.partition("\n  - pip:\n")
    listed = re.findall(r"^  - (\S+)$", conda, re.MULTILINE)
    extras = project["optional-dependencies"]
    required = list(dict.fromkeys([*project["dependencies"], *extras["test"]]))
    anywhere = [requirement for requirement in required if ";" not in requirement]
    assert set(listed) == {
        "python" + project["requires-python"],
        "pip",
        *PYPROJECT["build-system"]["requires"],
        *map(_conda, anywhere),
    }
    for_a_gpu = [_conda(requirement) for requirement in extras["cuda13"] if requirement not in extras["test"]]
    assert for_a_gpu == re.findall(r'^# conda install .* "(\S+)"$', head, re.MULTILINE)
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


@pytest.mark.thorough
def test_builds_are_reproducible(tmp_path: Path) -> None:
    """Two builds of the wheel, and one from the sdist, have the same bytes; sdists the same files, of any date."""
    pytest.importorskip("setuptools", minversion="77")
    wheels, sources = [], []
    for number in range(2):
        checkout = tmp_path / str(number)
        for name in ("gpubp", "kernels"):
            shutil.copytree(REPOSITORY / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(REPOSITORY / name, checkout)
        for path in checkout.rglob("*.py"):
            os.utime(path, (10**9 + number, 10**9 + number))
        sdist = _built("sdist", checkout, tmp_path / f"sdist-{number}")
        with tarfile.open(sdist) as archive:
            archive.extractall(tmp_path / f"unpacked-{number}", filter="data")
            files = [member for member in archive.getmembers() if member.isfile()]
            sources.append({member.name: archive.extractfile(member).read() for member in files})
        unpacked = next((tmp_path / f"unpacked-{number}").iterdir())
        wheels += [
            _built("wheel", folder, tmp_path / f"{folder.name}-{number}").read_bytes()
            for folder in (checkout, unpacked)
        ]
    assert sources[0] == sources[1] and len(set(wheels)) == 1


def _built(kind: str, checkout: Path, out: Path) -> Path:
    """What setuptools builds of a checkout, in a process of its own."""
    out.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1000000000"}
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = out.iterdir()
    return built


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
