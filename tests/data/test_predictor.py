"""Raw rows in Python are predicted as on the command line, and a network says when it is given raw rows itself."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import gpubp
from gpubp.cli.app import app
from gpubp.data import encode, read


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run on a table with numbers, codes and a category; its rows lie in rows.csv, predictions in p.csv."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{i * 13 % 700 + 100},{i % 4:03},{'red' if i % 3 else 'blue'},{i % 7 * 3.5}" for i in range(60)]
    Path("rows.csv").write_text("size,code,colour,price\n" + "\n".join(rows) + "\n")
    for arguments in (["train", "rows.csv", "--epochs", "3", "--out", "run"], ["predict", "run", "rows.csv"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    return tmp_path / "run"


def test_rows_of_every_kind_are_predicted_alike(run: Path) -> None:
    expected = np.genfromtxt("predictions.csv", skip_header=1)
    model = gpubp.load(run)
    np.testing.assert_array_equal(model.predict("rows.csv"), expected)
    np.testing.assert_array_equal(gpubp.load(run / "model.safetensors").predict(Path("rows.csv")), expected)
    table = np.genfromtxt("rows.csv", delimiter=",", skip_header=1, dtype=str)
    columns = {"colour": table[:, 2], "code": table[:, 1].tolist(), "size": table[:, 0].astype(int)}
    np.testing.assert_array_equal(model.predict(columns), expected)
    dicts = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    np.testing.assert_array_equal(model.predict(dicts), expected)
    assert model.predict({"size": 100, "code": "000", "colour": "blue"}).tolist() == expected[:1].tolist()
    pandas = pytest.importorskip("pandas")
    np.testing.assert_array_equal(model.predict(pandas.DataFrame(columns)), expected)
    assert list(model.columns(columns)) == ["prediction"]


def test_what_rows_lack_is_noted_or_refused(run: Path) -> None:
    model = gpubp.load(run)
    assert np.isfinite(model.predict({"size": [None], "code": ["000"], "colour": ["green"]})).all()
    assert len(model.notes) == 2
    with pytest.raises(gpubp.DataError, match='lacks "colour"'):
        model.predict({"size": [100], "code": ["000"]})
    with pytest.raises(gpubp.DataError, match='columns differ in length: "size" 2, "code" 1'):
        model.predict({"size": [100, 200], "code": ["000"], "colour": ["red"]})
    with pytest.raises(gpubp.DataError, match="there are none"):
        model.predict([])


def test_arrays_are_rows_of_networks_that_were_trained_on_arrays(tmp_path: Path, run: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 2, 2), np.uint8)
    for name, X in {"numbers": rng.standard_normal((60, 4)), "pictures": pixels}.items():
        np.savez(tmp_path / f"{name}.npz", X=X, y=np.arange(60) % 2)
        result = CliRunner().invoke(app, ["train", f"{name}.npz", "--epochs", "1", "--out", name])
        assert result.exit_code == 0, result.output
        model = gpubp.load(name)
        assert model.predict(X).tolist() == model.predict(f"{name}.npz").tolist()
        assert model.predict(X.reshape(60, -1).astype(X.dtype)[:1]).tolist() == model.predict(X)[:1].tolist()
    numbers = gpubp.load("numbers")
    assert numbers.predict([[1.0, 2, 3, 4]]).shape == (1,)
    with pytest.raises(gpubp.DataError, match="3 numbers a row; the network was trained on 4"):
        numbers.predict(np.ones((2, 3)))
    with pytest.raises(gpubp.DataError, match="all rows need the same length"):
        numbers.predict([[1.0, 2, 3, 4], [1.0]])
    with pytest.raises(gpubp.DataError, match=r"is arrays of numbers; the network was trained on uint8 pixels"):
        gpubp.load("pictures").predict(pixels / 255)
    with pytest.raises(gpubp.DataError, match="is arrays of numbers; the network was trained on a table"):
        gpubp.load(run).predict(np.ones((2, 3)))


@pytest.mark.parametrize("rows", [None, 3, [1, 2], np.ones(3), [["a", "b"]]], ids=str)
def test_what_is_no_rows_is_named(run: Path, rows: object) -> None:
    with pytest.raises(gpubp.DataError, match="give a data frame, a path"):
        gpubp.load(run).predict(rows)


def test_networks_without_an_encoding_are_refused(tmp_path: Path) -> None:
    gpubp.MLP([2, 2], models=2).save(tmp_path / "stack.safetensors")
    gpubp.MLP([2, 2]).save(tmp_path / "plain.safetensors")
    with pytest.raises(gpubp.DataError, match="holds 2 networks"):
        gpubp.load(tmp_path / "stack.safetensors")
    with pytest.raises(gpubp.DataError, match="does not say how rows are encoded"):
        gpubp.load(tmp_path / "plain.safetensors")
    with pytest.raises(gpubp.DataError, match=r"there is no model\.safetensors in this folder"):
        gpubp.MLP.load(tmp_path)


def test_a_network_with_an_encoding_takes_encoded_rows_alone(run: Path) -> None:
    net = gpubp.MLP.load(run)
    assert net.preprocessing is not None
    data = read("rows.csv", trained=net.preprocessing)
    X, y = encode(net.preprocessing, data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.evaluate(X, y)
    raw = np.column_stack([data.columns["size"], X[:, 1:]])
    for call in (net.forward, net.predict, lambda X: net.evaluate(X, y)):
        with pytest.raises(gpubp.DataError, match=r"gpubp\.load\(path\)\.predict takes raw rows"):
            call(raw[:, :1])
        with pytest.raises(gpubp.DataError, match="no array of"):
            call({"size": [1]})
        with pytest.warns(UserWarning, match="X looks like raw rows"):
            call(np.where(X == 0, raw[:, :1], raw))


def test_ages_are_values_and_small_codes_classes(tmp_path: Path) -> None:
    from gpubp.data import prepare

    path = tmp_path / "t.csv"
    cases = {
        "ages": range(18, 35),
        "codes": range(7),
        "months": range(1, 13),
        "letters": range(26),
        "far": range(0, 90, 4),
    }
    tasks = {}
    for name, values in cases.items():
        distinct = list(values)
        path.write_text("x,y\n" + "".join(f"{i * 7 % 11},{distinct[i * 5 % len(distinct)]}\n" for i in range(156)))
        tasks[name] = prepare(read(path), test=0).task
    kinds = {"ages": "regression", "codes": "classification", "months": "classification"}
    assert tasks == kinds | {"letters": "classification", "far": "regression"}
