"""``gpubp bench`` and its measuring core: what is timed, what is refused, and what a row says that has no figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import compiled_backend, host_driver
from typer.testing import CliRunner

from gpubp import backends, bench, bench_advice, bench_steps
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.reference import ReferenceBackend
from gpubp.bench_report import Report, Row
from gpubp.bench_steps import BareGemms, Network, Steps, displacements, error, sample, verified_rows
from gpubp.cli import app
from gpubp.errors import DeviceError
from gpubp.timing import interleaved, ratio, spread, turns

NETWORK = Network((5, 7, 3), 4, 2)
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


def test_functions_take_turns_and_the_first_rounds_do_not_count() -> None:
    called: list[str] = []
    seconds = interleaved({name: lambda name=name: called.append(name) for name in "ab"}, rounds=3, warm_up=2)
    assert "".join(called) == "ab" * 5
    assert [len(values) for values in seconds.values()] == [3, 3]


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
    assert NETWORK.flops_per_row == 2 * (forward + bp4 + bp2)
    assert NETWORK.name == "5-7-3 b4"
    assert Network((5, 7, 3), 4, 2, "tanh").name == "5-7-3 b4 tanh"


class Counting(ReferenceBackend):
    """Counts multiplications of products."""

    flops = 0

    def matmul(self, a: Any, b: Any, out: Any, *, transpose_a: bool = False, transpose_b: bool = False) -> None:
        self.flops += 2 * out.size * a.shape[1 if transpose_a else 2]
        super().matmul(a, b, out, transpose_a=transpose_a, transpose_b=transpose_b)


@pytest.mark.parametrize("network", [NETWORK, Network((5, 3), 4, 2), Network((3, 4, 4, 1), 2, 3)])
def test_the_floor_is_the_products_of_a_step(network: Network) -> None:
    for make in (Steps, BareGemms):
        backend = Counting(np.float32)
        repeated = make(network, backend)
        backend.flops = 0
        repeated.run(5)
        repeated.wait()
        assert backend.flops == 5 * network.batch_size * network.flops_per_row


def test_steps_begin_again_after_the_last_batch() -> None:
    once, by_parts = (Steps(Network((5, 7, 3), 4, 3), ReferenceBackend(np.float64)) for _ in range(2))
    once.run(7)
    for taken in (2, 1, 4):
        by_parts.run(taken)
    for a, b in zip(once.weights(), by_parts.weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert by_parts.at == 1


def test_long_verifications_are_cut_to_some_rows() -> None:
    assert verified_rows(NETWORK) == 4
    assert verified_rows(Network((4096, 4096, 4096), 4096, 2)) < 1000


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_what_steps_add_is_compared_with_float64(optimizer: str, activation: str) -> None:
    network = Network((5, 7, 3), 4, 2, activation)
    expected = displacements(network, optimizer, rows=3)
    steps = Steps(network, compiled_backend("float32"), optimizer)
    steps.run(2, rows=3)
    tensors = steps.weights()
    assert error(network, [sample(tensor) for tensor in tensors], expected) < 0.01
    steps.run(1)
    assert error(network, [sample(tensor) for tensor in steps.weights()], expected) > 0.1


def test_figures_of_a_row() -> None:
    row = Row("compiled", "float32", seconds=[2e-3, 4e-3, 3e-3], floor=[1e-3, 1e-3, 1.5e-3])
    assert row.measured
    assert row.of_floor == (0.5, 0.375, 0.5)
    report = Report(NETWORK, "adam", {}, [row])
    assert report.gflops(row) == pytest.approx(NETWORK.flops_per_row * 4 / 3e-3 / 1e9)
    row.reason = "wrong"
    assert not row.measured


# -- rows ---------------------------------------------------------------------------------------------------


class Wrong(ReferenceBackend):
    def bias_activation(self, activation: Any, z: Any, b: Any, a: Any, *rest: Any) -> None:
        super().bias_activation(activation, z, b, a, *rest)
        a *= 1.5


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
    report = bench.bench(NETWORK)
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
    report = bench.bench(NETWORK)
    assert [row.reason for row in report.rows] == ["gone"] * 4
    assert report.advice == ["nothing could be measured; gpubp doctor says more"]


def test_a_network_that_diverges_has_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "open_backend", opened({"cuda": failing(DeviceError("gone"))}))
    monkeypatch.setattr(Steps, "diverged", lambda steps: True)
    assert all("diverged" in row.reason or row.reason == "gone" for row in bench.bench(NETWORK).rows)


def test_without_numba_the_compiled_row_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = ReferenceBackend(np.float32, "asked for; numba is not installed")
    monkeypatch.setattr(bench, "get_backend", lambda device, precision: reference)
    assert bench.open_backend("reference", "float32") is reference
    with pytest.raises(DeviceError, match="numba is not installed"):
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
    report = bench.bench(NETWORK)
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
    found = bench_advice._from(dict.fromkeys((1, 8, 32), NETWORK), lambda network: next(left), "batch")
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
