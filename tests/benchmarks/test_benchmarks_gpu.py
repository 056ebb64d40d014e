"""``python -m benchmarks.gpu``: its dry run, what it refuses, and that its checks can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cases import LARGE, SMALL
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import bars, device_tests, pack, parity, plot, sanitized, sanitizer, settings, step_times
from benchmarks.gpu.schedule import LOG, MAIN, REST, STAGES, Schedule, Stage, chosen, plan
from benchmarks.gpu.settings import Settings
from benchmarks.parts import FILE, UNFINISHED, MixedError, Part, load, saving, write
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.bench.steps import Workload
from support.cuda_host import host_compiler
from support.package import REPOSITORY

needs_compiler = pytest.mark.skipif(host_compiler() is None, reason="no C++ compiler to run kernels with on the host")
ALL = tuple(STAGES)


def dry_run(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--out", str(out), *arguments]
    return subprocess.run(line, cwd=REPOSITORY, env=os.environ, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a dry run of the whole schedule leaves behind, both halves of it."""
    out = tmp_path_factory.mktemp("results")
    done = dry_run(out, "--stages", *ALL)
    assert done.returncode == 0, done.stdout + done.stderr + (out / LOG).read_text()[-5000:]
    assert "device the host in place of a device" in done.stdout
    assert len(done.stdout) < 12_000
    assert "# Measured on a GPU" in (out / command.REPORT).read_text(encoding="utf-8")
    return parts_in(out)


def parts_in(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / FILE).read_text(encoding="utf-8"))["parts"]
    return found


# -- the dry run --------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.thorough
def test_a_dry_run_leaves_all_stages_in_one_file_marked_as_such(results: dict[str, Any]) -> None:
    assert set(results) == set(ALL)
    for name, part in results.items():
        assert part["kind"] == "dry run"
        assert part["broken off"] == ""
        assert part["rows"], name
        assert {"device", "gpubp", "numpy", "processor"} <= part["machine"].keys()


@needs_compiler
@pytest.mark.thorough
def test_a_dry_run_judges_what_it_computes_and_no_time(results: dict[str, Any]) -> None:
    for part in ("smoke", "parity", "processes"):
        assert all(row["met"] is True for row in results[part]["rows"])
    for part in ("mnist", "kernels", "small", "large", "compiled", "precisions", "crossover", "first-steps"):
        assert all(row["met"] is None for row in results[part]["rows"])
    by_key = {answer.bar.key: answer.reached for answer in bars.answers(results)}
    computed = {"parity", "replays", "bits", "stack-equality", "search-scores", "onchip-parity", "onchip-bits"}
    assert {key for key, reached in by_key.items() if reached} == computed
    assert False not in by_key.values()


@needs_compiler
@pytest.mark.thorough
def test_every_contender_is_timed_or_says_why_not(results: dict[str, Any]) -> None:
    figures = [figure for figure in results["small"]["figures"] if "precision" in figure]
    for precision in ("float32", "tf32", "bfloat16"):
        of = {figure["contender"]: figure for figure in figures if figure["precision"] == precision}
        assert set(of) == {"gpubp", *step_times.FASTEST, "bare GEMMs", "copy"}
        assert not {name for name, figure in of.items() if "failed" in figure}
        assert "microseconds" in of["gpubp"]
        assert all("microseconds" in figure or figure["skipped"] for figure in of.values())
        assert 0 < of["gpubp"]["error after two steps"] < 0.1
    of = {figure["contender"]: figure for figure in results["compiled"]["figures"]}
    assert set(of) == {"gpubp", "gpubp cuda-unfused", *step_times.COMPILED}
    assert "microseconds" in of["gpubp cuda-unfused"]


@needs_compiler
@pytest.mark.thorough
def test_every_kernel_is_measured(results: dict[str, Any]) -> None:
    measured = {figure["kernel"].split()[0] for figure in results["kernels"]["figures"]}
    elsewhere = {"dense", "dense_backward", "dense_loss", "train_on_chip"}  # in small-layers, small and onchip
    of_few_rows = {"column_sum"}  # there is one chunk of rows only, which needs no second stage
    assert measured == {path.stem for path in (REPOSITORY / "kernels").glob("*.cu")} - of_few_rows - elsewhere


@needs_compiler
@pytest.mark.thorough
def test_stacks_are_measured_and_compared(results: dict[str, Any]) -> None:
    rows = results["stacks"]["rows"]
    assert [row["asked"] for row in rows if row["asked"]] == ["<= 1e-12", ">= 20.0"]
    assert rows[0]["met"] is True
    assert all(row["met"] is None for row in [*rows[1:], *results["vmap"]["rows"]])
    of = {figure["contender"]: figure for figure in results["vmap"]["figures"] if "contender" in figure}
    assert set(of) == {"gpubp stack", "torch vmap graph", "jax vmap scan"}
    assert of["gpubp stack"]["microseconds"] > 0
    assert all("microseconds" in figure or figure["skipped"] for figure in of.values())
    assert all(figure["error after two steps"] < 1e-2 for figure in of.values() if "microseconds" in figure)


# -- the schedule -------------------------------------------------------------------------------------------


def test_the_plan_lists_the_stages_in_their_order_with_times() -> None:
    lines = plan(MAIN).splitlines()
    assert [line.split()[4] for line in lines[1:-1]] == [stage.name for stage in MAIN]
    assert lines[-1] == "  530 s  in all"
    assert sum(stage.seconds for stage in MAIN) == 530
    assert chosen([], rest=False) == list(MAIN)
    assert chosen([], rest=True) == [MAIN[0], *REST]
    assert [stage.name for stage in chosen(["kernels", "small"], rest=False)] == ["smoke", "small", "kernels"]


STUB = """
import subprocess, sys, time
from pathlib import Path
from benchmarks.parts import Part, saving
part, out = Part(sys.argv[1], dry_run=True), Path(sys.argv[2])
with saving(part, out, {"device": "none"}):
    part.computed("one", "right", "right", True)
    part.computed("two", "right", "right", True)
    if part.name == "hangs":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"], process_group=0)
        (out / "child").write_text(str(child.pid))
        time.sleep(99)
    if part.name == "crashes":
        import os
        os._exit(7)
"""


def stubs(out: Path, *stages: tuple[str, float], seconds: float = 60.0) -> Schedule:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return Schedule(
        [Stage(name, limit, "", "") for name, limit in stages],
        seconds,
        out,
        dry_run=True,
        command=lambda stage, _: [sys.executable, "-c", STUB, stage.name, str(out)],
        environment=environment,
    )


def test_a_stage_that_hangs_ends_within_its_limit_and_keeps_its_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = stubs(tmp_path, ("before", 20), ("hangs", 3), ("after", 20), seconds=47)
    start = time.monotonic()
    assert schedule.run() == 1
    assert time.monotonic() - start < 40
    parts = parts_in(tmp_path)
    assert {name: len(part["rows"]) for name, part in parts.items()} == {"before": 2, "hangs": 2, "after": 2}
    assert parts["hangs"]["broken off"].startswith("ended at its limit of ")
    assert parts["before"]["broken off"] == parts["after"]["broken off"] == ""
    child = Path("/proc") / (tmp_path / "child").read_text() / "status"
    assert not child.exists() or "State:\tZ" in child.read_text()  # what it had started is ended too
    assert "hangs" in capsys.readouterr().out


def test_a_stage_that_crashes_is_named_and_the_next_one_runs(tmp_path: Path) -> None:
    assert stubs(tmp_path, ("crashes", 20), ("after", 20)).run() == 1
    parts = parts_in(tmp_path)
    assert parts["crashes"]["broken off"] == "its process ended with exit code 7"
    assert [row["what"] for row in parts["crashes"]["rows"]] == ["one", "two"]
    assert parts["after"]["broken off"] == ""


def test_without_a_smoke_test_that_passes_nothing_is_begun(tmp_path: Path) -> None:
    schedule = stubs(tmp_path, ("smoke", 20), ("after", 20))
    schedule.command = lambda stage, _: [sys.executable, "-c", "raise SystemExit(2)"]
    assert schedule.run() == 3
    assert list(parts_in(tmp_path)) == ["smoke"]


def test_stages_for_which_no_time_is_left_are_skipped_and_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stubs(tmp_path, ("smoke", 20), ("small", 20), seconds=0).run() == 1
    parts = parts_in(tmp_path)
    assert [part["broken off"] for part in parts.values()] == ["skipped: 0 s were left"] * 2
    assert capsys.readouterr().out.count("skipped: 0 s were left") == 2


def test_limits_are_what_is_planned_and_what_others_left_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def run(command: list[str], seconds: float, *_: object) -> int:
        limits.append(seconds)
        return 0

    monkeypatch.setattr("benchmarks.gpu.schedule.run_limited", run)
    Schedule(MAIN, 530, tmp_path, dry_run=True, command=lambda *_: []).run()
    assert limits[0] == 60  # the smoke test may take longer than planned: all hangs on it
    assert all(
        stage.seconds - 5 < limit <= 2 * stage.seconds for stage, limit in zip(MAIN[1:], limits[1:], strict=True)
    )
    limits.clear()
    Schedule(MAIN, 100, tmp_path, dry_run=True, command=lambda *_: []).run()
    assert limits[2] == pytest.approx(96, abs=2)  # and never more than is left


# -- the account --------------------------------------------------------------------------------------------


def test_every_bar_is_measured_by_a_stage_and_its_rows_are_read() -> None:
    assert {stage for bar in bars.BARS for stage in bar.stages} <= set(ALL)
    source = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "benchmarks" / "gpu").glob("*.py"))
    for bar in bars.BARS:
        assert source.count(f'"{bar.key}"') > 1, bar.key
    row = {"what": "bf16", "asked": "<= 1.13", "measured": "1.2", "met": False, "bar": "floor"}
    other = {**row, "what": "tf32", "measured": "1.0", "met": True}
    parts = {"large": {"rows": [other, row], "broken off": ""}, "mnist": {"rows": [], "broken off": "ended at 15 s"}}
    of = {answer.bar.key: answer for answer in bars.answers(parts)}
    assert (of["floor"].reached, of["floor"].measured) == (False, "1 of 2 reached; bf16: 1.2")
    assert (of["mnist-warm"].reached, of["mnist-warm"].measured) == (None, "ended at 15 s")
    assert of["vmap"].measured == bars.NOT_YET
    assert "MISSED  step over bare GEMMs" in bars.summary(parts)


def test_the_bars_are_those_of_the_networks() -> None:
    assert [step_times.AT_LEAST[network] for network in SMALL] == [1.5, 1.5, 1.2]
    assert {(network.name, precision): bar for (network, precision), bar in step_times.FLOOR_AT_MOST.items()} == {
        ("1024-4096x4-1000 b4096", "tf32"): 1.10,
        ("1024-4096x4-1000 b4096", "bfloat16"): 1.13,
    }
    assert set(step_times.BY_IMPORTANCE) == set(LARGE)


def test_saved_files_are_put_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = {"kind": "measured", "machine": {"device": "GPU X"}, "rows": [], "figures": []}
    for name, stage in (("a", "smoke"), ("b", "large")):
        (tmp_path / name).mkdir()
        write(tmp_path / name / FILE, {stage: part})
    files = [str(tmp_path / name / FILE) for name in "ab"]
    assert command.main(["--report", *files, "--out", str(tmp_path / "c")]) == 0
    assert set(parts_in(tmp_path / "c")) == {"smoke", "large"}
    assert "GPU X" in (tmp_path / "c" / command.REPORT).read_text(encoding="utf-8")
    assert "bare GEMMs" in capsys.readouterr().out


# -- what travels -------------------------------------------------------------------------------------------


def test_the_packed_folder_is_found_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnist").mkdir()
    for name in pack.MNIST_FILES:
        (tmp_path / "mnist" / f"{name}.gz").write_bytes(b"1")
    network = Workload((4, 6, 3), 5, 2)
    monkeypatch.setattr(pack, "packed_workloads", lambda: (network,))
    monkeypatch.setattr(pack, "_site", lambda folder: True)
    assert pack.pack(tmp_path / "packed", str(tmp_path / "mnist")) == 0
    packed = Settings(packed=tmp_path / "packed")
    assert packed.mnist_folder == str(tmp_path / "packed" / "mnist")
    expected = pack.displacements(network)
    for found, tensor in zip(packed.references[network.name], expected, strict=True):
        np.testing.assert_array_equal(found, np.float32(tensor))
    assert pack.pack(tmp_path / "without", None) == 1  # MNIST was not given
    assert Settings(packed=tmp_path / "without").mnist_folder is None
    assert {network.name for network in LARGE} <= {network.name for network in settings.packed_workloads()}
    assert Settings().references == {}


def test_stages_find_the_checkout_and_a_place_for_compiled_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CUPY_CACHE_DIR", raising=False)
    monkeypatch.setattr(command, "PACKAGES", ("pytest",))
    variables = command.environment(tmp_path)
    assert variables["PYTHONPATH"].split(os.pathsep)[0] == str(REPOSITORY)
    assert not {"OPENBLAS_CORETYPE", "CUPY_CACHE_DIR"} & variables.keys()
    assert str(tmp_path / "site") not in variables["PYTHONPATH"]
    monkeypatch.setattr(command, "PACKAGES", ("surely_missing",))
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    variables = command.environment(tmp_path)
    assert variables["PYTHONPATH"].endswith(str(tmp_path / "site"))
    assert Path(variables["CUPY_CACHE_DIR"]).is_dir()


def test_settings_are_handed_to_the_stages() -> None:
    given = Settings(("tf32",), ("torch graph", "jax scan"), 3, "mnist", Path("packed"))
    options = command._parser().parse_args(given.arguments())
    assert (
        Settings(tuple(options.precision), tuple(options.contenders), options.rounds, options.mnist, options.packed)
        == given
    )
    assert given.chosen_precisions(("float32",)) == ["tf32"]
    assert given.chosen_contenders(("gpubp", "torch eager", "jax scan", "copy")) == ["gpubp", "jax scan", "copy"]


def test_stages_import_nothing_that_a_machine_with_a_gpu_may_lack() -> None:
    modules = [f"benchmarks.gpu.{path.stem}" for path in (REPOSITORY / "benchmarks" / "gpu").glob("[!_]*.py")]
    code = f"""
import importlib, sys
for name in {modules} + ["benchmarks.peers.gpubp_steps", "benchmarks.peers.floors"]:
    importlib.import_module(name)
print(*[name for name in ("duckdb", "polars", "pandas", "sklearn", "gpubp.estimators") if name in sys.modules])
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_pictures_show_what_was_measured(tmp_path: Path) -> None:
    parts = load(REPOSITORY / "benchmarks" / "results", dry_run=False)
    plot.plot(parts, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"gpu_steps.png", "gpu_crossover.png"}
    times = [
        {"contender": name, "width": width, "batch size": 8, "microseconds": microseconds}
        for width, *both in ((64, 10.0, 30.0), (16, 10.0, 5.0))
        for name, microseconds in zip(("gpubp", "gpubp cpu"), both, strict=True)
    ]
    assert plot.cpu_over_gpu({"crossover": {"figures": [{"cpu": "compiled"}, *times]}}) == {8: {16: 0.5, 64: 3.0}}


def test_tests_on_the_device_are_run_by_files_that_are_there() -> None:
    assert all((REPOSITORY / file).is_file() for file in device_tests.FILES)


def test_outcomes_of_tests_are_lines_while_they_come_in(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(
        "import pytest\ndef test_right(): pass\ndef test_wrong(): assert 1 == 2\n"
        "@pytest.mark.skip(reason='none')\ndef test_skipped(): pass\n"
    )
    lines = tmp_path / "lines"
    options = ["-p", "benchmarks.gpu.result_lines", "--result-lines", str(lines), "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    subprocess.run([sys.executable, "-m", "pytest", *options, "-q"], cwd=tmp_path, env=environment, check=False)
    outcomes = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(o["test"], o["outcome"]) for o in outcomes] == [
        ("test_a.py::test_right", "passed"),
        ("test_a.py::test_wrong", "failed"),
        ("test_a.py::test_skipped", "skipped"),
    ]
    assert "1 == 2" in outcomes[1]["message"]


# -- the file of results ------------------------------------------------------------------------------------


def test_figures_of_a_dry_run_are_not_put_beside_measured_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.dumps({"parts": {"small": {"kind": "measured"}}})
    (tmp_path / FILE).write_text(before)
    assert command.main(["--dry-run", "--stages", "memcheck", "--out", str(tmp_path)]) == 2
    assert "holds measured figures (small), and this run's are dry run" in capsys.readouterr().err
    assert (tmp_path / FILE).read_text() == before


@pytest.mark.parametrize("content", ["", "[]", '{"parts": {"small": {}}}', '{"parts": 3}'])
def test_a_file_that_is_not_one_of_results_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(MixedError, match=r"gpu\.json is not a file of these results"):
        load(tmp_path, dry_run=True)


def test_rows_are_in_the_file_as_soon_as_they_are_known(tmp_path: Path) -> None:
    with saving(part := Part("small", dry_run=True), tmp_path, {"device": "a"}):
        part.computed("first", "right", "right", True, "floor")
        (row,) = load(tmp_path, dry_run=True)["small"]["rows"]
        assert (row["what"], row["bar"]) == ("first", "floor")
        assert load(tmp_path, dry_run=True)["small"]["broken off"] == UNFINISHED
    assert load(tmp_path, dry_run=True)["small"]["broken off"] == ""


def test_numbers_of_numpy_can_be_written(tmp_path: Path) -> None:
    with saving(part := Part("small", dry_run=False), tmp_path, {}):
        part.timed("first", ">= 1", "2", np.float64(2) >= 1)  # type: ignore[arg-type]
        part.figures.append({"seconds": np.float32(0.5), "rounds": np.int64(3), "path": tmp_path})
    part = load(tmp_path, dry_run=False)["small"]
    assert part["rows"][0]["met"] is True
    assert part["figures"] == [{"seconds": 0.5, "rounds": 3, "path": str(tmp_path)}]


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

    def dense_backward(self, a_prev: Any, layer: Any, cache: Any, grad: Any, *args: Any) -> None:
        super().dense_backward(a_prev, layer, cache, grad, *args)
        if self.place == "gradient":
            weights = grad.W
            weights *= 1.0001

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
    a, b, c = (parity.bits_of(one) for one in followed)
    assert a == b != c


# -- compute-sanitizer --------------------------------------------------------------------------------------


LAUNCHED = "launched 2 kernels: a b\n"


@pytest.mark.parametrize(
    ("says", "code", "met", "measured"),
    [
        (f"{LAUNCHED}========= ERROR SUMMARY: 0 errors", 0, True, "0 errors"),
        (f"{LAUNCHED}========= ERROR SUMMARY: 2 errors", 66, False, "2 errors"),
        (f"{LAUNCHED}========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", 0, True, "0 hazards"),
        (f"{LAUNCHED}========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)", 66, False, "1 hazard"),
        ("ValueError: it failed\n========= ERROR SUMMARY: 0 errors", 1, False, "exit code 1, did not get to its end"),
        ("Device not supported", 1, False, "FAILED: exit code 1, did not get to its end; Device not supported"),
        (f"{LAUNCHED}1 failed\n========= ERROR SUMMARY: 0 errors", 1, False, "0 errors (launched 2 kernels)"),
        ("launched 2 kernels: a b", 1, False, "FAILED: exit code 1, no summary; launched 2 kernels: a b"),
    ],
)
def test_the_sanitizers_verdict_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, code: int, met: bool | None, measured: str
) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f'#!{sys.executable}\nprint("""{says}""")\nraise SystemExit({code})\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    sanitizer.sanitizer(part := Part("memcheck", dry_run=True), ("memcheck", "racecheck", "initcheck"))
    assert [row.met for row in part.rows] == [met] * 3
    assert all(measured in row.measured for row in part.rows)


def test_a_missing_sanitizer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sanitizer, "TOOLKIT", ())
    sanitizer.sanitizer(part := Part("memcheck", dry_run=True), ("memcheck", "racecheck", "initcheck"))
    assert all("skipped: there is no compute-sanitizer" in row.measured for row in part.rows)


@needs_compiler
@pytest.mark.thorough
def test_what_the_sanitizer_watches_launches_every_kernel() -> None:
    assert sanitized.launched(dry_run=True) == {path.stem for path in (REPOSITORY / "kernels").glob("*.cu")}


def test_a_kernel_that_was_not_launched_under_the_sanitizer_is_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sanitized", "--dry-run"])
    every = {path.stem for path in (REPOSITORY / "kernels").glob("*.cu")}
    monkeypatch.setattr(sanitized, "launched", lambda dry_run: every)
    assert sanitized.main() == 0
    monkeypatch.setattr(sanitized, "launched", lambda dry_run: every - {"gather"})
    assert sanitized.main() == 1
    assert "1 left out: gather" in capsys.readouterr().out
