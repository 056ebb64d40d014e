"""Modules of loops as files in the user's cache, and the machine code of their loops.

Numba caches machine code between processes only for functions in real files, so a module is a file. Its name holds a
hash of its text and of Numba's version, and no file with another text is run. Machine code is in pickles that Numba
writes and reads; next to each is its digest, and a file that differs from what was written is recompiled.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from gpubp.backends.compiled.source import ModuleSource
from gpubp.backends.notices import say_once
from gpubp.backends.user_cache import user_cache

FORMAT = 2  # of the cache; 2: digests next to machine code
MOST_MODULES = 256


class NumbaState(NamedTuple):
    """Whether loops can be compiled, and if not, why; `summary` is one line."""

    usable: bool
    summary: str


@cache
def numba_state() -> NumbaState:
    """Import Numba, if it is installed. Never raises."""
    try:
        import numba
    except Exception as error:  # a broken installation may raise anything; Numba refuses unknown versions of NumPy
        absent = isinstance(error, ModuleNotFoundError) and error.name == "numba"
        why = "is not installed (pip install 'gpubp[cpu]')" if absent else f"cannot be imported: {error}"
        return NumbaState(False, f"loops not compiled, as numba {why}")
    return NumbaState(True, f"loops compiled by Numba {numba.__version__}")


class LoopsFailedError(Exception):
    """Loops cannot be compiled here, which has been reported; callers go on without."""


_failed = False  # from then on no loop is tried, since each may take seconds


def loops_failed() -> bool:
    """Whether the compiler has failed in this process."""
    return _failed


def _say_failed(error: BaseException) -> LoopsFailedError:
    global _failed
    _failed = True
    why = " ".join(str(error).split())[:200] or type(error).__name__
    say_once(f"loops cannot be compiled ({why}); NumPy runs what they would, as with device cpu-reference")
    return LoopsFailedError(why)


@cache
def load(source: ModuleSource) -> ModuleType:
    """The module with this text."""
    import numba

    digest = hashlib.sha256(f"{FORMAT} {numba.__version__}\n{source.text}".encode()).hexdigest()[:16]
    name = f"gpubp_{re.sub(r'[^A-Za-z0-9]+', '_', source.name)}_{digest}"
    path = folder() / f"{name}.py"
    try:
        if not path.is_file() or path.read_bytes() != source.text.encode():
            say_once(f"compiling loops for this processor: some seconds, once; they are kept in {folder()}")
            _remove_least_recently_used(path.parent)
            _write(path, source.text)
    except OSError as error:
        _say_not_kept(error)
    with suppress(OSError):
        os.utime(path, (time.time(), 0))  # access time: last use; Numba dates machine code by the modification time
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # Numba looks here for what cached machine code refers to
    try:
        exec(compile(source.text, path, "exec"), vars(module))  # not imported: byte code on disk may be damaged too
    except Exception as error:  # of the compiler, which a module's first decorators start
        raise _say_failed(error) from error
    return module


@cache
def address(module: ModuleType, name: str) -> int:
    """The address of a loop's machine code, which is compiled, or read from the cache, at the first call.

    Raises
    ------
    LoopsFailedError
        If the compiler fails.
    """
    import numba

    compiler = partial(numba.cfunc, "void(intp, intp, intp)", **module.LOOP)
    place: int = _compiled(module, name, compiler).address
    return place


def dispatcher(module: ModuleType, name: str, signature: str) -> Callable[..., None]:
    """Like `address`, for a loop that Python calls; other threads can run meanwhile."""
    import numba

    function: Callable[..., None] = _compiled(module, name, partial(numba.njit, signature, nogil=True))
    return function


def _compiled(module: ModuleType, name: str, compiler: Callable[..., Any]) -> Any:
    """A compiled function of a module: with the cache if that works, otherwise without."""
    function = getattr(module, name)
    try:
        files = _files_of(function)
        _remove_damaged(files())
        loop = compiler(cache=True)(function)
        _write_digests(files())
    except Exception as error:  # a full disk, files that Numba cannot read or write, or the compiler itself
        try:
            loop = compiler()(function)
        except Exception as failure:  # out of memory, a processor that LLVM does not know, …
            raise _say_failed(failure) from failure
        _say_not_kept(error)
    setattr(module, f"compiled_{name}", loop)  # keeps the code alive
    return loop


def _say_not_kept(error: Exception) -> None:
    say_once(f"{folder()}: compiled loops cannot be kept there ({error}), and are compiled anew by each process")


def _files_of(function: Callable[..., Any]) -> Callable[[], list[Path]]:
    """A function that lists the existing files in which Numba keeps a function's machine code."""
    from numba.core.caching import FunctionCache

    cache_of: Any = FunctionCache
    place = cache_of(function).cache_path
    start = f"{function.__module__}.{function.__name__}-"

    def files() -> list[Path]:
        names = os.listdir(place) if os.path.isdir(place) else []  # a glob would match every name
        return [Path(place, name) for name in names if name.startswith(start) and name.endswith((".nbi", ".nbc"))]

    return files


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _has_digest(path: Path) -> bool:
    """Whether a file matches the digest next to it."""
    digest = _digest_file(path)
    return digest.is_file() and digest.read_bytes() == hashlib.sha256(path.read_bytes()).hexdigest().encode()


def _remove_damaged(files: Iterable[Path]) -> None:
    """Remove files that do not match their digests, or have none."""
    for path in files:
        with suppress(FileNotFoundError):  # another process removed it
            if not _has_digest(path):
                path.unlink()


def _write_digests(files: Iterable[Path]) -> None:
    for path in files:
        with suppress(FileNotFoundError):  # another process removed it, and writes it again
            if not _has_digest(path):
                _write(_digest_file(path), hashlib.sha256(path.read_bytes()).hexdigest())


def _remove_least_recently_used(place: Path) -> None:
    """Make room for one more module; there is room for each registered record, and for others."""
    modules = sorted(place.glob("gpubp_*.py"), key=lambda path: path.stat().st_atime)
    for module in modules[: max(0, len(modules) - MOST_MODULES + 1)]:
        for path in (module, *place.glob(f"__pycache__/{module.stem}.*")):
            path.unlink(missing_ok=True)


@cache
def folder() -> Path:
    """``gpubp`` in the user's cache; if that is not writable, a folder that this process leaves behind."""
    path = user_cache()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        say_once(f"{path} cannot be written ({error.strerror}): loops are compiled anew by each process")
        return Path(tempfile.mkdtemp(prefix="gpubp-"))


def _write(path: Path, text: str) -> None:
    """Write `text` to `path` atomically. Numba dates machine code by the file's time: one for all writers of a text."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.utime(temporary, (0, 0))
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
