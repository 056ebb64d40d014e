"""Folders of pictures: what a pixel becomes, whose class it is, and what is refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from gpubp.data import encode, prepare, read
from gpubp.errors import DataError

Image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path, **options)


@pytest.fixture
def pets(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Five pictures in colour of each of two pets, 4 wide and 3 high."""
    for name in ("dog", "cat"):
        for i in range(5):
            save(tmp_path / "pets" / name / f"{i}.png", rng.integers(0, 256, (3, 4, 3), np.uint8))
    return tmp_path / "pets"


def test_folders_are_classes(pets: Path) -> None:
    (pets / "dog" / ".DS_Store").write_bytes(b"what a Mac leaves")
    (pets / "dog" / "notes.txt").write_text("not a picture")
    data = read(pets)
    assert data.kind == "images" and data.rows == 10 and data.y is not None and data.X is not None
    assert data.y.tolist() == ["cat"] * 5 + ["dog"] * 5
    first = np.asarray(Image.open(pets / "cat" / "0.png")).reshape(-1)
    np.testing.assert_array_equal(data.X[0], first)
    assert "pictures: 4 x 3, colours" in data.notes
    assert data.where(9) == "pets, dog/4.png"
    ready = prepare(data, test=0)
    assert ready.classes == ["cat", "dog"] and ready.n_inputs == 36
    np.testing.assert_allclose(ready.train[0][0], first / 255, rtol=1e-6)


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("training", "testing")])
def test_a_folder_of_test_pictures_is_the_test_part(pets: Path, tmp_path: Path, train: str, test: str) -> None:
    (tmp_path / "all").mkdir()
    pets.rename(tmp_path / "all" / train)
    save(tmp_path / "all" / test / "dog" / "9.png", np.zeros((3, 4, 3), np.uint8))
    data = read(tmp_path / "all")
    assert data.rows == 10 and data.test_part is not None and data.test_part.y is not None
    assert data.test_part.y.tolist() == ["dog"]


def test_pictures_without_folders_are_to_be_predicted(pets: Path) -> None:
    ready = prepare(read(pets), test=0)
    new = read(pets / "cat")
    assert new.y is None and new.rows == 5
    X, y = encode(ready.preprocessing, new)
    np.testing.assert_array_equal(X, ready.train[0][:5])
    assert y is None


def test_shades_of_grey_are_one_number_a_pixel_and_colours_three(pets: Path, tmp_path: Path) -> None:
    grey = tmp_path / "grey"
    save(grey / "a" / "0.png", np.full((3, 4), 200, np.uint8))
    save(grey / "b" / "0.png", np.full((3, 4), 255, np.uint8), "1")
    data = read(grey)
    assert data.X is not None and data.X.shape == (2, 12) and data.X[:, 0].tolist() == [200, 255]
    save(grey / "b" / "1.png", np.full((3, 4, 4), 9, np.uint8))
    data = read(grey)
    assert data.X is not None and data.X.shape == (3, 36)
    assert data.X[:, 0].tolist() == [200, 255, 9]


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "p" / "a" / "turned.jpg", np.zeros((8, 16, 3), np.uint8), exif=exif)
    save(tmp_path / "p" / "b" / "upright.jpeg", np.zeros((16, 8, 3), np.uint8))
    assert "pictures: 8 x 16, colours" in read(tmp_path / "p").notes


def test_what_does_not_fit_is_named(pets: Path, tmp_path: Path) -> None:
    bad = pets / "dog" / "bad.png"
    save(bad, np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r"dog/bad.png: is 4 x 4 pixels, and cat/0.png 4 x 3; bring all .* one size"):
        read(pets)
    bad.write_bytes(b"no picture")
    with pytest.raises(DataError, match="dog/bad.png: cannot be read as a picture"):
        read(pets)
    bad.write_bytes((pets / "dog" / "0.png").read_bytes()[:60])
    with pytest.raises(DataError, match="dog/bad.png"):
        read(pets)
    save(bad, np.zeros((3, 4), np.uint16))
    with pytest.raises(DataError, match='dog/bad.png: pixels of type "I;16" are not read'):
        read(pets)
    bad.rename(pets / "stray.png")
    with pytest.raises(DataError, match=r"pets: holds pictures beside folders of pictures; move stray.png"):
        read(pets)


def test_a_picture_that_unpacks_to_far_more_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "p" / "a").mkdir(parents=True)
    Image.new("1", (17_000, 16_000)).save(tmp_path / "p" / "a" / "huge.png", compress_level=1)
    with pytest.raises(DataError, match="a/huge.png: cannot be read as a picture .*bomb"):
        read(tmp_path / "p")
    Image.new("L", (12_000, 10_000)).save(tmp_path / "p" / "a" / "0.png", compress_level=1)  # fit for Pillow
    for i in range(1, 4):
        os.link(tmp_path / "p" / "a" / "0.png", tmp_path / "p" / "a" / f"{i}.png")
    (tmp_path / "p" / "a" / "huge.png").unlink()
    with pytest.raises(DataError, match="a/0.png and the others: .* hostile"):
        read(tmp_path / "p")
