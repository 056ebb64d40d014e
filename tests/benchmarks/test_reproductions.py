"""The published results, reproduced: minutes each, so only with ``pytest -m slow``; and that their commands run.

``python -m benchmarks.foundation`` and ``python -m benchmarks.reproductions`` print the same rows as tables.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpubp
from benchmarks.data import like_mnist
from benchmarks.parts import Part, write
from benchmarks.peers import UnavailableError
from benchmarks.reproductions import deformed_on_gpu
from benchmarks.reproductions.__main__ import PARTS, main
from benchmarks.reproductions.comparison import FILE, compare, table
from benchmarks.reproductions.deformed_digits import SIDE, affine_maps, deformed
from benchmarks.reproductions.nielsen import BATCH, EXPERIMENTS, network, training
from gpubp.backends.reference import ReferenceBackend
from support.package import REPOSITORY


def _measure(part: str, data: Path) -> str:
    command = [sys.executable, "-m", "benchmarks.foundation", "--data", str(data), "--only", part]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.backends
def test_gradients_are_within_their_bound() -> None:
    assert "ok   complex-step gradient error" in _measure("gradients", REPOSITORY)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["mnist", "housing"])
def test_bars_are_reached(part: str, shared_data: Path) -> None:
    _measure(part, shared_data)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_published_results_are_reached(name: str, shared_data: Path, tmp_path: Path) -> None:
    """All but what the account of the measurements says was missed."""
    code = main([name, "--data", str(shared_data), "--out", str(tmp_path)])
    if name in deformed_on_gpu.EXPERIMENTS and code == 2:
        pytest.skip("no GPU")

    def missed(folder: Path) -> set[str]:
        rows = json.loads((folder / FILE).read_text())["parts"][name]["rows"]
        return {row["what"] for row in rows if row["met"] is not True}

    assert missed(tmp_path) <= missed(REPOSITORY / "benchmarks" / "results")


@pytest.mark.parametrize("cost", ["quadratic", "cross-entropy"])
def test_settings_mean_what_nielsens_do(cost: str, rng: np.random.Generator) -> None:
    """Two mini-batches by his rule: w (1 − ηλ/n) − η/m Σ ∇C, a column for each image."""
    n, eta, lmbda = 2 * BATCH, 0.5, 5.0
    experiment = replace(EXPERIMENTS["nielsen-30"][0], cost=cost, eta=eta, lmbda=lmbda, epochs=1)
    net = network(experiment, (6, 5, 4), precision="float64", seed=3)
    weights, biases = [W.T.copy() for W in net.weights], [b[:, None].copy() for b in net.biases]
    images, targets = rng.random((6, n)), np.eye(4)[rng.integers(0, 4, n)].T
    for start in range(0, n, BATCH):
        x, y = images[:, start : start + BATCH], targets[:, start : start + BATCH]
        hidden = 1 / (1 + np.exp(-(weights[0] @ x + biases[0])))
        output = 1 / (1 + np.exp(-(weights[1] @ hidden + biases[1])))
        delta = (output - y) * (output * (1 - output) if cost == "quadratic" else 1)
        deltas = [(weights[1].T @ delta) * hidden * (1 - hidden), delta]
        for layer, a in enumerate((x, hidden)):
            weights[layer] = (1 - eta * lmbda / n) * weights[layer] - eta / BATCH * deltas[layer] @ a.T
            biases[layer] = biases[layer] - eta / BATCH * deltas[layer].sum(axis=1, keepdims=True)
    gpubp.train(net, images.T, targets.T, shuffle=False, **training(experiment, n))
    for layer in range(2):
        np.testing.assert_allclose(net.weights[layer].T, weights[layer], rtol=0, atol=1e-14)
        np.testing.assert_allclose(net.biases[layer], biases[layer][:, 0], rtol=0, atol=1e-14)


def test_weights_over_root_n_have_random_biases() -> None:
    net = network(EXPERIMENTS["nielsen-100"][1], (784, 100, 10), seed=0)
    assert net.weights[0].std() == pytest.approx(1 / 28, rel=0.02)
    assert net.biases[0].std() == pytest.approx(1, rel=0.2)


def test_digits_are_deformed_differently_and_stay_in_place(rng: np.random.Generator) -> None:
    pytest.importorskip("scipy")
    images, digits = np.zeros((40, SIDE, SIDE), np.float32), np.arange(40) % 10
    images[:, 7:21, 10:18] = 1
    results = deformed(images, digits, rng)
    assert results.shape == images.shape and results.dtype == np.float32
    assert results.min() >= 0 and results.max() <= 1
    assert len(np.unique(results.reshape(40, -1), axis=0)) == 40
    np.testing.assert_allclose(results.sum(axis=(1, 2)).mean(), images[0].sum(), rtol=0.15)
    middle = (results * np.arange(SIDE)).sum(axis=(1, 2)) / results.sum(axis=(1, 2))
    assert abs(middle - 13.5).max() < 4
    for maps, largest in ((affine_maps(digits * 0 + kind, rng), angle) for kind, angle in ((1, 7.5), (3, 15))):
        assert (np.abs(maps[:, 1, 0]) <= np.tan(np.deg2rad(largest)) * 1.2).all()


def test_cupys_functions_deform_as_scipys_do(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines that run on a GPU, with NumPy under another name in place of CuPy."""
    scipy = pytest.importorskip("scipy.ndimage")
    calls = []

    class Namespace:
        class ndarray(np.ndarray):  # noqa: N801
            pass

        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

    def map_coordinates(*args: Any, **options: Any) -> Any:
        calls.append(type(args[1]))
        return scipy.map_coordinates(*args, **options)

    cupyx = SimpleNamespace(gaussian_filter=scipy.gaussian_filter, map_coordinates=map_coordinates)
    for name in ("cupyx", "cupyx.scipy", "cupyx.scipy.ndimage"):
        monkeypatch.setitem(sys.modules, name, cupyx)
    monkeypatch.setattr(deformed_on_gpu, "BLOCK", 16)
    X, digits = rng.random((40, SIDE * SIDE), np.float32), np.arange(40) % 10
    results = [deformed_on_gpu.Deformation(digits, seed=3)(xp, X.copy(), 0) for xp in (np, Namespace())]
    np.testing.assert_array_equal(*results)
    assert calls == [np.ndarray] * 3  # one array, not several: CuPy takes no tuple
    # An image is looked up in itself alone, wherever blocks end, and every epoch draws anew.
    alone = deformed(X[:16].reshape(-1, SIDE, SIDE), digits[:16], np.random.default_rng(3))
    np.testing.assert_array_equal(results[0][:16], alone.reshape(16, -1))
    again = deformed_on_gpu.Deformation(digits, seed=3)
    assert not np.array_equal(again(np, X.copy(), 0), again(np, X.copy(), 1))


@pytest.fixture
def small_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of four units on a CPU, in place of the largest on a GPU."""
    pytest.importorskip("scipy")
    experiment = replace(deformed_on_gpu.EXPERIMENTS["ciresan-largest"], layer_sizes=(784, 4, 10))
    monkeypatch.setitem(deformed_on_gpu.EXPERIMENTS, "ciresan-largest", experiment)
    monkeypatch.setattr(deformed_on_gpu, "open_backend", lambda *_: ReferenceBackend("float32"))
    monkeypatch.setattr(deformed_on_gpu, "pixels", lambda _: like_mnist(120))
    monkeypatch.setattr(deformed_on_gpu, "TRIED", 2)
    monkeypatch.setattr("benchmarks.reproductions.__main__.machine", lambda dry_run: {"device": "a GPU"})


@pytest.mark.usefixtures("small_largest")
def test_a_schedule_has_the_epochs_that_there_is_time_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [deformed_on_gpu.epochs_within(110, s) for s in (1e-9, 0.4, 100)] == [1000, 249, 20]
    monkeypatch.setattr(deformed_on_gpu, "MOST", 12)
    main(["ciresan-largest", "--out", str(tmp_path)])
    part = json.loads((tmp_path / FILE).read_text())["parts"]["ciresan-largest"]
    (row,), (figure,) = part["rows"], part["figures"]
    assert row["what"].startswith("784-4-10, 12 epochs of deformed digits on a GPU, ") and row["asked"] == "<= 0.45 %"
    assert list(figure["test error by epoch"]) == ["10", "12"] and figure["published"] == "0.35 %"
    assert row["measured"] == figure["ours"] == f"{figure['test error by epoch']['12']:.2f} %"
    assert part["machine"] == {"device": "a GPU"} and len(figure["loss by epoch"]) == 12


@pytest.mark.usefixtures("small_largest")
def test_a_training_whose_time_is_over_is_cut_off_with_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deformed_on_gpu, "_draw", lambda *_: None)
    main(["ciresan-largest", "--seconds", "0", "--out", str(tmp_path)])
    part = json.loads((tmp_path / FILE).read_text())["parts"]["ciresan-largest"]
    assert ", cut off after 1, " in part["rows"][0]["what"] and part["figures"][0]["stopped"] == "callback"


@pytest.mark.usefixtures("small_largest")
def test_errors_are_kept_where_a_training_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        parts = json.loads((tmp_path / FILE).read_text())["parts"]  # what stands there when it is killed
        assert list(parts["ciresan-largest"]["figures"][0]["test error by epoch"]) == ["10", "12"]
        raise KeyboardInterrupt

    monkeypatch.setattr(deformed_on_gpu, "MOST", 12)
    monkeypatch.setattr(deformed_on_gpu, "_conclude", killed)
    with pytest.raises(KeyboardInterrupt):
        main(["ciresan-largest", "--out", str(tmp_path)])


def test_without_a_gpu_what_was_measured_on_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: Any) -> None:
        raise UnavailableError("no device")

    measured = {"ciresan-largest": {"kind": "measured", "machine": {"device": "a GPU"}, "rows": [], "figures": []}}
    write(tmp_path / FILE, measured)
    monkeypatch.setattr(deformed_on_gpu, "open_backend", none)
    monkeypatch.setattr("benchmarks.reproductions.__main__.machine", lambda dry_run: {"device": "none"})
    assert main(["ciresan-largest", "--out", str(tmp_path)]) == 2
    assert "ciresan-largest: skipped, no device" in capsys.readouterr().out
    assert json.loads((tmp_path / FILE).read_text())["parts"] == measured


def test_parts_of_another_machine_are_put_beside_those_of_this_one(tmp_path: Path) -> None:
    def part(machine: str, kind: str = "measured") -> dict[str, Any]:
        return {"kind": kind, "machine": {"device": machine}, "rows": [], "figures": []}

    write(tmp_path / FILE, {"cats": part("a CPU"), "ciresan-largest": part("an old GPU")})
    (tmp_path / "gpu").mkdir()
    write(tmp_path / "gpu" / FILE, {"ciresan-largest": part("a GPU")})
    assert main(["--merge", str(tmp_path / "gpu" / FILE), "--out", str(tmp_path)]) == 0
    merged = json.loads((tmp_path / FILE).read_text())["parts"]
    assert {name: of["machine"]["device"] for name, of in merged.items()} == {
        "cats": "a CPU",
        "ciresan-largest": "a GPU",
    }
    write(tmp_path / "gpu" / FILE, {"cats": part("a CPU", "dry run")})
    assert main(["--merge", str(tmp_path / "gpu" / FILE), "--out", str(tmp_path)]) == 2
    with pytest.raises(SystemExit):
        main(["--merge", str(tmp_path / "none.json"), "--out", str(tmp_path)])


@pytest.mark.thorough
def test_dry_run_of_the_reproductions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main(["--dry-run", "--out", str(tmp_path)]) == 0
    parts = json.loads((tmp_path / FILE).read_text())["parts"]
    assert list(parts) == list(PARTS)
    assert all(row["met"] is None for part in parts.values() for row in part["rows"])
    assert all((tmp_path / f"reproductions-{name}.png").stat().st_size > 1000 for name in PARTS)
    assert "| cats: right of 50 to test | 40 |" in capsys.readouterr().out


def test_what_was_published_and_measured_is_compared() -> None:
    part = Part("p", dry_run=False)
    compare(part, "accuracy", 95.5, [95.0, 95.5], (94.8, 96.1), source="a book")
    compare(part, "error", 0.5, [1.25], (0.0, 1.1))
    assert table([{"figures": part.figures}])[2:] == [
        "| accuracy | 95.50 % | 95.25 % (95.00, 95.50) | -0.25 | a book |",
        "| error | 0.50 % | 1.25 % | +0.75 |  |",
    ]
    assert [(row.asked, row.met) for row in part.rows] == [("94.80-96.10 %", True), ("<= 1.10 %", False)]


def test_figures_of_a_dry_run_stay_by_themselves(tmp_path: Path) -> None:
    write(tmp_path / FILE, {"cats": {"kind": "measured", "rows": [], "figures": []}})
    assert main(["cats", "--dry-run", "--out", str(tmp_path)]) == 2


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc, which is Linux's"
)
def test_training_stays_within_its_memory(shared_data: Path) -> None:
    _measure("memory", shared_data)
