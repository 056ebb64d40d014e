"""``python -m benchmarks.gpu``: its dry run, what it refuses, and that its checks can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpubp.backends.cuda.backend import CudaBackend
from support.cuda_host import host_compiler
from support.package import REPOSITORY

sys.path.append(str(REPOSITORY))  # behind the package that is tested
from benchmarks.gpu import parity, sanitizer
from benchmarks.parts import FILE, MixedError, Part, load, saving
from benchmarks.peers import ON_A_GPU

PARTS = ("parity", "kernels", "small", "large", "sanitizer")
needs_compiler = pytest.mark.skipif(host_compiler() is None, reason="no C++ compiler to run kernels with on the host")


def dry_run(part: str, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", part, "--out", str(out), "--dry-run"]
    return subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a dry run of all parts leaves behind."""
    out = tmp_path_factory.mktemp("results")
    for part in PARTS:
        done = dry_run(part, out)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"\n{part}, dry run: device the host in place of a device" in done.stdout
    found: dict[str, Any] = json.loads((out / FILE).read_text(encoding="utf-8"))["parts"]
    return found


# -- the dry run --------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.thorough
def test_a_dry_run_leaves_all_parts_in_one_file_marked_as_such(results: dict[str, Any]) -> None:
    assert set(results) == set(PARTS)
    for name, part in results.items():
        assert part["kind"] == "dry run"
        assert part["broken off"] == ""
        assert part["rows"], name
        assert {"device", "gpubp", "numpy", "processor"} <= part["machine"].keys()


@needs_compiler
@pytest.mark.thorough
def test_a_dry_run_judges_what_it_computes_and_no_time(results: dict[str, Any]) -> None:
    assert all(row["met"] is True for row in results["parity"]["rows"])
    for part in ("kernels", "small", "large"):
        assert all(row["met"] is None for row in results[part]["rows"])


@needs_compiler
@pytest.mark.thorough
def test_every_contender_is_timed_or_says_why_not(results: dict[str, Any]) -> None:
    figures = [figure for figure in results["small"]["figures"] if "precision" in figure]
    for precision in ("float32", "tf32", "bfloat16"):
        of = {figure["contender"]: figure for figure in figures if figure["precision"] == precision}
        assert set(of) == set(ON_A_GPU)
        assert not {name for name, figure in of.items() if "failed" in figure}
        assert "microseconds" in of["gpubp"]
        assert all("microseconds" in figure or figure["skipped"] for figure in of.values())
        assert 0 < of["gpubp"]["error after two steps"] < 0.1


@needs_compiler
@pytest.mark.thorough
def test_every_kernel_is_measured(results: dict[str, Any]) -> None:
    measured = {figure["kernel"].split()[0] for figure in results["kernels"]["figures"]}
    of_few_rows = {"column_sum"}  # there is one chunk of rows only, which needs no second stage
    assert measured == {path.stem for path in (REPOSITORY / "kernels").glob("*.cu")} - of_few_rows


def test_the_readme_of_results_says_what_is_not_measured() -> None:
    folder = REPOSITORY / "benchmarks" / "results"
    text = (folder / "README.md").read_text(encoding="utf-8")
    for part in PARTS:
        assert f"--part {part}" in text
        assert f"| `{part}`" in text
    assert (folder / FILE).exists() or text.count("| not yet |") == 11


# -- the file of results ------------------------------------------------------------------------------------


def test_figures_of_a_dry_run_are_not_put_beside_measured_ones(tmp_path: Path) -> None:
    before = json.dumps({"parts": {"small": {"kind": "measured"}}})
    (tmp_path / FILE).write_text(before)
    done = dry_run("sanitizer", tmp_path)
    assert done.returncode == 2
    assert "holds measured figures (small), and this run's are dry run" in done.stderr
    assert (tmp_path / FILE).read_text() == before


@pytest.mark.parametrize("content", ["", "[]", '{"parts": {"small": {}}}', '{"parts": 3}'])
def test_a_file_that_is_not_one_of_results_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(MixedError, match=r"gpu\.json is not a file of these results"):
        load(tmp_path, dry_run=True)


def test_a_part_that_breaks_off_keeps_what_it_found_and_the_other_parts(tmp_path: Path) -> None:
    with saving(done := Part("parity", dry_run=True), tmp_path, {"device": "a"}):
        done.computed("bits", "identical", "identical", True)
    broken = Part("kernels", dry_run=True)
    with pytest.raises(KeyboardInterrupt), saving(broken, tmp_path, {"device": "b"}):
        broken.timed("gather", ">= 85%", "90%", True)
        raise KeyboardInterrupt
    parts = load(tmp_path, dry_run=True)
    assert parts["parity"]["broken off"] == ""
    assert parts["parity"]["rows"][0]["met"] is True
    assert parts["kernels"]["broken off"].startswith("KeyboardInterrupt")
    assert parts["kernels"]["rows"][0]["met"] is None  # a time, in a dry run
    with pytest.raises(OSError), saving(Part("large", dry_run=True), tmp_path, {}):
        raise OSError
    assert set(load(tmp_path, dry_run=True)) == {"parity", "kernels"}


# -- parity -------------------------------------------------------------------------------------------------


class Faulty(CudaBackend):
    """Off by a little in one place."""

    place = ""

    def matmul(self, *args: Any, **kwargs: Any) -> None:
        super().matmul(*args, **kwargs)
        if self.place == "gradient" and kwargs.get("transpose_a"):
            kwargs["out"] *= 1.0001

    def optimizer_step(self, state: Any, theta: Any, grad: Any, epoch: Any) -> None:
        super().optimizer_step(state, theta, grad, epoch)
        if self.place == "theta":
            theta *= 1.0001


@needs_compiler
@pytest.mark.parametrize("place", ["", "gradient", "theta"])
def test_parity_finds_an_error_of_a_tenth_of_a_per_mille(place: str) -> None:
    from support.machines import host_driver

    backend = Faulty(host_driver(), "float32")
    backend.place, backend.fused = place, False  # steps are called, so that the fault is in each of them
    errors = parity.errors_of(parity.TINY[0], backend)
    exceeded = {what for what in parity.COMPARED if not errors[what] <= parity.TOLERANCE["float32"]}
    assert exceeded == {"": set(), "gradient": {"gradient"}, "theta": {"update", "theta"}}[place]


@needs_compiler
def test_bits_differ_where_a_weight_does() -> None:
    from support.machines import host_driver

    followed = [parity.Followed(parity.TINY[0], CudaBackend(host_driver(), "float32"), 3) for _ in range(3)]
    followed[2].stack.theta[0, 0] += 1e-6
    a, b, c = (parity._bits(one) for one in followed)
    assert a == b != c


# -- compute-sanitizer --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "code", "met", "measured"),
    [
        ("========= ERROR SUMMARY: 0 errors", 0, True, "0 errors"),
        ("========= ERROR SUMMARY: 2 errors", 66, False, "2 errors"),
        ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", 0, True, "0 hazards"),
        ("========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)", 66, False, "1 hazard"),
        ("1 failed in 0.1s\n========= ERROR SUMMARY: 0 errors", 1, False, "1 failed"),
        ("Device not supported", 1, False, "FAILED: exit code 1 and no summary; Device not supported"),
        ("no tests ran", 5, None, "no test of the kernels is marked gpu"),
    ],
)
def test_the_sanitizers_verdict_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, code: int, met: bool | None, measured: str
) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f'#!{sys.executable}\nprint("""{says}""")\nraise SystemExit({code})\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    sanitizer.sanitizer(part := Part("sanitizer", dry_run=True))
    assert [row.met for row in part.rows] == [met] * 3
    assert all(measured in row.measured for row in part.rows)


def test_a_missing_sanitizer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    sanitizer.sanitizer(part := Part("sanitizer", dry_run=True))
    assert all("skipped: compute-sanitizer is not on the PATH" in row.measured for row in part.rows)
