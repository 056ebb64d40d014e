"""Bank conflicts of training on the chip, counted on the host; kernels/README.md shows them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.source import KernelSource, folder, kernel_source
from support.cuda_host import HostDriver
from support.cuda_host.bank_conflicts import conflicts, saying_its_accesses
from support.machines import host_driver
from support.on_chip_checks import Training

pytestmark = pytest.mark.backends
# Of whole squares of sums: else lanes that take no part in one count their accesses differently from the others.
NETWORKS = (64, 64, 64, 16), (48, 112, 16), (16, 32, 96, 16)
PRODUCTS = {"float32": "on_chip_threads.cuh", "tf32": "on_chip_tensor_cores.cuh"}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, ...], dict[str, Counter[int]]]:
    """Of each network, by what it is: how many accesses of a step took how many times as long as without a conflict."""

    def saying(name: str, *args: Any, **what: Any) -> KernelSource:
        source = kernel_source(name, *args, **what)
        return saying_its_accesses(source) if name == "train_on_chip" else source

    monkeypatch.setattr("gpubp.backends.cuda.backend.kernel_source", saying)
    driver = HostDriver(host_driver().toolchain.folder)
    turns_of: dict[tuple[int, ...], dict[str, Counter[int]]] = {}
    for sizes in NETWORKS:
        of_network = turns_of[sizes] = {what: Counter() for what in (*PRODUCTS, "else")}
        for precision, products in PRODUCTS.items():
            training = Training(
                CudaBackend(driver, precision), sizes=sizes, batch=32, rows=32, activation="relu", options=False
            )
            assert training.way == "on-chip"
            training.run()
            for place, turns in conflicts(driver.toolchain).items():
                of_network[precision if place.startswith(products) else "else"] += turns
    return turns_of


def said(turns: Counter[int]) -> str:
    """The most, and how many times as long all took."""
    return f"{max(turns)}-way, {sum(way * count for way, count in turns.items()) / turns.total():.2f}"


def test_no_access_on_the_chip_waits_for_more_than_one_other(counted: Any) -> None:
    rows = []
    for sizes, turns in counted.items():
        assert min(turns[what].total() for what in turns) > 100, "it counts nothing"
        assert 3.9 < turns["float32"].total() / turns["tf32"].total() < 4.2, "benchmarks/results/README.md: a quarter"
        assert max(turns["tf32"]) == 1 and max(turns["float32"]) <= 2 and max(turns["else"]) <= 2
        rows.append(f"| {' | '.join(['-'.join(map(str, sizes)), *map(said, turns.values())])} |")
    table = "\n".join(rows)
    assert table in (folder() / "README.md").read_text(encoding="utf-8"), f"kernels/README.md has other rows:\n{table}"


def test_a_conflict_is_counted(counted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows are an even number of words long."""
    monkeypatch.setattr("gpubp.backends.cuda.on_chip.row_length", lambda n, itemsize: -(-n // 32) * 32)
    driver = HostDriver(host_driver().toolchain.folder)
    Training(CudaBackend(driver, "tf32"), sizes=NETWORKS[0], batch=32, rows=32, activation="relu", options=False).run()
    operands = conflicts(driver.toolchain)
    assert max(max(turns) for place, turns in operands.items() if place.startswith(PRODUCTS["tf32"])) == 4
