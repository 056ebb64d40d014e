"""A data set for several processes: on each machine, one of them reads and encodes it, and all use the same memory.

Arrays are in anonymous memory, and rows that do not fit into memory are in an unnamed scratch file; the other processes
open both through the process that made them, so nothing is left behind however the processes end.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from gpubp.backends.notices import say_once
from gpubp.checks import SparseRows
from gpubp.data.prepare import PreparedData
from gpubp.scratch import ScratchRows

PARTS = ("train", "validation", "test")
SAID = ("task", "loss", "n_inputs", "n_outputs", "preprocessing", "classes", "notes")  # of PreparedData, as JSON
ALIGNMENT = 64  # bytes of a cache line
OF_MATRIX = ("data", "indices", "indptr")


class Processes(Protocol):
    """What is needed from the processes that train together; `gpubp.training.ranks.Ranks` provides it."""

    rank: int

    def alike(self, text: str) -> list[int]:
        """The processes on this machine that pass the same text as this one."""

    def texts(self, text: str) -> list[str]:
        """The texts that the processes pass, in process order."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in any of them."""


Prepare = Callable[[], tuple[PreparedData, dict[str, Any]]]


def prepared_once(ranks: Processes, asked: str, prepare: Prepare) -> tuple[PreparedData, dict[str, Any]]:
    """The result of `prepare`, which one rank calls for all ranks on its machine with the same request.

    Parameters
    ----------
    ranks : Processes
    asked : str
        Which data are read and how: ranks that differ in it read for themselves.
    prepare : callable
        Returns encoded data, and further facts about them, JSON-serializable.

    Returns
    -------
    PreparedData
        Its arrays exist only once in the machine's memory.
    dict
    """
    together = ranks.alike(asked)
    reads = ranks.rank == together[0]
    made = prepare() if reads else None
    about = ""
    with ExitStack() as until_all_have_it:
        if made is not None and len(together) > 1 and (file := _memory(made[0])) is not None:
            until_all_have_it.enter_context(file)
            layout = _layout(made[0])
            about = json.dumps(_described(*made, file, layout))
            in_memory: dict[str, Any] = _mapped(file, layout)
            made = replace(made[0], **in_memory), made[1]
        about = ranks.texts(about)[together[0]]
        if made is None and about:
            made = _opened(json.loads(about))
        alone = ranks.any(made is None)
    if alone:
        say_once("memory cannot be shared among the ranks here: each reads all rows, and holds them by itself")
    made = prepare() if made is None else made
    _give_back_memory()
    return made


def _described(
    prepared: PreparedData, known: dict[str, Any], memory: BinaryIO, layout: Mapping[str, Any]
) -> dict[str, Any]:
    """What other processes need to open the data, JSON-serializable."""
    stream = prepared.stream
    return {
        "said": {name: getattr(prepared, name) for name in SAID},
        "known": known,
        "memory": _lent(memory),
        "layout": layout,
        "stream": None if stream is None else [stream.about(), [_lent(file) for file in stream.files]],
    }


def _opened(about: Mapping[str, Any]) -> tuple[PreparedData, dict[str, Any]] | None:
    """The data that another process shares; None if it cannot be reached."""
    stream, memory = None, _borrowed(about["memory"])
    if memory is None:
        return None
    if about["stream"] is not None:
        rows, lent = about["stream"]
        files = [file for one in lent if (file := _borrowed(one)) is not None]
        if len(files) < len(lent):
            return None
        stream = ScratchRows.of_files(files, rows)
    with memory:
        parts: dict[str, Any] = {**dict.fromkeys(PARTS), **_mapped(memory, about["layout"])}
    return PreparedData(**about["said"], **parts, stream=stream), about["known"]


# -- arrays in memory without a name ------------------------------------------------------------------------


def _arrays_of(prepared: PreparedData) -> dict[str, list[NDArray[Any]]]:
    """The arrays of each part: X, or the arrays of its sparse matrix, and y."""
    parts = {name: part for name in PARTS if (part := getattr(prepared, name)) is not None}
    return {
        name: [*(getattr(X.matrix, attribute) for attribute in OF_MATRIX), y] if isinstance(X, SparseRows) else [X, y]
        for name, (X, y) in parts.items()
    }


def _layout(prepared: PreparedData) -> dict[str, Any]:
    """The layout of the arrays in shared memory: the shape of X, and start, shape and type of each array."""
    start, layout = 0, dict[str, Any]()
    for name, arrays in _arrays_of(prepared).items():
        places = []
        for array in arrays:
            places.append([start, array.shape, array.dtype.str])
            start += _room(array)
        layout[name] = {"shape": getattr(prepared, name)[0].shape, "arrays": places}
    return layout


def _room(array: NDArray[Any]) -> int:
    return -(-array.nbytes // ALIGNMENT) * ALIGNMENT


def _memory(prepared: PreparedData) -> BinaryIO | None:
    """The arrays, one after the other, in memory that other processes can map; None if the system has none."""
    try:
        file = os.fdopen(os.memfd_create("gpubp"), "r+b")
    except (AttributeError, OSError):  # another system, or a container that forbids it
        return None
    for array in itertools.chain.from_iterable(_arrays_of(prepared).values()):
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        file.write(bytes(_room(array) - array.nbytes))
    file.write(bytes(ALIGNMENT))  # an empty file cannot be mapped
    file.flush()
    return file


def _mapped(file: BinaryIO, layout: Mapping[str, Any]) -> dict[str, tuple[Any, NDArray[Any]]]:
    """The parts of a data set, mapped from a file."""
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # copy-on-write

    def part(shape: Sequence[int], arrays: Sequence[tuple[int, Sequence[int], str]]) -> tuple[Any, NDArray[Any]]:
        *inputs, y = (np.ndarray(tuple(size), dtype, memory, start) for start, size, dtype in arrays)
        if len(inputs) == 1:
            return inputs[0], y
        from scipy.sparse import csr_matrix

        return SparseRows(csr_matrix(tuple(inputs), tuple(shape), copy=False)), y

    return {name: part(**about) for name, about in layout.items()}


def _give_back_memory() -> None:
    """Make the C library return the memory of raw rows, which it would keep although training does not need it."""
    gc.collect()  # tables and their columns form cycles
    with suppress(AttributeError, OSError, TypeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


# -- files without a name -----------------------------------------------------------------------------------


def _lent(file: BinaryIO) -> list[Any]:
    """What another process on this machine needs to open a file that this process has open."""
    return [os.getpid(), file.fileno(), _identity(file)]


def _borrowed(lent: Sequence[Any]) -> BinaryIO | None:
    """A file that another process has open; None if it cannot be reached, or is a different one."""
    process, number, identity = lent
    with suppress(OSError):
        file = open(f"/proc/{process}/fd/{number}", "r+b")
        if _identity(file) == identity:
            return file
        file.close()
    return None


def _identity(file: BinaryIO) -> list[int]:
    about = os.fstat(file.fileno())
    return [about.st_dev, about.st_ino, about.st_size]
