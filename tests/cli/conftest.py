"""Folders that several tests of commands begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.commands import done, flowers, prices


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with two tables in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flowers.csv").write_text(flowers())
    (tmp_path / "prices.csv").write_text(prices())
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a network that knows its flowers."""
    place = tmp_path_factory.mktemp("trained")
    (place / "flowers.csv").write_text(flowers())
    options = ["--hidden", "8", "--epochs", "60", "--learning-rate", "0.05", "--quiet"]
    done("train", str(place / "flowers.csv"), *options, "--out", str(place / "run"))
    return place / "run"
