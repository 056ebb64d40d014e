"""Modules of loops as files in the user's cache, and the machine code of their loops.

Numba keeps machine code between processes for functions of real files only, so a module is a file. Its name
holds a hash of its text and of Numba's version, and no file with another text is run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from gpubp.backends.compiled.source import ModuleSource
from gpubp.backends.notices import say_once
from gpubp.backends.user_cache import user_cache


class NumbaState(NamedTuple):
    """Whether loops can be compiled, and why not; `summary` is one line."""

    usable: bool
    summary: str


@cache
def numba_state() -> NumbaState:
    """Import Numba, if it is installed. Never raises."""
    try:
        import numba
    except Exception as error:  # a broken installation may raise anything; Numba refuses a NumPy it does not know
        absent = isinstance(error, ModuleNotFoundError) and error.name == "numba"
        why = "is not installed (pip install 'gpubp[cpu]')" if absent else f"cannot be imported: {error}"
        return NumbaState(False, f"loops not compiled, as numba {why}")
    return NumbaState(True, f"loops compiled by Numba {numba.__version__}")


@cache
def load(source: ModuleSource) -> ModuleType:
    """The module of this text."""
    import numba

    digest = hashlib.sha256(f"{numba.__version__}\n{source.text}".encode()).hexdigest()[:16]
    name = f"gpubp_{re.sub(r'[^A-Za-z0-9]+', '_', source.name)}_{digest}"
    path = folder() / f"{name}.py"
    if not (path.is_file() and path.read_text(encoding="utf-8") == source.text):
        say_once(f"compiling loops for this processor: some seconds, once; they are kept in {folder()}")
        _write(path, source.text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Numba looks there for what cached machine code refers to
    spec.loader.exec_module(module)
    return module


@cache
def address(module: ModuleType, name: str) -> int:
    """Where the machine code of a loop lies; it is compiled, or read from the cache, at the first call."""
    import numba

    loop: Any = numba.cfunc("void(intp, intp, intp)", cache=True, **module.LOOP)(getattr(module, name))
    setattr(module, f"compiled_{name}", loop)  # keeps the code alive
    place: int = loop.address
    return place


@cache
def folder() -> Path:
    """``gpubp`` in the user's cache; where that cannot be written, a folder that this process leaves behind."""
    path = user_cache()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        say_once(f"{path} cannot be written ({error.strerror}): loops are compiled anew by each process")
        return Path(tempfile.mkdtemp(prefix="gpubp-"))


def _write(path: Path, text: str) -> None:
    """Put `text` at `path`, whole. Numba dates machine code by the file's time: one for all who write this text."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    os.utime(temporary, (0, 0))
    os.replace(temporary, path)
