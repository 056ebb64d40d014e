"""The programs and notebooks in examples/ run, and compute what gpubp computes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import gpubp
from support.package import PACKAGE, REPOSITORY

EXAMPLES = REPOSITORY / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


@pytest.fixture
def backprop_numpy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("backprop_numpy", EXAMPLES / "backprop_numpy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("sizes", [[2, 3, 1], [5, 7, 6, 3], [4, 2]])
@pytest.mark.parametrize("seed", range(5))
def test_plain_numpy_gives_the_gradients_of_a_network(sizes: list[int], seed: int, backprop_numpy: ModuleType) -> None:
    net = gpubp.MLP(
        sizes,
        "sigmoid",
        "half_squared_error",
        init="standard_normal",
        seed=seed,
        device="cpu-reference",
        precision="float64",
        output_activation="sigmoid",
    )
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((11, sizes[0])), rng.uniform(size=(11, sizes[-1]))
    loss, gradients = net.gradients(X, y)
    cost, grad_W, grad_b = backprop_numpy.gradients(net.weights, net.biases, X, y)
    assert abs(cost - loss) <= 1e-15 * loss
    for by_numpy, by_gpubp in zip([*grad_W, *grad_b], [*gradients.weights, *gradients.biases], strict=True):
        assert by_numpy.shape == by_gpubp.shape
        assert np.linalg.norm(by_numpy - by_gpubp) <= 1e-15 * np.linalg.norm(by_gpubp)


def test_plain_numpy_names_the_four_equations_and_learns() -> None:
    path = EXAMPLES / "backprop_numpy.py"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [sum(f"# BP{n}:" in line for line in lines) for n in (1, 2, 3, 4)] == [1, 1, 1, 1]
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60, check=True)
    costs = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert costs[-1] < 0.01 < costs[0]


@pytest.mark.thorough
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment of the tests, with the package that they test."""
    import nbclient
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert not [out for cell in notebook.cells for out in cell.get("outputs", ()) if out.get("name") == "stderr"]
