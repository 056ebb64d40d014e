"""Arrays and records to disk and back: safetensors with a JSON header, never pickle.

Nothing is overwritten in place: a file is written next to its target, flushed to disk and renamed over it, so a reader
sees either the old file or the new one, whatever happens in between. A digest in the file tells a reader whether the
file is as it was written.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from gpubp.backends.notices import say_once
from gpubp.errors import DataError, UsageError

try:
    import fcntl
except ImportError:  # not on Windows, where leftovers stay
    fcntl = None  # type: ignore[assignment]

FORMAT = 3  # of model files; a reader refuses newer ones. 2: the schema of the columns, for tables. 3: a digest;
# encodings of numbers
HEADER, DIGEST = "gpubp", "gpubp_sha256"  # what the header of a file calls our metadata, and their digest
DTYPES = {"float64": "F64", "float32": "F32", "int64": "I64", "bool": "BOOL"}  # as safetensors calls them
LONGEST_START = 240  # bytes of a name that a temporary file's name keeps; systems allow 255
_CHUNK = 1 << 22  # bytes of an array hashed at a time, which may have to be copied
_LARGE = 1 << 24  # bytes of a file; from this size on, hashing takes as long as the disk does
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)  # where a folder cannot be flushed

MODEL_FILE = "model.safetensors"  # the file name of a network in a folder of its own
CLASS_TYPE = re.compile(r"[<>|=]?[biufUO]\d{0,9}")  # as NumPy spells them
LONGEST_PADDING = 4096  # characters by which the type of text classes may be wider than the longest
NETWORK = {  # as `gpubp.stack.Stack.describe` gives it, except sizes and seeds, which are checked like a user's
    "activations": [str],
    "loss": str,
    "output_activation": str,
    "precision": str,
    "models": int,
}
_KINDS = {str: "text", bool: "true or false", int: "a whole number", float: "a finite number", None: "null"}


def checked_path(path: Any, name: str = "path") -> Path:
    """A path on the disk.

    Raises
    ------
    UsageError
        If it is neither a string nor a path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"{name}={path!r} does not fit; use a path, as text or pathlib's")
    return Path(path)


def model_file(path: str | Path) -> Path:
    """The file of a network: `path` itself, or the one in a folder that "gpubp train" wrote.

    Raises
    ------
    DataError
        If there is none.
    """
    path = checked_path(path)
    if os.path.isdir(path):  # pathlib would raise on names that are too long
        if not (path / MODEL_FILE).is_file():
            raise DataError(f'{path}: there is no {MODEL_FILE} in this folder; give one that "gpubp train" wrote')
        return path / MODEL_FILE
    if not os.path.exists(path):
        raise DataError(f'{path}: no such file or folder; give the folder that "gpubp train" wrote')
    return path


@contextmanager
def atomic_writer(path: str | Path, size: int) -> Iterator[BinaryIO]:
    """A file to write `size` bytes to, which is at `path` once the block has succeeded, whole or not at all.

    A symbolic link stays one: its target is written. An existing file keeps its permissions. Leftovers of killed
    writers to this path are removed.

    Raises
    ------
    UsageError
        If the folder cannot be written to, or the disk is full; an earlier file at `path` is untouched.
    """
    target = Path(os.path.realpath(checked_path(path)))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent, re.escape(_start_of(target.name)))
        temporary, file = _locked_file(target)
        with file:
            try:
                if target.is_file():
                    with suppress(OSError):  # some file systems have no permissions to change
                        os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
                yield file
                file.flush()
                os.fsync(file.fileno())
                if fcntl is None:  # an open file cannot be renamed on such systems
                    file.close()
                os.replace(temporary, target)  # while the lock is held, so that no other process removes it
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
        sync_folder(target.parent)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}; {size:,} bytes needed)") from error


def atomic_write(path: str | Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all, as `atomic_writer` does."""
    with atomic_writer(path, len(data)) as file:
        file.write(data)


def sweep(folder: Path, name: str) -> None:
    """Remove what killed writers left in a folder, of files and folders whose names match the pattern `name`.

    A writer holds a lock on its file or folder for as long as it lives, so writers still at work are left alone.
    """
    leftover = re.compile(rf"\.{name}\.[0-9a-f]{{8}}")
    for path in [Path(entry.path) for entry in os.scandir(folder) if leftover.fullmatch(entry.name)]:
        remove_unlocked(path, shutil.rmtree if path.is_dir() and not path.is_symlink() else Path.unlink)


def remove_unlocked(path: Path, remove: Callable[[Path], object]) -> None:
    """Remove a file or folder if nobody holds a lock on it, and it can be removed."""
    if fcntl is None:
        return
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(path)
        finally:
            os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder from being removed by `remove_unlocked`, where the system has locks."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # where a file system has no locks, nobody else can take one either
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A new folder next to `target`, to be filled and renamed; what is left of it when the block ends is removed.

    Leftovers of killed writers to `target` are removed too.
    """
    sweep(target.parent, re.escape(_start_of(target.name)))
    while True:
        folder = _beside(target)
        folder.mkdir()
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            with suppress(FileNotFoundError):  # another process removed it before it was locked
                stack.enter_context(locked(folder))
            if folder.exists():
                yield folder
                return


def _beside(target: Path) -> Path:
    """A new name next to `target` that `sweep` recognizes; file names have a length limit."""
    return target.parent / f".{_start_of(target.name)}.{secrets.token_hex(4)}"


def _start_of(name: str) -> str:
    """As much of a name as leaves room for what makes it unique."""
    return os.fsdecode(os.fsencode(name)[:LONGEST_START])


def save(path: str | Path, tensors: dict[str, NDArray[Any]], metadata: dict[str, Any]) -> None:
    """Write named tensors and a JSON-serializable dict as one safetensors file, with a digest of both."""
    ordered = {name: np.ascontiguousarray(tensors[name]) for name in _order(tensors)}
    text = json.dumps({"format": FORMAT, **metadata}, allow_nan=False)
    unknown = "0" * hashlib.sha256().digest_size * 2
    header = _header(ordered, {HEADER: text, DIGEST: unknown})
    size = len(header) + sum(tensor.nbytes for tensor in ordered.values())
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(_digest, text, ordered)  # in parallel with writing
        with atomic_writer(path, size) as file:
            file.write(header)
            for tensor in ordered.values():
                file.write(_bytes_of(tensor))
            if size >= _LARGE:  # flush now instead of waiting for the digest, which adds only a few bytes
                file.flush()
                os.fsync(file.fileno())
            file.seek(header.index(unknown.encode()))
            file.write(digest.result().encode())


def header(path: str | Path) -> dict[str, Any]:
    """Read a file's metadata; empty for a file that `save` did not write."""
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):  # reading a pipe would block
        return {}
    try:
        with safe_open(path, framework="numpy") as file:
            saved = json.loads((file.metadata() or {}).get("gpubp", "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError):
        return {}
    return saved if isinstance(saved, dict) else {}


def load(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `save` wrote.

    Raises
    ------
    DataError
        If the file is missing, is not a safetensors file, was not written by gpubp, has a newer format, or differs from
        what was written.
    """
    from safetensors import SafetensorError, safe_open

    path = checked_path(path)
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file; a model is a .safetensors file that MLP.save wrote")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        metadata = json.loads(header[HEADER]) if HEADER in header else None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a readable safetensors file ({error})") from None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("format"), int):
        raise DataError(f"{path}: not written by gpubp; load a file that MLP.save wrote")
    if metadata["format"] > FORMAT:
        raise DataError(f"{path}: format {metadata['format']}, but this gpubp reads up to {FORMAT}; update gpubp")
    _check_digest(path, tensors, header, metadata["format"])
    return tensors, metadata


def check_metadata(where: str, value: Any, schema: Any) -> None:
    """Refuse metadata that do not match a schema.

    Parameters
    ----------
    where : str
        The file and the entry in it, for messages.
    value
        The value read from JSON.
    schema
        A type: `str`, `bool`, `int` (of 64 bits), or `float` for any finite number; None; a frozenset of the strings
        allowed; ``[schema]`` for a list, ``[]`` for any; ``{str: schema}`` for entries of any name;
        ``{"name": schema, "other?": schema}`` for entries of these names, where those with a question mark may be
        missing and others may be present; a tuple of alternatives.

    Raises
    ------
    DataError
        Naming the entry and its value.

    Examples
    --------
    >>> check_metadata("m: sizes", [3, -2.5], [int])
    Traceback (most recent call last):
    gpubp.errors.DataError: m: sizes[1] is -2.5, not a whole number; the file is damaged or from another version
    """
    if isinstance(schema, tuple):
        if not any(_fits(value, one) for one in schema):
            check_metadata(where, value, next((one for one in schema if isinstance(value, type(one))), schema[0]))
    elif isinstance(schema, dict):
        if not isinstance(value, dict):
            refuse_metadata(where, value, "a record")
        for name, one in schema.items():
            if name is str:
                for key, entry in value.items():
                    check_metadata(f"{where}.{key}", entry, one)
            elif name.removesuffix("?") in value:
                check_metadata(f"{where}.{name.removesuffix('?')}", value[name.removesuffix("?")], one)
            elif not name.endswith("?"):
                raise DataError(f"{where}: {name!r} is missing; the file is damaged or from another version")
    elif isinstance(schema, list):
        if not isinstance(value, list):
            refuse_metadata(where, value, "a list")
        for i, entry in enumerate(value if schema else ()):
            check_metadata(f"{where}[{i}]", entry, schema[0])
    elif not _fits(value, schema):
        known = _KINDS.get(schema) or f"one of {', '.join(map(json.dumps, sorted(schema)))}"
        refuse_metadata(where, value, known)


def refuse_metadata(where: str, value: Any, needed: str) -> NoReturn:
    """Say what the metadata hold, and what they should.

    Raises
    ------
    DataError
    """
    text = json.dumps(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    raise DataError(f"{where} is {text}, not {needed}; the file is damaged or from another version")


def class_values(where: str, values: list[Any], dtype: str) -> NDArray[Any]:
    """The classes (n_classes,) that a file lists, in the type that it says they had.

    Raises
    ------
    DataError
        If they are not strings and numbers, are of another type, or of one that takes far more memory than they need.
    """
    check_metadata(where, values, [(str, int, float, bool)])
    if not CLASS_TYPE.fullmatch(dtype):
        refuse_metadata(f"{where}.dtype", dtype, "a type of texts or numbers")
    longest = max((len(value) for value in values if isinstance(value, str)), default=0)
    try:
        if np.dtype(dtype).kind == "U" and np.dtype(dtype).itemsize > 4 * (longest + LONGEST_PADDING):
            refuse_metadata(f"{where}.dtype", dtype, f"a type of texts that have {longest} characters at most")
        return np.array(values, np.dtype(dtype))
    except (TypeError, OverflowError) as error:
        raise DataError(f"{where}: {error}; the file is damaged or from another version") from None


def _fits(value: Any, schema: Any) -> bool:
    """Whether a value matches a schema."""
    if schema is None:
        return value is None
    if isinstance(schema, frozenset):
        return isinstance(value, str) and value in schema
    if isinstance(schema, type):
        if isinstance(value, bool) or schema in (str, bool) or not isinstance(value, int | float):
            return type(value) is schema
        return abs(value) < 2**63 if isinstance(value, int) else schema is float and math.isfinite(value)
    try:
        check_metadata("", value, schema)
    except DataError:
        return False
    return True


def check_finite(where: str, tensor: NDArray[Any]) -> None:
    """Refuse parameters (K, size) that are not finite, and name the first.

    Raises
    ------
    DataError
    """
    wrong = ~np.isfinite(tensor)
    if wrong.any():
        k, i = (int(index) for index in np.argwhere(wrong)[0])
        raise DataError(
            f"{where}: {int(wrong.sum()):,} of {tensor.size:,} values are not finite, the first, number {i} of network "
            f"{k}, is {tensor[k, i]}; such a network predicts nothing; train it anew"
        )


def digest(path: str | Path) -> str | None:
    """The digest of metadata and tensors stored in a file; None where there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get(DIGEST)
    except (SafetensorError, OSError, ValueError):
        return None


def digest_of_array(array: NDArray[Any]) -> str:
    """The SHA-256 of an array's values in the order of its indices."""
    digest = hashlib.sha256()
    rows = max(1, _CHUNK // max(1, array[:1].nbytes)) if array.ndim else 1
    for start in range(0, len(array), rows):
        digest.update(_bytes_of(np.ascontiguousarray(array[start : start + rows])))
    return digest.hexdigest()


def _check_digest(path: Path, tensors: dict[str, NDArray[Any]], header: dict[str, str], version: int) -> None:
    """Refuse a file that differs from what was written; a file too old to have a digest is loaded with a notice."""
    if DIGEST not in header and version < 3:
        say_once(f"{path}: of format {version}, which has no digest, so damage would not be noticed; save it anew")
        return
    ordered = {name: tensors[name] for name in _order(tensors)}
    if header.get(DIGEST) != _digest(header[HEADER], ordered):
        raise DataError(f"{path}: the file is damaged: its contents are not those that its digest was made of")


def _order(tensors: dict[str, NDArray[Any]]) -> list[str]:
    """The names of tensors in file order: the widest types first, so that each is aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))


def _header(tensors: dict[str, NDArray[Any]], metadata: dict[str, str]) -> bytes:
    """The header of a safetensors file: its length, and where each tensor is."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for name, tensor in tensors.items():
        offsets = [start, start + tensor.nbytes]
        entries[name] = {"dtype": DTYPES[tensor.dtype.name], "shape": list(tensor.shape), "data_offsets": offsets}
        start += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _digest(text: str, tensors: dict[str, NDArray[Any]]) -> str:
    """The SHA-256 of metadata and tensors in their order."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in tensors.items():
        digest.update(f"\n{name} {DTYPES[tensor.dtype.name]} {list(tensor.shape)}\n".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def _bytes_of(array: NDArray[Any]) -> memoryview:
    data: memoryview = array.reshape(-1).view(np.uint8).data
    return data


def _locked_file(target: Path) -> tuple[Path, BinaryIO]:
    """A new file next to `target`, which is locked while it is open."""
    while True:
        temporary = _beside(target)
        # Not with tempfile, whose files only their owner can read: here the kernel applies the umask, without a race.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        file = os.fdopen(handle, "wb")
        if fcntl is None:
            return temporary, file
        with suppress(OSError):  # where a file system has no locks, nobody else can take one either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:  # no other process removed it before it was locked
            return temporary, file
        file.close()


def sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system allows opening and flushing a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    finally:
        os.close(handle)
