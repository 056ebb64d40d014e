"""Rows and figures of a part, and the file that keeps them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from gpubp.serialization import atomic_write

FILE = "gpu.json"
MEASURED, DRY_RUN = "measured", "dry run"
SECONDS = 330.0  # that a part may take, unless it says otherwise; what would begin later is left out, by name
UNFINISHED = "not finished"  # what stands in the file while a part is at work, and stays where its process is killed


class MixedError(Exception):
    """Figures of a dry run would stand beside measured ones."""


@dataclass(frozen=True)
class ResultRow:
    """One line of the table.

    Attributes
    ----------
    what, asked, measured : str
    met : bool or None
        None where nothing is asked, or nothing was measured.
    bar : str
        The bar of the account that it belongs to; empty where there is none.
    """

    what: str
    asked: str
    measured: str
    met: bool | None
    bar: str = ""


@dataclass
class Part:
    """What a part has found so far.

    Attributes
    ----------
    name : str
    dry_run : bool
    file : str
        Its name in the folder of results.
    seconds : float
        That it may take.
    rows : list of ResultRow
        The short table.
    figures : list of dict
        Everything behind it, as JSON keeps it.
    save : callable
        Puts what there is where it stays; called after every row.
    """

    name: str
    dry_run: bool
    file: str = FILE
    seconds: float = SECONDS
    rows: list[ResultRow] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    save: Callable[[], None] = lambda: None

    def left(self) -> float:
        """Seconds until the part should end."""
        return self.seconds - (time.monotonic() - self.started)

    def computed(self, what: str, asked: str, measured: str, met: bool, bar: str = "") -> None:
        """A row that holds wherever it is computed."""
        self._add(ResultRow(what, asked, measured, met, bar))

    def timed(self, what: str, asked: str, measured: str, met: bool | None, bar: str = "") -> None:
        """A row that a dry run cannot judge."""
        self._add(ResultRow(what, asked, measured, None if self.dry_run else met, bar))

    def skipped(self, what: str, reason: str, bar: str = "") -> None:
        """A row that says why there is no figure."""
        self._add(ResultRow(what, "", f"skipped: {reason}", None, bar))

    def failed(self, what: str, reason: str, bar: str = "") -> None:
        """A row of something that should have worked."""
        self._add(ResultRow(what, "", f"FAILED: {reason}", False, bar))

    def _add(self, row: ResultRow) -> None:
        if row.met is not None:
            row = replace(row, met=bool(row.met))  # a comparison of NumPy's numbers gives no bool of Python's
        self.rows.append(row)
        print(line(row), flush=True)
        self.save()


def line(row: ResultRow) -> str:
    """A row as it is printed."""
    mark = {True: "ok  ", False: "MISS", None: "    "}[row.met]
    return f"{mark} {row.what:<66} {row.asked:<9} {row.measured}"


def kind(dry_run: bool) -> str:
    """The word that stands with all figures of a run."""
    return DRY_RUN if dry_run else MEASURED


def load(folder: Path, dry_run: bool, file: str = FILE) -> dict[str, Any]:
    """The parts in a folder, by name.

    Raises
    ------
    MixedError
        If they are of the other kind than this run.
    """
    path = folder / file
    if not path.is_file():
        return {}
    try:
        parts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["parts"]
        others = [name for name, part in parts.items() if part["kind"] != kind(dry_run)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MixedError(
            f"{path} is not a file of these results ({error!r}); move it away, or use another --out"
        ) from None
    if others:
        raise MixedError(
            f"{path} holds {parts[others[0]]['kind']} figures ({', '.join(others)}), and this run's are "
            f"{kind(dry_run)}; the two are never mixed: use another --out"
        )
    return parts


@contextmanager
def saving(part: Part, folder: Path, machine: dict[str, str]) -> Iterator[None]:
    """What the part finds inside goes into the folder's file after every row, whole or not at all."""
    others = load(folder, part.dry_run, part.file)

    def save(broken_off: str) -> None:
        of_part = {
            "kind": kind(part.dry_run),
            "machine": machine,
            "date": time.strftime("%Y-%m-%d"),
            "seconds": round(time.monotonic() - part.started, 1),
            "broken off": broken_off,
            "rows": [asdict(row) for row in part.rows],
            "figures": part.figures,
        }
        write(folder / part.file, {**others, part.name: of_part})

    broken_off = ""
    part.save = partial(save, UNFINISHED)
    try:
        yield
    except BaseException as error:
        broken_off = f"{type(error).__name__}: {error}"
        raise
    finally:
        if part.rows or part.figures:
            save(broken_off)


def write(path: Path, parts: dict[str, Any]) -> None:
    """Put parts into a file of results."""
    text = json.dumps({"parts": parts}, indent=1, default=_plain)
    atomic_write(path, (text + "\n").encode())


def _plain(value: Any) -> Any:
    """A number of NumPy's as one of Python's; anything else as text, since no row may be lost for it."""
    return value.item() if hasattr(value, "item") else str(value)
