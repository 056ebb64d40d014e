"""One operation on the CUDA backend, and on the reference in float64 and in float32, and how far they may differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubp.backends import Backend, Epoch, LossScale
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.driver import Driver
from gpubp.backends.reference import ReferenceBackend
from support.kernel_variants import dtype
from support.machines import host

ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
LEAST = {"float64": 0.0, "float32": 2.0**-126, "float16": 2.0**-24, "bfloat16": 2.0**-126}  # below, all is rounding
FOREIGN = 7  # what lies between arrays

# How each network's elements lie in a buffer: behind how many foreign elements, and before how many foreign rows.
VIEWS = {"whole": (0, 0), "slices": (0, 3), "shifted": (1, 0)}
PLACES = (*VIEWS, "mixed")  # in the last, every third array is shifted


def rounded(values: Any, kind: str) -> Any:
    """As float64, the nearest numbers that the type can hold; beyond them, infinity."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(dtype(kind)).astype(np.float64)


def parameters_of(storage: str) -> str:
    """The type of θ, and of all arithmetic."""
    return "float64" if storage == "float64" else "float32"


def one_each(networks: int, low: float, high: float) -> Any:
    """(K,) float64, a number for each network."""
    return low + (high - low) * (np.arange(networks) + 0.7) / networks


class Machine:
    """A backend, and arrays on it that lie as a case wants them.

    Parameters
    ----------
    backend : Backend
    place : str
        One of `PLACES`.
    """

    def __init__(self, backend: Backend, place: str = "whole") -> None:
        self.backend, self.place = backend, place
        self.scales = isinstance(backend, CudaBackend) and backend.storage == np.float16
        self.buffers: list[tuple[Any, Any, Any]] = []  # on the machine, as it was filled, what is not foreign

    def put(self, values: Any, kind: Any = None) -> Any:
        """An array (K, …, n) of these values, in the backend's dtype unless another is named."""
        values = np.asarray(values)
        place = self.place if self.place in VIEWS else ("whole", "whole", "shifted")[len(self.buffers) % 3]
        before, rows_behind = VIEWS[place]
        size = values[0].size
        ours = slice(before, before + size)
        content = np.full((len(values), ours.stop + rows_behind * values.shape[-1]), FOREIGN, values.dtype)
        content[:, ours] = values.reshape(len(values), size)
        content = content.astype(self.backend.dtype if kind is None else kind)
        inside = np.zeros(content.shape, np.bool_)
        inside[:, ours] = True
        buffer = self.backend.from_host(content.copy())
        self.buffers.append((buffer, content, inside))
        return buffer[:, ours].reshape(values.shape)

    def room(self, shape: tuple[int, ...], kind: Any = None) -> Any:
        """An array to be filled."""
        kind = np.dtype(self.backend.dtype if kind is None else kind)
        return self.put(np.full(shape, FOREIGN if kind.kind in "iu" else np.nan), kind)

    def plain(self, values: Any) -> Any:
        """An array by itself, of the values' own type."""
        return self.backend.from_host(np.array(values))

    def epoch(
        self,
        cursor: int,
        first_step: int = 0,
        *,
        normalizer: Any,
        learning_rate: Any,
        scale: Any,
        order: Any = ((0,),),
        batch_size: int = 1,
    ) -> Epoch:
        """Tables (K, steps), and loss scaling by `scale` (K,) where the backend has it."""
        zeros = np.zeros(len(scale), np.int64)
        return Epoch(
            self.plain(np.array([cursor])),
            self.plain(np.full(len(scale), first_step)),
            batch_size,
            self.plain(np.array(order, np.int64)),
            self.plain(normalizer),
            self.plain(learning_rate),
            self.plain(np.zeros((*normalizer.shape, 2))),
            LossScale(*map(self.plain, (scale, zeros, zeros))) if self.scales else None,
        )

    def check_between(self) -> None:
        """What lies between the arrays is as it was."""
        for buffer, content, inside in self.buffers:
            assert (host(buffer)[~inside] == content[~inside]).all(), "memory beside an array was written"


@dataclass
class Results:
    """What an operation left on the CUDA backend, and on the reference in float64 and in float32, by name."""

    storage: str
    found: dict[str, Any]
    exact: dict[str, Any]
    single: dict[str, Any]

    def check(self, name: str, kept_in: str, magnitude: Any = None) -> None:
        """The error is at most twice the reference's in float32, a few units in the last place, and a rounding.

        In float64 it is 1e-12.

        Parameters
        ----------
        name : str
        kept_in : str
            The type that the result is rounded to in the end.
        magnitude : array, optional
            Of the terms that were summed, where that is not the result's own.
        """
        found, exact, single = self.found[name], self.exact[name], self.single[name]
        scale = np.abs(exact) if magnitude is None else magnitude
        if self.storage == "float64":
            bound = 1e-12 * scale + 1e-14 * np.abs(exact).max()
        else:
            bound = 2 * np.abs(single - exact).max() + 8 * ROUNDING["float32"] * scale + LEAST[kept_in]
            if kept_in == self.storage:
                bound = bound + 1.01 * ROUNDING[kept_in] * np.abs(exact)
        error = np.abs(found - exact)
        wrong = ~(error <= bound)
        if wrong.any():
            at = tuple(np.argwhere(wrong)[0].tolist())
            raise AssertionError(
                f"{name}{list(at)} is {found[at]!r}, exactly {exact[at]!r}; {wrong.sum()} of {wrong.size} differ, "
                f"at most by {error.max(where=np.isfinite(error), initial=0):.3g}, by how much they may at most is "
                f"{bound.max():.3g}"
            )

    def check_equal(self, name: str) -> None:
        """For what is not rounded."""
        np.testing.assert_array_equal(self.found[name], self.exact[name], name)


def on_all(driver: Driver, storage: str, place: str, run: Callable[[Machine], dict[str, Any]]) -> Results:
    """Call `run`, which returns arrays by name, on the CUDA backend and on the references."""
    machine = Machine(CudaBackend(driver, storage), place)
    found = {name: wide(host(array)) for name, array in run(machine).items()}
    machine.check_between()
    with np.errstate(all="ignore"):
        exact, single = (
            {name: wide(array) for name, array in run(Machine(ReferenceBackend(kind))).items()}
            for kind in (np.float64, np.float32)
        )
    return Results(storage, found, exact, single)


def wide(array: Any) -> Any:
    """Floating-point numbers as float64."""
    return array if array.dtype.kind in "biu" else array.astype(np.float64)
