"""The shape of the package: who may import whom, and what must never be imported."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.package import MODULES, PACKAGE

# The rooms of the house, from the bottom up: a module imports from its own room and from those below. A name is a
# module of the package or a folder with all that is in it.
ROOMS = (
    ("errors", {"_typing", "errors", "registry"}),
    ("registries", {"activations", "losses", "optimizers", "initializers", "schedules", "precision"}),
    ("backends", {"backends"}),
    ("backprop", {"backprop", "layout"}),
    ("serialization", {"serialization", "scratch"}),
    ("network", {"network", "stack", "trace", "checks", "diagnostics", "plots"}),
    ("training", {"training"}),
    ("beside each other", {"data", "estimators", "bench", "lessons"}),
    ("tables and interchange", {"tabular", "interchange"}),
    ("command line", {"cli", "__main__"}),
)
APART = {"data", "estimators", "bench", "lessons"}  # none of which imports another
REGISTRIES = ROOMS[1][1]
DRAWS_NUMBERS = {"initializers", "schedules"}  # on the host, for every backend
ARRAY_LIBRARIES = {"numpy", "scipy", "cupy", "cupyx", "numba", "torch", "jax", "sklearn"}
UNLOADED = {"sklearn", "scipy", "numba", "duckdb", "typer", "rich", "h5py", "pandas"}
UNLOADED |= {"cupy", "cupyx", "cuda", "ml_dtypes", "mpi4py"}
UNSAFE = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve"}
UNSAFE_CALLS = ("allow_pickle=True", "joblib.load")
LONGEST = 500  # lines of a file
HIGHEST, WIDEST = 16, 20  # storeys of rooms; Python files at the top level of the package
LONGEST_FUNCTION, MOST_PARAMETERS = 60, 8  # lines without the docstring; without self
# What users call with keywords, whose many parameters are theirs to choose from.
PUBLIC_SIGNATURES = {
    "gpubp.data.readers.read",
    "gpubp.network.MLP.__init__",
    "gpubp.training.loop.train",
    "gpubp.estimators.classifier.MLPClassifier.__init__",
    "gpubp.estimators.regressor.MLPRegressor.__init__",
    "gpubp.estimators.search.search_cv.MLPSearchCV.__init__",
    "gpubp.cli.train.train",
    "gpubp.cli.search.command.search",
}


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
    beside = {_head(imported) for imported in _imports(name) if imported in MODULES} & APART - {_head(name)}
    assert _head(name) not in APART or not beside, f"{name} may not import from {sorted(beside)}"


def test_the_house_is_low_and_its_ground_floor_small() -> None:
    """Rooms are the modules and folders of the package; a room stands one storey above the highest that it imports."""
    rooms: dict[str, set[str]] = {}
    for name in MODULES:
        imported = {_head(other) for other in _imports(name) if other in MODULES}
        rooms.setdefault(_head(name), set()).update(imported - {_head(name)})
    storeys: dict[str, int] = {}
    for room in graphlib.TopologicalSorter(rooms).static_order():  # raises CycleError, which names the cycle
        storeys[room] = 1 + max((storeys[below] for below in rooms[room]), default=0)
    assert max(storeys.values()) <= HIGHEST, storeys
    assert len(list(PACKAGE.glob("*.py"))) <= WIDEST


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


def test_only_commands_load_an_mpi() -> None:
    """And only where a launcher has started them; in Python, users hand in a communicator of theirs."""
    users = {name for name in MODULES if "mpi4py" in _third_party(name)}
    assert users == {"gpubp.cli.processes"}
    assert "mpi4py" not in {module.partition(".")[0] for module in _imports("gpubp.cli.processes", in_functions=False)}


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
    assert lines <= LONGEST, f"{name} has {lines} lines; is it still one idea?"


def _functions(name: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Full names and syntax trees of the functions and methods of a module."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
        for child in ast.iter_child_nodes(node):
            inner = f"{prefix}.{child.name}" if isinstance(child, ast.FunctionDef | ast.ClassDef) else prefix
            if isinstance(child, ast.FunctionDef):
                yield inner, child
            yield from walk(child, inner)

    yield from walk(ast.parse(MODULES[name].read_text(encoding="utf-8")), name)


@pytest.mark.parametrize("name", MODULES)
def test_functions_are_short_and_take_few_parameters(name: str) -> None:
    for function, node in _functions(name):
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        signature = 0 if function in PUBLIC_SIGNATURES else node.body[0].lineno - node.lineno
        lines = signature + (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else signature
        assert lines <= LONGEST_FUNCTION, f"{function} has {lines} lines"
        parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len([parameter for parameter in parameters if parameter.arg not in ("self", "cls")])
        assert count <= MOST_PARAMETERS or function in PUBLIC_SIGNATURES, f"{function} takes {count} parameters"
