"""The reader of folders of pictures, one folder per class, through Pillow (extra ``images``)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data.arrays import from_arrays
from gpubp.data.source import RawData, check_size
from gpubp.errors import DataError, UsageError

ENDINGS = (".png", ".jpg", ".jpeg")
GREY_MODES = ("1", "L")
COLOUR_MODES = ("P", "PA", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
PARTS = (("train", "test"), ("training", "testing"))  # the parts' folders, which hold the folders of classes
ORIENTATION = 0x0112  # Exif tag: from 5 on, width and height are swapped for display


def holds_pictures(folder: Path) -> bool:
    """Whether there is a picture in the folder, in one of its folders, or in one of theirs."""
    folders = [folder, *_folders(folder)]
    folders += [inner for outer in folders[1:] for inner in _folders(outer)]
    return any(_pictures(place) for place in folders)


def read_folder(folder: Path) -> RawData:
    """Read a folder of pictures, all of one size; grey takes one number per pixel, colour three.

    It holds a folder of pictures for each class, or folders ``train`` and ``test`` of that kind, or, for prediction,
    just pictures.
    """
    for train, test in PARTS:
        if (folder / train).is_dir() and (folder / test).is_dir():
            training, testing = _list_pictures(folder / train), _list_pictures(folder / test)
            break
    else:
        training, testing = _list_pictures(folder), []
    name = folder.resolve().name
    pixels = _read_pictures([path for path, _ in [*training, *testing]])
    first = len(training)
    arrays: dict[str, NDArray[Any] | None] = {"X": pixels[:first], "y": _classes(training)}
    if testing:
        arrays |= {"X_test": pixels[first:], "y_test": _classes(testing)}
    data = from_arrays(name, arrays)
    files = [str(path.relative_to(folder)) for path, _ in training]
    data.place = lambda row: files[row]
    height, width, *channels = pixels.shape[1:]
    data.say(f"pictures: {width} x {height}, {'colours' if channels else 'shades of grey'}")
    return data


def _list_pictures(folder: Path) -> list[tuple[Path, str | None]]:
    """List the pictures in subfolders with their classes, or those directly in the folder, which have none."""
    plain = _pictures(folder)
    inner = {place.name: _pictures(place) for place in _folders(folder)}
    if plain and any(inner.values()):
        raise DataError(
            f"{folder.name}: holds pictures beside folders of pictures; move {plain[0].name} into the folder of a class"
        )
    if plain:
        return [(path, None) for path in plain]
    pictures: list[tuple[Path, str | None]] = [(path, name) for name, paths in inner.items() for path in paths]
    if not pictures:
        raise DataError(f"{folder.name}: holds no pictures ({', '.join(ENDINGS)}), and no folders of them")
    return pictures


def _pictures(folder: Path) -> list[Path]:
    files = (path for path in folder.iterdir() if path.name.lower().endswith(ENDINGS))
    return sorted(path for path in files if not path.name.startswith(".") and path.is_file())


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _classes(pictures: Sequence[tuple[Path, str | None]]) -> NDArray[Any] | None:
    return None if pictures[0][1] is None else np.array([name for _, name in pictures])


def _read_pictures(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Read pictures of one size as (pictures, height, width), or (…, 3) if any of them has colours."""
    sizes_and_modes = [_size_and_mode(path) for path in paths]
    size = sizes_and_modes[0][0]
    for path, (other, _) in zip(paths, sizes_and_modes, strict=True):
        if other != size:
            raise DataError(
                f"{_shown(path)}: is {other[0]} x {other[1]} pixels, and {_shown(paths[0])} {size[0]} x {size[1]}; "
                "bring all pictures to one size"
            )
    grey = all(mode in GREY_MODES for _, mode in sizes_and_modes)
    shape = (len(paths), size[1], size[0]) if grey else (len(paths), size[1], size[0], 3)
    stored = sum(path.stat().st_size for path in paths)
    check_size(f"{_shown(paths[0])} and the others", int(np.prod(shape, dtype=object)), stored)
    pixels = np.empty(shape, np.uint8)
    for i, path in enumerate(paths):
        pixels[i] = _decode(path, "L" if grey else "RGB")
    return pixels


def _size_and_mode(path: Path) -> tuple[tuple[int, int], str]:
    """Read the displayed width and height, and the pixel mode."""
    with _open(path) as picture:
        mode = str(picture.mode)
        if mode not in (*GREY_MODES, *COLOUR_MODES):
            raise DataError(f'{_shown(path)}: pixels of type "{mode}" are not read; save it with 8 bits a colour')
        width, height = picture.size
        turned = picture.getexif().get(ORIENTATION, 1) >= 5
        return ((height, width) if turned else (width, height)), mode


def _decode(path: Path, mode: str) -> NDArray[np.uint8]:
    """Read the pixels of one picture, upright, in this mode."""
    from PIL import ImageOps

    with _open(path) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert(mode))


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a picture, which is decoded only on demand; if it is damaged, the error names it."""
    try:
        from PIL import Image
    except ImportError:
        raise UsageError(f"{path.name}: reading pictures needs Pillow; pip install 'gpubp[images]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `check_size` bounds them all together
            with Image.open(path, formats=("PNG", "JPEG")) as picture:
                yield picture
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
        raise DataError(f"{_shown(path)}: cannot be read as a picture ({error}); replace or delete it") from None


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
