"""Commands that an MPI launcher, such as ``mpiexec -n 4``, starts several times: how they form one training."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpubp.cli import run_folder
from gpubp.data.streamed import half_of_memory
from gpubp.errors import DeviceError, UsageError
from gpubp.training.ranks import ALONE, MpiRanks, Ranks, described, ranks_of

# Environment variables that launchers set: MPICH and its derivatives, Open MPI, MVAPICH, and users of PMIx.
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "PMIX_RANK")
INSTALL = "pip install 'gpubp[mpi]'"
TRAINS = "train"  # the command that several processes run together


def joined() -> Ranks:
    """The processes that were started together with this one.

    Raises
    ------
    DeviceError
        If a launcher started several and MPI cannot connect them; the message says why, and the remedy.
    """
    size = _told(SIZES)
    if size == 1 or (size is None and _told(RANKS) is None):
        return ALONE
    MPI = _mpi(size)
    if size is not None and MPI.COMM_WORLD.Get_size() != size:
        library = MPI.Get_library_version().partition("\n")[0].strip(" \0")
        beside = Path(sys.executable).with_name("mpiexec")
        remedy = f"start it by {beside}" if beside.exists() else f"{INSTALL}, and take the mpiexec that comes with it"
        raise DeviceError(
            f"a launcher started {size} processes, but the MPI that mpi4py uses here ({library}) knows of "
            f"{MPI.COMM_WORLD.Get_size()}: they are of different MPIs (mpiexec is {shutil.which('mpiexec')}); {remedy}"
        )
    ranks = ranks_of(MPI.COMM_WORLD)
    if ranks.rank > 0:
        logging.disable(logging.WARNING)  # rank 0 reports it
    return ranks


def speaks() -> bool:
    """Whether this process prints: a single process does, and the first of several."""
    return not _told(RANKS)


def check(ranks: Ranks, command: str | None) -> None:
    """Refuse commands that several processes would run independently, interfering with each other."""
    if ranks.size > 1 and command != TRAINS:
        raise UsageError(
            f"{ranks.size} processes run gpubp {command}, which is for one; start it without mpiexec. Several train a "
            f"network together: mpiexec -n {ranks.size} gpubp {TRAINS}"
        )


def device_of(ranks: Ranks, device: str) -> str:
    """The device of a rank, given the command line's device for all: each takes a GPU of its own.

    Raises
    ------
    DeviceError, UsageError
        If there are too few, or a single one is named for all.
    """
    if not isinstance(ranks, MpiRanks) or device.startswith("cpu"):
        return device
    if ":" in device:
        raise UsageError(f"--device {device} is one GPU for {ranks.size} ranks; --device cuda gives each its own")
    local = ranks.alike()
    from gpubp.backends.cuda.nccl import own_device

    index = own_device(local.index(ranks.rank), len(local))
    if index is None:
        return device  # "auto" is then the CPU, and all others report what is missing
    return f"{'cuda' if device in ('auto', 'gpu') else device}:{index}"


def memory_limit(ranks: Ranks, asked: int | None) -> int | None:
    """Bytes of memory for each rank; by default its share of half of the machine's."""
    together = len(ranks.alike())
    return half_of_memory() // together if asked is None and ranks.size > 1 else asked


@contextmanager
def claimed(ranks: Ranks, folder: Path | None, name: str, size: int = 0) -> Iterator[Path]:
    """Like `run_folder.claimed`, done by the first rank for all."""
    if ranks.rank > 0:
        yield Path(ranks.texts("")[0])
        return
    with run_folder.claimed(folder, name, size) as chosen:
        ranks.texts(str(chosen))
        yield chosen


def _told(names: tuple[str, ...]) -> int | None:
    """The first number in the environment under one of these names."""
    return next((int(value) for name in names if (value := os.environ.get(name, "")).isdecimal()), None)


def _mpi(size: int | None) -> Any:
    """mpi4py.MPI, which joins the processes when it is imported."""
    started = f"a launcher started {size or 'several'} processes, but"
    try:
        with warnings.catch_warnings():  # about a mismatched launcher, which is reported more precisely
            warnings.simplefilter("ignore")
            from mpi4py import MPI
    except ModuleNotFoundError:
        raise DeviceError(f"{started} mpi4py is not installed for {sys.executable}; {INSTALL}") from None
    except (ImportError, RuntimeError, OSError) as error:
        reason = " / ".join(described(error).splitlines()[:2])  # the error, and the first place searched
        raise DeviceError(f"{started} mpi4py finds no MPI to load ({reason}); {INSTALL}") from error
    return MPI
