"""The shape of the package: who may import whom, and what must never be imported."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.package import MODULES

# The rooms of the house, from the bottom up: a module imports from its own room and from those below. A name is a
# module of the package or a folder with all that is in it.
ROOMS = (
    ("errors", {"_typing", "errors", "registry"}),
    ("registries", {"activations", "losses", "optimizers", "initializers", "schedules", "precision"}),
    ("backends", {"backends"}),
    ("backprop", {"backprop", "layout"}),
    ("serialization", {"serialization"}),
    ("network", {"network", "stack", "checks", "diagnostics"}),
    ("training", {"training"}),
    ("estimators", {"estimators"}),
    ("data", {"data"}),
    ("bench", {"bench"}),
    ("command line", {"cli", "__main__"}),
)
REGISTRIES = ROOMS[1][1]
DRAWS_NUMBERS = {"initializers", "schedules"}  # on the host, for every backend
ARRAY_LIBRARIES = {"numpy", "scipy", "cupy", "cupyx", "numba", "torch", "jax", "sklearn"}
UNLOADED = {"sklearn", "scipy", "numba", "duckdb", "typer", "rich", "h5py", "pandas"}
UNLOADED |= {"cupy", "cupyx", "cuda", "nvmath", "ml_dtypes"}
UNSAFE = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve"}
UNSAFE_CALLS = ("allow_pickle=True", "joblib.load")
LONGEST = 320


def _imports(name: str, *, in_functions: bool = True) -> frozenset[str]:
    """Full names of the modules that module `name` imports, at once or when a function is called."""
    return _imports_in(name, MODULES[name], in_functions)


@functools.cache
def _imports_in(name: str, path: Path, in_functions: bool) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    inside = set()
    if not in_functions:
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        inside = {node for function in functions for node in ast.walk(function)}
    for node in set(ast.walk(tree)) - inside:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            # `from gpubp import losses` imports a module, `from gpubp.losses import Loss` a name in one.
            found |= {full if (full := f"{source}.{alias.name}") in MODULES else source for alias in node.names}
    return frozenset(found)


def _head(name: str) -> str:
    return name.removeprefix("gpubp.").partition(".")[0]


def _room(name: str) -> int:
    return next(i for i, (_, heads) in enumerate(ROOMS) if _head(name) in heads)


def _third_party(name: str) -> set[str]:
    return {module.partition(".")[0] for module in _imports(name)}


def test_import_of_reads_every_form_of_statement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of the tests below."""
    path = tmp_path / "network.py"
    path.write_text(
        "import os.path\nfrom gpubp import losses\nfrom . import errors\nfrom .backends import get_backend\n"
        "def f():\n    from gpubp.losses import Loss\n    import cupy.cuda as c\n"
    )
    for name in ("gpubp.network", "gpubp.losses", "gpubp.errors", "gpubp.backends"):
        monkeypatch.setitem(MODULES, name, path)
    assert _imports("gpubp.network") == {
        "os.path",
        "gpubp.losses",
        "gpubp.errors",
        "gpubp.backends",
        "cupy.cuda",
    }


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_its_own_room_and_those_below(name: str) -> None:
    above = {imported for imported in _imports(name) if imported.startswith("gpubp.") and _room(imported) > _room(name)}
    assert not above, f"{name} is in room {ROOMS[_room(name)][0]!r} and may not import {sorted(above)}"


def test_imports_form_no_cycle() -> None:
    """A package may still choose among its own modules when it is asked to, as `get_backend` does."""
    graph = {name: _imports(name, in_functions=False) & set(MODULES) for name in MODULES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


@pytest.mark.parametrize("registry", sorted(REGISTRIES))
def test_registries_are_pure_mathematics(registry: str) -> None:
    allowed = {"numpy"} if registry in DRAWS_NUMBERS else set()
    assert not _third_party(f"gpubp.{registry}") & ARRAY_LIBRARIES - allowed


def test_only_the_cuda_backend_imports_cupy() -> None:
    users = {name for name in MODULES if _third_party(name) & {"cupy", "cupyx"}}
    assert all(name.startswith("gpubp.backends.cuda") for name in users), sorted(users)


def test_only_the_compiled_backend_imports_numba() -> None:
    """And only in functions: its modules can be imported where Numba is absent or broken."""
    users = {name for name in MODULES if _third_party(name) & {"numba", "llvmlite"}}
    assert users and all(name.startswith("gpubp.backends.compiled") for name in users), sorted(users)
    assert not [name for name in MODULES if _imports(name, in_functions=False) & {"numba", "llvmlite"}]


def test_nothing_unpickles() -> None:
    users = {name: found for name in MODULES if (found := _third_party(name) & UNSAFE)}
    assert not users
    for name, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        assert not [call for call in UNSAFE_CALLS if call in text], name


def test_import_gpubp_loads_nothing_heavy() -> None:
    code = f"import gpubp, sys; print(sorted({UNLOADED!r} & {{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_backprop_does_not_know_the_device() -> None:
    text = MODULES["gpubp.backprop"].read_text(encoding="utf-8")
    assert not re.findall(r"\b(?:device|cuda|gpu|cupy)\w*", text.replace("gpubp", ""), re.IGNORECASE)


@pytest.mark.parametrize("name", MODULES)
def test_a_file_is_one_idea(name: str) -> None:
    lines = len(MODULES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{name} has {lines} lines; past about 300 it is asking to be two"
