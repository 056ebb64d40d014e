"""Arrays and records to disk and back: safetensors with a JSON header, never pickle.

Nothing is overwritten in place: a file is written beside its target, flushed to the disk and renamed over
it, so a reader sees the old file or the new one, whatever happens in between.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.errors import DataError, UsageError

FORMAT = 3  # of model files; a reader refuses newer ones. 2: the schema of columns, for tables. 3: encodings of numbers


def atomic_write(path: str | Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all.

    A link stays one: what it leads to is written. A file that was there keeps its permissions.

    Raises
    ------
    UsageError
        If the folder cannot be written to, or the disk is full; what stood at `path` before is untouched.
    """
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{target.name}.{secrets.token_hex(4)}"
        # Not by tempfile, whose files are for their owner alone: the kernel applies the umask here, race-free.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                if target.is_file():
                    os.fchmod(handle, stat.S_IMODE(target.stat().st_mode))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
        _sync_folder(target.parent)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}; {len(data):,} bytes needed)") from error


def save(path: str | Path, tensors: dict[str, NDArray[Any]], metadata: dict[str, Any]) -> None:
    """Write named tensors and a JSON-able dict as one safetensors file."""
    from safetensors.numpy import save as to_bytes

    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    header = {"gpubp": json.dumps({"format": FORMAT, **metadata}, allow_nan=False)}
    atomic_write(path, to_bytes(contiguous, metadata=header))


def header(path: str | Path) -> dict[str, Any]:
    """Read what a file says beside its tensors; nothing of a file that `save` did not write."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            saved = json.loads((file.metadata() or {}).get("gpubp", "{}"))
    except (SafetensorError, OSError, ValueError):
        return {}
    return saved if isinstance(saved, dict) else {}


def load(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `save` wrote.

    Raises
    ------
    DataError
        If the file is missing, is no safetensors file, was not written by gpubp, or by a newer format.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; a model is a .safetensors file that MLP.save wrote")
    try:
        with safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get("gpubp")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        metadata = json.loads(header) if header else None
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable safetensors file ({error})") from None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("format"), int):
        raise DataError(f"{path}: not written by gpubp; load a file that MLP.save wrote")
    if metadata["format"] > FORMAT:
        raise DataError(f"{path}: format {metadata['format']}, but this gpubp reads up to {FORMAT}; update gpubp")
    return tensors, metadata


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system lets a folder be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
