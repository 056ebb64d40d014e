"""The lessons: what each measures has the sign and the size that the theory says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gpubp import UsageError
from gpubp.cli.app import app
from gpubp.lessons import LESSONS, get_lesson

LONG = {"search", "caching"}  # some seconds


def measured(name: str) -> dict:
    lesson = get_lesson(name)
    values = lesson.measure()
    assert lesson.conclude(values)
    return values


def test_slow_learning():
    values = measured("slow_learning")
    assert values["curves"]["squared error"][100] == pytest.approx(0.964, abs=5e-4)
    assert values["curves"]["cross-entropy"][100] == pytest.approx(0.041, abs=5e-4)
    assert values["grad_W2"] == pytest.approx(0.73, abs=5e-3) and values["grad_W1"] == pytest.approx(3e-5, rel=0.15)


def test_vanishing():
    values = measured("vanishing")
    assert len(values["sigmoid"]) == 9
    assert values["sigmoid"][0] < 1e-4 * values["sigmoid"][-1]
    assert (np.diff(values["sigmoid"]) > 0).all()
    assert 0.2 < values["relu"][0] / values["relu"][-1] < 5


def test_exploding():
    values = measured("exploding")
    assert values["N(0, 1)"][0] > 1e4 * values["scaled by fan-in"][0]
    assert 0.1 < values["scaled by fan-in"][0] < 10


def test_symmetry():
    values = measured("symmetry")
    assert values["equal weights"]["spread"] == 0.0 and values["equal weights"]["loss"][-1] > 0.5
    assert values["random weights"]["spread"] > 1 and values["random weights"]["loss"][-1] < 0.05


@pytest.mark.thorough
def test_search():
    values = measured("search")
    random, local, descent = (curve[-1] for curve in values.values())
    assert list(values) == ["random search", "random local search", "gradient descent"]
    assert random > 3 * local and local > 5 * descent
    assert len({len(curve) for curve in values.values()}) == 1  # as many looks at the loss for each


def test_maximum_likelihood():
    values = measured("maximum_likelihood")
    assert values["learned"] == pytest.approx(0.3, abs=1e-6)
    assert values["p"][np.argmax(values["likelihood"])] == pytest.approx(0.3)


def test_iterations():
    values = measured("iterations")
    test, train, best = values["test"], values["train"], values["best"]
    assert 5 < best < 60 and test[-1] > 1.3 * test[best]
    assert train[-1] < 0.1 * train[best]


@pytest.mark.thorough
def test_caching():
    values = measured("caching")
    assert values["difference"] < 1e-8
    assert values["parameters"] == [51, 99, 195, 387, 771]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.thorough if n in LONG else ()) for n in LESSONS])
def test_the_command_draws_it(name, tmp_path: Path):
    picture = tmp_path / "picture.png"
    result = CliRunner().invoke(app, ["demo", name, "--out", str(picture)])
    assert result.exit_code == 0, result.output
    assert get_lesson(name).title in result.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    again = CliRunner().invoke(app, ["demo", name, "--out", str(picture)])
    assert again.exit_code == 2 and "there is such a file already" in again.stderr


def test_the_command_lists_them_and_names_what_is_wrong(tmp_path: Path):
    listed = CliRunner().invoke(app, ["demo"])
    assert listed.exit_code == 0 and [line.split()[0] for line in listed.output.splitlines()] == list(LESSONS)
    with pytest.raises(UsageError, match='no lesson "fast"; there are slow_learning'):
        get_lesson("fast")
    unnamed = CliRunner().invoke(app, ["demo", "--out", "a.png"])
    assert unnamed.exit_code == 2 and "--out a.png: name the lesson to draw" in unnamed.stderr
    for out, told in (("a.txt", "is a .png, .svg or .pdf file"), ("none/a.png", "there is no folder")):
        result = CliRunner().invoke(app, ["demo", "vanishing", "--out", str(tmp_path / out)])
        assert result.exit_code == 2 and told in result.stderr
