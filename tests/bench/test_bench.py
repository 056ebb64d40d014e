"""``gpubp bench`` and its measuring core: what is timed, what is refused, and what a row says that has no figures."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from gpubp import backends
from gpubp.backends import cuda, get_backend
from gpubp.backends.cuda import probe as probing
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.reference import ReferenceBackend
from gpubp.bench import advice as bench_advice
from gpubp.bench import run as bench
from gpubp.bench import steps as bench_steps
from gpubp.bench.doctor import findings
from gpubp.bench.report import BackendRow, Report
from gpubp.bench.steps import BareGemms, Steps, Workload, displacements, error, sample, verified_rows
from gpubp.bench.timing import ratio, spread, turns
from gpubp.cli.app import app
from gpubp.errors import DeviceError
from support import cuda_stubs
from support.cuda_stubs import CublasLtStub, CupyStub, configured
from support.machines import compiled_backend, host_driver

WORKLOAD = Workload((5, 7, 3), 4, 2)
TINY = ["--layers", "5,7,3", "--batch-size", "4"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_steps, "ROUNDS", 3)
    monkeypatch.setattr(bench_steps, "TURN", 1e-4)


def invoke(*arguments: str) -> Any:
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, ["bench", *arguments], prog_name="gpubp")


def opened(faults: dict[str, Callable[[], Any]]) -> Callable[[str, str], Any]:
    """`bench.open_backend` for a machine that has the reference, and whatever `faults` makes of the others."""

    def open_backend(name: str, precision: str) -> Any:
        if name in faults:
            return faults[name]()
        return ReferenceBackend(np.dtype(precision))

    return open_backend


# -- the measuring core -------------------------------------------------------------------------------------


def test_turns_measure_each_function_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    found = islice(turns({"one": lambda: None, "three": lambda: [next(clock) for _ in range(2)]}), 2)
    assert list(found) == [{"one": 1.0, "three": 3.0}] * 2


def test_ratios_are_formed_round_by_round() -> None:
    assert ratio([1.0, 20.0, 3.0], [2.0, 40.0, 6.0]) == (0.5, 0.5, 0.5)
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == (3.0, 2.0, 4.0)
    assert str(spread([1.0])) == "1.00 (1.00-1.00)"


def test_a_network_counts_its_products() -> None:
    forward, bp4, bp2 = 5 * 7 + 7 * 3, 5 * 7 + 7 * 3, 7 * 3
    assert WORKLOAD.flops_per_row == 2 * (forward + bp4 + bp2)
    assert WORKLOAD.name == "5-7-3 b4"
    assert Workload((5, 7, 3), 4, 2, "tanh").name == "5-7-3 b4 tanh"


class Counting(ReferenceBackend):
    """Counts multiplications of products."""

    flops = 0

    def matmul(self, a: Any, b: Any, out: Any, *, transpose_a: bool = False, transpose_b: bool = False) -> None:
        self.flops += 2 * out.size * a.shape[1 if transpose_a else 2]
        super().matmul(a, b, out, transpose_a=transpose_a, transpose_b=transpose_b)


@pytest.mark.parametrize("workload", [WORKLOAD, Workload((5, 3), 4, 2), Workload((3, 4, 4, 1), 2, 3)])
def test_the_floor_is_the_products_of_a_step(workload: Workload) -> None:
    for make in (Steps, BareGemms):
        backend = Counting(np.float32)
        repeated = make(workload, backend)
        backend.flops = 0
        repeated.run(5)
        repeated.wait()
        assert backend.flops == 5 * workload.batch_size * workload.flops_per_row


def test_steps_begin_again_after_the_last_batch() -> None:
    once, by_parts = (Steps(Workload((5, 7, 3), 4, 3), ReferenceBackend(np.float64)) for _ in range(2))
    once.run(7)
    for taken in (2, 1, 4):
        by_parts.run(taken)
    for a, b in zip(once.weights(), by_parts.weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert by_parts.at == 1


def test_long_verifications_are_cut_to_some_rows() -> None:
    assert verified_rows(WORKLOAD) == 4
    assert verified_rows(Workload((4096, 4096, 4096), 4096, 2)) < 1000


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_what_steps_add_is_compared_with_float64(optimizer: str, activation: str) -> None:
    workload = Workload((5, 7, 3), 4, 2, activation)
    expected = displacements(workload, optimizer, rows=3)
    steps = Steps(workload, compiled_backend("float32"), optimizer)
    steps.run(2, rows=3)
    tensors = steps.weights()
    assert error(workload, [sample(tensor) for tensor in tensors], expected) < 0.01
    steps.run(1)
    assert error(workload, [sample(tensor) for tensor in steps.weights()], expected) > 0.1


def test_figures_of_a_row() -> None:
    row = BackendRow("compiled", "float32", seconds=[2e-3, 4e-3, 3e-3], floor=[1e-3, 1e-3, 1.5e-3])
    assert row.measured
    assert row.of_floor == (0.5, 0.375, 0.5)
    report = Report(WORKLOAD, "adam", {}, [row])
    assert report.gflops(row) == pytest.approx(WORKLOAD.flops_per_row * 4 / 3e-3 / 1e9)
    row.reason = "wrong"
    assert not row.measured


# -- rows ---------------------------------------------------------------------------------------------------


class Wrong(ReferenceBackend):
    def bias_activation(self, activation: Any, layer: Any, cache: Any, dropout: Any = None) -> None:
        super().bias_activation(activation, layer, cache, dropout)
        cache.a[...] *= 1.5


def failing(error: Exception) -> Callable[[], Any]:
    def make() -> Any:
        raise error

    return make


def test_a_backend_that_fails_or_is_wrong_says_so_and_the_others_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    faults: dict[str, Callable[[], Any]] = {
        "compiled": lambda: Wrong(np.dtype("float32")),
        "cuda": failing(MemoryError("8 GiB asked for")),
        "cuda-unfused": failing(RuntimeError("the driver\nis gone")),
    }
    monkeypatch.setattr(bench, "open_backend", opened(faults))
    report = bench.bench(WORKLOAD)
    assert [row.measured for row in report.rows] == [False, True, False, False]
    others = [row for row in report.rows if row.reason]
    reference = report.rows[1]
    assert len(reference.seconds) == len(reference.floor) == 3
    assert [row.reason.split(";")[0].split(" by ")[0] for row in others] == [
        "wrong: its first steps are off",
        "not enough memory (8 GiB asked for)",
        "RuntimeError: the driver",
    ]
    assert report.advice[0].startswith("--device cpu for this network in float32: ")


def test_where_nothing_works_there_are_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "open_backend", opened({name: failing(DeviceError("gone")) for name in bench.DEVICES}))
    report = bench.bench(WORKLOAD)
    assert [row.reason for row in report.rows] == ["gone"] * 4
    assert report.advice == ["nothing could be measured; gpubp doctor says more"]
    result = invoke("--layers", "4,4,2")
    assert result.exit_code == 1
    assert "nothing could be measured; gpubp doctor says more" in result.output


def test_a_network_that_diverges_has_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "open_backend", opened({"cuda": failing(DeviceError("gone"))}))
    monkeypatch.setattr(Steps, "diverged", lambda steps: True)
    assert all("diverged" in row.reason or row.reason == "gone" for row in bench.bench(WORKLOAD).rows)


class Crashing(ReferenceBackend):
    """Works until it has multiplied so often."""

    def __init__(self, often: int, error: Exception) -> None:
        super().__init__(np.float32)
        self.left, self.error = often, error

    def matmul(self, *operands: Any, **transposes: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise self.error
        super().matmul(*operands, **transposes)


PRODUCTS = 5  # of a step of NETWORK


@pytest.mark.parametrize("rounds", [-1, 0, 1])  # that it lasts; -1: it fails before them
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("the driver\nis gone"), "RuntimeError: the driver"),
        (MemoryError("8 GiB asked for"), "not enough memory (8 GiB asked for)"),
        (DeviceError("GPU X: gone"), "GPU X: gone"),
    ],
)
def test_what_fails_while_it_is_timed_says_so_and_the_others_stand(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str, rounds: int
) -> None:
    monkeypatch.setattr(bench_steps, "TURN", 0.0)  # one step a turn
    monkeypatch.setattr(BareGemms, "run", lambda gemms, count: None)
    steps = bench_steps.VERIFIED + 1 + 2 + rounds  # verified, tried, and timed twice to know how many make a turn
    faults = {"cuda": lambda: Crashing(steps * PRODUCTS, error), "cuda-unfused": failing(DeviceError("gone"))}
    monkeypatch.setattr(bench, "open_backend", opened(faults))
    compiled, reference, crashed, _ = bench.bench(WORKLOAD).rows
    assert crashed.reason == said
    assert [row.measured for row in (compiled, reference, crashed)] == [True, True, False]
    assert len(compiled.seconds) == len(reference.seconds) == 3


def test_bare_products_that_fail_take_the_rows_of_their_device_along(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(gemms: BareGemms, count: int) -> None:
        if isinstance(gemms.backend, Counting):
            raise MemoryError("no")
        gemms.products(count, gemms.workload.batch_size)

    monkeypatch.setattr(BareGemms, "run", fails)
    on_gpu = dict.fromkeys(("cuda", "cuda-unfused"), lambda: Counting(np.float32))
    monkeypatch.setattr(bench, "open_backend", opened(on_gpu))
    rows = bench.bench(WORKLOAD).rows
    assert [row.reason for row in rows] == ["", "", *["not enough memory (no)"] * 2]
    assert [row.measured for row in rows] == [True, True, False, False]


def test_without_numba_the_compiled_row_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = ReferenceBackend(np.float32, "asked for; numba is not installed")
    monkeypatch.setattr(bench, "get_backend", lambda device, precision: reference)
    assert bench.open_backend("reference", "float32") is reference
    with pytest.raises(DeviceError, match="^numba is not installed"):
        bench.open_backend("compiled", "float32")


def test_with_a_gpu_the_advice_says_from_where_on_it_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    on_host = CudaBackend(host_driver(), "float32")
    found = backends.get_backend

    def get_backend(device: str, precision: str) -> Any:
        return on_host if device == "cuda" else found(device, precision)

    for module in (bench, bench_advice):
        monkeypatch.setattr(module, "get_backend", get_backend)
    monkeypatch.setattr(bench_advice, "WIDTHS", (2, 3))
    monkeypatch.setattr(bench_advice, "BATCH_SIZES", (2, 3))
    report = bench.bench(WORKLOAD)
    assert {row.backend for row in report.rows if row.measured} >= {"reference", "cuda"}
    width, batch = report.advice[-2:]
    assert width.startswith("at batch 4, with hidden layers of width")
    assert batch.startswith("this network, at batch size")


@pytest.mark.parametrize(
    ("wins", "said"),
    [
        ([True], "1, the least tried, already: the GPU is faster"),
        ([False, True], "8 and more: the GPU is faster"),
        ([False, False, False], "32 and less: the CPU is faster; more was not tried"),
        ([False, None], "1 and less: the CPU is faster; more was not tried"),
        ([None], ""),
    ],
)
def test_the_first_case_in_which_the_gpu_wins(wins: list[bool | None], said: str) -> None:
    left = iter(wins)
    found = bench_advice._from(dict.fromkeys((1, 8, 32), WORKLOAD), lambda workload: next(left), "batch")
    assert found == (f"batch {said}" if said else "")


# -- the command --------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    done = invoke(*TINY, "--precision", "float32,bfloat16", "--optimizer", "sgd", "--json", str(out))
    assert done.exit_code == 0, done.output
    assert "5-7-3 b4, 66 parameters, sgd" in done.stdout
    assert "BLAS" in done.stdout
    found = json.loads(out.read_text())
    assert found["layer_sizes"] == [5, 7, 3]
    of = {(row["backend"], row["precision"]): row for row in found["rows"]}
    assert set(of) == {(name, precision) for name in bench.DEVICES for precision in ("float32", "bfloat16")}
    reference = of["reference", "float32"]
    middle, low, high = reference["ms per step"]
    assert 0 < low <= middle <= high
    assert reference["rounds"] == 3
    assert 0 < reference["error after two steps"] < 0.05
    assert reference["samples per second"] == pytest.approx(4 / middle * 1e3)
    assert "needs a GPU" in of["reference", "bfloat16"]["skipped"]
    assert 'precision "bfloat16" needs a GPU' in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "784"], '--layers "784": not the sizes of layers'),
        (["--layers", "784,-3,10"], '--layers "784,-3,10" ("-3"): not the sizes'),
        (["--layers", "a,b"], '("a"): not the sizes of layers; write inputs'),
        (["--precision", "float8"], '--precision "float8": unknown precision "float8"; did you mean'),
        (["--optimizer", "adma"], 'unknown optimizer "adma"; did you mean "adam"?'),
        (["--activation", "rellu"], 'unknown activation "rellu"; did you mean'),
        (["--batch-size", "0"], "'--batch-size': Input should be greater than or equal to 1"),
        (["--tune", "--json", "b.json"], "--json keeps figures, and --tune writes a table of its own"),
        (["--json", "nowhere/b.json"], "--json nowhere/b.json: there is no folder nowhere"),
    ],
)
def test_nonsense_is_refused_before_anything_is_measured(arguments: list[str], message: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert "ms per step" not in done.stdout


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = bench.rounds

    def interrupted(entrants: Any) -> Any:
        yield from islice(rounds(entrants), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "rounds", interrupted)
    out = tmp_path / "bench.json"
    done = invoke(*TINY, "--precision", "float32,float64", "--json", str(out))
    assert done.exit_code == 130
    assert "interrupted: the figures are of the rounds until then" in done.stdout
    found = json.loads(out.read_text())
    assert found["interrupted"] is True
    assert found["rows"][0]["rounds"] == 2
    assert all(row["precision"] == "float32" for row in found["rows"])


def test_one_output_is_a_regression() -> None:
    done = invoke("--layers", "5,7,1", "--batch-size", "4")
    assert done.exit_code == 0, done.output
    assert "reference" in done.stdout


# -- tuning -------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CublasLtStub]:
    """A GPU whose kernels do nothing, whose products take the time that their algorithms name, and an empty cache."""
    cupy, lt = CupyStub(), CublasLtStub()
    cuda_stubs.install(monkeypatch, cupy, lt)
    cupy.kernels = defaultdict(lambda: lambda *launched: None, cupy.kernels)
    monkeypatch.setattr(probing, "_installed_wheels", lambda: ["cupy-cuda13x 14.2.0"])
    monkeypatch.setattr("gpubp.backends.cuda.backend.is_small", lambda *_: False)  # small layers take no products
    monkeypatch.setattr("time.perf_counter", lambda: lt.clock)
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("GPUBP_ON_CHIP", "0")  # where a small network's products are no product of cuBLASLt's

    begin_process()
    yield lt
    begin_process()


def begin_process() -> None:
    """Forget the devices that were opened."""
    for opened in (probing.probe_device, cuda._driver):
        opened.cache_clear()


def tables(folder: Path) -> list[Path]:
    return list(folder.rglob("gemm-*.json"))


def test_tuning_chooses_the_fastest_that_is_right(gpu: CublasLtStub, tmp_path: Path) -> None:
    gpu.algorithms = [
        configured(1, seconds=5e-3),
        configured(2, seconds=1e-3, factor=1.01),  # wrong
        configured(3, seconds=1e-3, drift=1e-5),  # not the same twice
        configured(4, 0, 2, 1, seconds=1e-3),  # adds up in place, so it is not proposed
        configured(5, seconds=3e-3),
        configured(6, seconds=2e-3),
        configured(6, seconds=1e-4),  # not to be told from the one before
        configured(7, seconds=4e-3),
        configured(8, seconds=1e-4, factor=0.0),  # writes nothing
    ]
    done = invoke(*TINY, "--tune", "--precision", "float32,float64")
    assert done.exit_code == 0, done.output
    (path,) = tables(tmp_path)
    products = json.loads(path.read_text())["products"]
    assert len(products) == 2 * PRODUCTS
    assert {product["algorithm"]["ID"] for product in products} == {6}
    assert {product["spec"]["epilogue"] for product in products} == {"none", "bias", "relu_bias"}
    shown = re.findall(r"\(4 x 5\) \(5 x 7\), float\d\d .* epilogue relu_bias +7 +3 +5e\+03 +2e\+03", done.stdout)
    assert len(shown) == 2
    assert "10 of 10 products are faster by another algorithm" in done.stdout
    begin_process()
    backend = get_backend("cuda")
    assert f"table {backend.gemm_table} is used by all later runs; delete it to go back: {path}" in done.stdout

    gpu.used.clear()
    Steps(WORKLOAD, backend).run(1)
    assert [used.config[0] for used in gpu.used] == [6] * PRODUCTS
    (found,) = (each.found for each in findings() if each.subject == "GEMM table")
    assert found == f"{backend.gemm_table}, made by gpubp bench --tune"


def test_tuning_keeps_what_is_as_fast_and_what_other_networks_had_tuned(gpu: CublasLtStub, tmp_path: Path) -> None:
    gpu.algorithms = [configured(1, seconds=2e-3), configured(2, seconds=1e-3)]
    assert invoke(*TINY, "--tune").exit_code == 0
    gpu.algorithms = [configured(1, seconds=1e-3), configured(2, seconds=0.99e-3)]
    done = invoke("--layers", "5,8,3", "--batch-size", "4", "--tune")
    assert "0 of 5 products are faster" in done.stdout
    (path,) = tables(tmp_path)
    chosen = [product["algorithm"]["ID"] for product in json.loads(path.read_text())["products"]]
    assert sorted(chosen) == [1] * 5 + [2] * 5


def test_tuning_leaves_out_what_has_no_algorithm(gpu: CublasLtStub, tmp_path: Path) -> None:
    gpu.no_epilogue = True
    done = invoke(*TINY, "--tune")
    assert done.exit_code == 0, done.output
    (path,) = tables(tmp_path)
    products = json.loads(path.read_text())["products"]
    assert [product["spec"]["epilogue"] for product in products] == ["none"] * PRODUCTS


def test_the_table_stands_in_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReferenceBackend, "gemm_table", "0123456789abcdef")
    done = CliRunner().invoke(app, ["train", "iris", "--epochs", "1", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["gemm_table"] == "0123456789abcdef"


def test_tuning_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    state = probing.CudaState(False, "CuPy is not installed", "pip install cupy", installed=False)
    monkeypatch.setattr(cuda, "probe_device", lambda index: state)
    done = invoke(*TINY, "--tune")
    assert done.exit_code == 2
    assert 'device "cuda": CuPy is not installed; pip install cupy' in done.stderr
