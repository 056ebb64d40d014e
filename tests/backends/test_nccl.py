"""Sums over GPUs through NCCL; as stubs for what needs several, and by one rank on a device."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from gpubp import DeviceError, RankError
from gpubp.backends.cuda import nccl
from gpubp.training.ranks import ranks_of
from support.machines import host
from support.nccl_stubs import Nccl
from support.thread_ranks import ThreadComm, on_ranks


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> tuple[Nccl, dict[str, Any]]:
    """NCCL, and what CuPy says of the devices: the bus of each rank's, by its turn."""
    module, devices = Nccl(), {"buses": ["0000:01", "0000:02"], "asked": 0}

    def bus(index: int) -> str:
        devices["asked"] += 1
        return devices["buses"][devices["asked"] - 1]

    runtime = types.SimpleNamespace(deviceGetPCIBusId=bus, getDeviceCount=lambda: 2)
    cuda = types.ModuleType("cupy.cuda")
    cuda.nccl, cuda.runtime = module, runtime
    cuda.Device = lambda: types.SimpleNamespace(id=0)
    cupy = types.ModuleType("cupy")
    cupy.cuda = cuda
    for name, stubbed in (("cupy", cupy), ("cupy.cuda", cuda), ("cupy.cuda.nccl", module)):
        monkeypatch.setitem(sys.modules, name, stubbed)
    return module, devices


class DriverStub:
    """A driver, as far as sums ask for it; what is joined is noted."""

    def __init__(self) -> None:
        self.inside, self.joined = False, 0

    @contextmanager
    def collective(self, array: Any) -> Iterator[int]:
        self.inside = True
        yield 77
        self.inside = False

    def join_collectives(self) -> None:
        assert not self.inside
        self.joined += 1


ARRAY = types.SimpleNamespace(dtype=np.dtype(np.float32), data=types.SimpleNamespace(ptr=1000), size=12)


def summed(communicator: ThreadComm) -> None:
    driver = DriverStub()
    nccl.NcclSum(ranks_of(communicator), driver)(ARRAY)
    assert driver.joined == 1


def test_a_sum_is_one_all_reduce_in_place_on_the_stream_of_sums(stub):
    module, _ = stub
    assert on_ranks(2, summed) == [None, None]
    assert sorted(call[1:] for call in module.calls if call[0] == "start") == [(2, 0), (2, 1)]
    assert module.calls.count((1000, 1000, 12, 7, 0, 77)) == 2


def test_a_process_that_fails_is_heard_before_a_device_waits_for_it(stub):
    def work(communicator: ThreadComm) -> None:
        with ranks_of(communicator) as ranks:
            add_up = nccl.NcclSum(ranks, DriverStub())
            if ranks.rank == 1:
                raise MemoryError
            add_up(None)

    there, here = on_ranks(2, work)
    assert isinstance(there, RankError) and isinstance(here, MemoryError)


def test_sums_that_wait_for_a_process_that_fails_beside_them_are_ended(stub):
    def work(communicator: ThreadComm) -> None:
        with ranks_of(communicator) as ranks:
            add_up = nccl.NcclSum(ranks, DriverStub())
            with add_up.beside([ARRAY], [ARRAY]):
                if ranks.rank == 1:
                    raise MemoryError
                add_up.begin(ARRAY)

    there, here = on_ranks(2, work)
    assert isinstance(there, RankError) and isinstance(here, MemoryError)
    for thread in threading.enumerate():
        if thread.name == "NCCL abort":
            thread.join()
    called = [call[0] for call in stub[0].calls]
    assert (called.count("abort"), called.count(ARRAY.data.ptr)) == (2, 1)


@pytest.mark.parametrize(
    "version, all_capture, overlapping", [(22707, True, True), (2804, True, False), (22707, False, False)]
)
def test_sums_are_begun_within_steps_where_all_capture_them(stub, monkeypatch, version, all_capture, overlapping):
    monkeypatch.setattr(Nccl, "get_version", lambda self: version)

    def work(communicator: ThreadComm) -> Any:
        driver = types.SimpleNamespace(has_nccl=lambda: True)
        return nccl.nccl_sum(ranks_of(communicator), driver, captured=all_capture or communicator.rank == 0)

    assert [add_up.overlapping for add_up in on_ranks(2, work)] == [overlapping] * 2


def test_there_is_no_sum_where_nccl_is_missing_on_one(stub):
    def work(communicator: ThreadComm) -> Any:
        driver = types.SimpleNamespace(has_nccl=lambda: communicator.rank == 0)
        return nccl.nccl_sum(ranks_of(communicator), driver, captured=True)

    assert on_ranks(2, work) == [None, None] and not stub[0].calls


def test_ranks_on_one_device_are_refused(stub):
    stub[1]["buses"] = ["0000:01", "0000:01"]
    for error in on_ranks(2, summed):
        assert isinstance(error, DeviceError) and "ranks 0 and 1 are on one device (" in str(error)


def test_what_nccl_says_is_said(stub, monkeypatch):
    monkeypatch.setattr(Nccl, "get_unique_id", lambda self: bytes(128))
    for error in on_ranks(2, summed):
        assert isinstance(error, DeviceError) and "NCCL_ERROR_INVALID_ARGUMENT" in str(error)


def test_each_process_of_a_machine_gets_a_device(stub, monkeypatch):
    monkeypatch.setattr(nccl, "probe", lambda: types.SimpleNamespace(usable=True))
    assert [nccl.own_device(place, 2) for place in range(2)] == [0, 1]
    with pytest.raises(DeviceError, match="3 processes on a machine with 2 GPUs"):
        nccl.own_device(0, 3)
    monkeypatch.setattr(sys.modules["cupy"].cuda.runtime, "getDeviceCount", lambda: 1)
    assert nccl.own_device(1, 2) == 0  # its launcher shows each process one
    monkeypatch.setattr(nccl, "probe", lambda: types.SimpleNamespace(usable=False))
    assert nccl.own_device(0, 2) is None


@pytest.mark.backends
@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["cuda-float64", "cuda-float32"], indirect=True)
def test_one_rank_on_a_device_adds_nothing(backend):
    if not nccl.available():
        pytest.skip("NCCL is missing; pip install 'gpubp[nccl13]'")
    backend.driver.use()
    array = backend.from_host(np.arange(12.0).reshape(3, 4), backend.dtype)
    alone = types.SimpleNamespace(rank=0, size=1, texts=lambda text: [text], meet=lambda: None)
    nccl.NcclSum(alone, backend.driver)(array)
    np.testing.assert_array_equal(host(array), np.arange(12.0).reshape(3, 4))
