"""Encodings of numbers: what they compute, that they are plain JSON, and that they look at training rows alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.data import RawData, encode, prepare
from gpubp.data.encodings import ENCODINGS, Target, apply, fit, get_encodings, width
from gpubp.errors import UsageError

ALL = "+".join(ENCODINGS)


def encoded(spec: str, values: Any, target: Target | None = None, rows: Any = None) -> np.ndarray:
    """What an encoding that was fitted on a column, or on columns, makes of it, or of other rows."""
    columns = np.reshape(np.asarray(values, float), (len(values), -1))
    fitted = json.loads(json.dumps(fit(spec, columns, target, np.random.default_rng(0)), allow_nan=False))
    others = columns if rows is None else np.reshape(np.asarray(rows, float), (len(rows), -1))
    out = np.full((len(others), width(fitted)), np.nan)
    apply(fitted, others, out)
    return out


def test_standard_and_robust_are_their_formulas() -> None:
    x = np.array([0.0, 1, 2, 3, 100])
    np.testing.assert_allclose(encoded("standard", x)[:, 0], (x - x.mean()) / x.std())
    u = (x - 2) / 2  # quartiles 1 and 3
    np.testing.assert_allclose(encoded("robust", x)[:, 0], u / np.sqrt(1 + (u / 3) ** 2))
    np.testing.assert_allclose(encoded("robust(1)", x)[:, 0], u / np.sqrt(1 + u**2))
    assert np.abs(encoded("robust", x, rows=[1e300, -1e300])).max() <= 3 + 1e-12


def test_numbers_that_are_too_far_out_to_be_divided_by_the_scale_are_clipped(rng: np.random.Generator) -> None:
    tiny = rng.normal(size=50) * 1e-310  # below the least normal number, as is their scale
    for x in (tiny, np.append(tiny, 1.0)):
        assert np.isfinite(encoded(ALL, x)).all()
        np.testing.assert_allclose(encoded("robust", x, rows=[1.0, -1e100]), [[3.0], [-3.0]], rtol=1e-12)
        assert np.isfinite(encoded(ALL, x, rows=[1.0, -1e100])).all()


def test_a_column_of_few_values_is_scaled_by_its_range_and_a_constant_one_is_zero() -> None:
    np.testing.assert_allclose(encoded("robust(1e9)", [0.0] * 9 + [8.0])[:, 0], [0.0] * 9 + [2.0])
    for name in ("standard", "robust"):
        assert not encoded(name, [4.0] * 5).any()
    assert np.isfinite(encoded(ALL, [4.0] * 5)).all()


def test_quantile_is_normal_whatever_the_distribution(rng: np.random.Generator) -> None:
    z = encoded("quantile", np.exp(3 * rng.normal(size=5000)))[:, 0]
    np.testing.assert_allclose(np.quantile(z, [0.16, 0.5, 0.84]), [-1, 0, 1], atol=0.02)
    tied = encoded("quantile", [0.0, 0, 0, 0, 1])[:, 0]
    assert len(set(tied[:4])) == 1 and tied[0] < tied[4]


def test_piecewise_is_linear_within_a_bin() -> None:
    x = np.arange(9.0)
    by_quantile = encoded("piecewise(4, by=quantile)", x, rows=[-5, 1, 4, 7, 99])
    expected = [[0, 0, 0, 0], [0.5, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0.5], [1, 1, 1, 1]]
    np.testing.assert_allclose(by_quantile, expected)
    np.testing.assert_allclose(encoded("piecewise(4)", x, rows=[4]), [[1, 1, 0, 0]])  # no target: quantiles too


@pytest.mark.parametrize("classes", [True, False])
def test_bins_of_a_tree_are_borders_of_the_target(classes: bool) -> None:
    x = np.arange(40.0)
    target = Target((x > 12).astype(int) if classes else np.where(x > 12, 5.0, 1.0)[:, None], classes)
    np.testing.assert_allclose(encoded("piecewise(2)", x, target, rows=[12.5]), [[1, 0]])
    np.testing.assert_array_equal(encoded("steps(2, leaf=5)", x, target, rows=[12, 13]), [[1, 0], [0, 1]])
    assert encoded("steps(2, leaf=21)", x, target).shape[1] == 1  # no leaf of so many rows beside another


@pytest.mark.parametrize("classes", [True, False])
def test_most_columns_that_say_nothing_of_the_target_have_one_bin(rng: np.random.Generator, classes: bool) -> None:
    x = rng.normal(size=(1000, 30))
    y = rng.integers(0, 3, 1000) if classes else rng.normal(size=(1000, 2))
    bins = [len(edges) - 1 for edges in fit("piecewise", x, Target(y, classes), rng)[0]["edges"]]
    # The best of 1,000 splits is beyond chance more often than a given one is, so that some are left.
    assert np.median(bins) == 1 and np.mean(bins) < 4


def test_weights_of_rows_do_not_make_chance_look_like_more(rng: np.random.Generator) -> None:
    """As balanced classes have them: one row in twenty counts as much as the others together."""
    x, rare = rng.normal(size=(1000, 30)), rng.random(1000) < 0.05
    weight = np.where(rare, 0.5 / rare.sum(), 0.5 / (~rare).sum())
    x[:, 0] += rare
    bins = [len(edges) - 1 for edges in fit("piecewise", x, Target(rare.astype(int), True, weight), rng)[0]["edges"]]
    assert bins[0] > 1 and np.median(bins[1:]) == 1 and np.mean(bins[1:]) < 4


def test_a_split_is_kept_for_one_below_it(rng: np.random.Generator) -> None:
    x = np.arange(400.0)[:, None]
    y = ((x[:, 0] >= 100) & (x[:, 0] < 300)).astype(int)  # no border alone tells the classes apart
    assert fit("piecewise(4)", x, Target(y, classes=True), rng)[0]["edges"] == [[0.0, 99.5, 299.5, 399.0]]
    many = np.repeat(3.0, 400)  # weights say what rows count, not that there are more of them
    assert fit("piecewise(4)", x, Target(y, True, many), rng)[0]["edges"] == [[0.0, 99.5, 299.5, 399.0]]


def test_a_tree_that_separates_the_target_wholly_is_kept(rng: np.random.Generator) -> None:
    x = np.array([1.0, 2, 3, 4, 5, 6])[:, None]
    for y, classes in (((x[:, 0] > 3).astype(int), True), (np.where(x > 3, 7.0, 1.0), False)):
        assert fit("piecewise(2, leaf=1)", x, Target(y, classes), rng)[0]["edges"] == [[1.0, 3.5, 6.0]]


def test_fourier_is_cosines_of_the_robust_value() -> None:
    x = np.linspace(0, 1, 11)
    fitted = fit("fourier(3, sigma=0.5)", x[:, None], None, np.random.default_rng(1))[0]
    u = encoded("robust", x)
    frequencies, phases = np.array(fitted["frequencies"]), np.array(fitted["phases"])
    out = np.empty((11, 3))
    apply([fitted], x[:, None], out)
    np.testing.assert_allclose(out, np.cos(2 * np.pi * u * frequencies[0] + phases[0]))


def test_each_row_is_in_one_leaf_of_each_tree(rng: np.random.Generator) -> None:
    values = rng.normal(size=(300, 3))
    target = Target(values[:, 0] * values[:, 1], classes=False)
    for known in (target, None):
        inputs = encoded("forest(5, leaves=4, height=0.5)", values, known)
        assert inputs.shape == (300, 20) and set(inputs.ravel()) == {0, 0.5}
        np.testing.assert_array_equal((inputs.reshape(300, 5, 4) > 0).sum(axis=2), 1)
    assert encoded("forest(5)", values[:4], Target(np.arange(4), classes=True)).shape == (4, 5)  # too few to split


def test_leaves_are_those_of_the_tree_that_was_grown(rng: np.random.Generator) -> None:
    from sklearn.tree import DecisionTreeRegressor

    from gpubp.data.encodings import _leaves

    values = rng.normal(size=(200, 2))
    tree = DecisionTreeRegressor(max_leaf_nodes=7, random_state=0).fit(values, values.prod(axis=1))
    splits = tree.tree_.feature >= 0
    above = (values[:, tree.tree_.feature[splits]] > tree.tree_.threshold[splits]).T  # (splits, rows)
    paths = _leaves(tree.tree_, first=0)
    inside = np.array([np.all([above[s] if s >= 0 else ~above[~s] for s in path], axis=0) for path in paths])
    nodes = np.flatnonzero(~splits)
    np.testing.assert_array_equal(inside, tree.apply(values) == nodes[:, None])


def test_a_forest_sees_how_numbers_and_categories_work_together(rng: np.random.Generator) -> None:
    pandas = pytest.importorskip("pandas")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    frame = pandas.DataFrame({"x": rng.normal(size=600), "kind": rng.choice(["a", "b"], 600)})
    y = (frame.x > 0) ^ (frame.kind == "a")
    scores = {
        numbers: make_pipeline(gpubp.TableEncoder(numbers), LogisticRegression()).fit(frame, y).score(frame, y)
        for numbers in ("piecewise", "forest(8, height=1)")
    }
    assert scores["piecewise"] < 0.7 and scores["forest(8, height=1)"] > 0.95


@pytest.mark.parametrize("largest", [2**26, 0])
def test_rows_of_a_forest_are_encoded_alike_where_they_are_sparse(largest, rng, monkeypatch) -> None:
    from gpubp.data import features

    data = table(rng)
    data.columns["code"] = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 120).astype(object)
    dense = prepare(data, test=0, numbers="forest(1)")
    monkeypatch.setattr(features, "LARGEST_DENSE", largest)
    X, _ = encode(dense.preprocessing, data)
    assert isinstance(X, np.ndarray) == bool(largest)
    np.testing.assert_array_equal(X[:], dense.train[0])
    assert features.width_of_indicators(dense.preprocessing["features"]) == 2  # colours; the codes are many


def test_combined_encodings_stand_side_by_side(rng: np.random.Generator) -> None:
    values = rng.normal(size=(50, 3))
    parts = [encoded(name, values) for name in ("robust", "piecewise(5)")]
    np.testing.assert_array_equal(encoded("robust+piecewise(5)", values), np.hstack(parts))


@pytest.mark.parametrize("name", ENCODINGS)
def test_names_are_read_back(name: str) -> None:
    (one,) = get_encodings(name)
    assert get_encodings(one.name)[0].name == name


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("robst", 'did you mean "robust"'),
        ("robust+", 'unknown encoding of numbers ""'),
        ("piecewise(1)", "bins=1 does not fit"),
        ("piecewise(by=x)", 'by="x" does not fit; use tree or quantile'),
        ("steps(leaf=0)", "leaf=0 does not fit"),
        ("fourier(sigma=0)", "use sigma > 0"),
        ("fourier(0)", "frequencies=0 does not fit"),
        ("robust(-1)", "use clip > 0"),
        ("forest(0)", "trees=0 does not fit"),
        ("forest(leaves=1)", "leaves=1 does not fit; use a whole number of at least 2"),
        ("forest(height=0)", "use height > 0"),
    ],
)
def test_what_does_not_fit_is_refused(spec: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        get_encodings(spec)
    assert message in str(error.value)


def table(rng: np.random.Generator, rows: int = 120) -> RawData:
    x = rng.normal(size=(2, rows))
    x[0, ::9] = np.nan
    colour = rng.choice(["red", "blue"], rows).astype(object)
    columns = {"a": x[0], "b": x[1], "colour": colour, "y": np.nan_to_num(x[0]) ** 2 + x[1]}
    return RawData(name="t", kind="table", columns=columns, target="y")


def test_rows_to_predict_are_encoded_as_those_of_training(rng: np.random.Generator) -> None:
    data = table(rng)
    ready = prepare(data, test=0, numbers=ALL, dtype=np.float64)
    X, _ = encode(json.loads(json.dumps(ready.preprocessing, allow_nan=False)), data, dtype=np.float64)
    np.testing.assert_array_equal(X, ready.train[0])
    assert np.isfinite(X).all() and X.shape[1] == ready.n_inputs
    np.testing.assert_array_equal(X[:, -3], np.isnan(data.columns["a"]))  # the indicator, before the colours


def test_encodings_are_fitted_on_training_rows_alone(rng: np.random.Generator) -> None:
    data = table(rng)
    ready = prepare(data, test=0.25, validation=0.25, numbers="robust+piecewise+quantile")
    other = table(rng)
    train = prepare(data, test=0.25, validation=0.25, numbers="standard").train[1]
    # Rows that are not trained on are replaced; the rows that are, and with them all that is fitted, stay.
    from gpubp.data.prepare import choose, split_rows

    chosen = choose(data, "auto", "auto", 0.25, 0)
    rows, _ = split_rows(data, chosen.rows, 0.25, None, 0, "validation")
    for name in data.columns:
        data.columns[name][np.setdiff1d(np.arange(120), rows)] = other.columns[name][0]
    again = prepare(data, test=0.25, validation=0.25, numbers="robust+piecewise+quantile")
    np.testing.assert_array_equal(again.train[1], train)
    assert again.preprocessing["features"] == ready.preprocessing["features"]


def test_arrays_have_no_columns_to_encode() -> None:
    with pytest.raises(UsageError, match="only the columns of a table"):
        prepare(RawData(name="t", kind="arrays", X=np.eye(9), y=np.arange(9) % 2), numbers="robust")


# -- the transformer -----------------------------------------------------------------------------------


def test_the_transformer_takes_data_frames_as_they_are(rng: np.random.Generator) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "x": [1.5, np.nan, 3.0, 4.0] * 10,
            "when": pandas.date_range("2024-01-01", periods=40),
            "code": pandas.Categorical([1, 2, 1, 3] * 10),
            "same": "x",
        }
    )
    encoder = gpubp.TableEncoder("robust+piecewise(4)").fit(frame, y=rng.normal(size=40))
    X = encoder.transform(frame.iloc[:7])
    names = encoder.get_feature_names_out().tolist()
    assert X.shape == (7, len(names)) and X.dtype == np.float32 and np.isfinite(X).all()
    assert {"x_missing", "code_1", "code_3"} <= set(names) and not any("same" in name for name in names)
    assert any('"same"' in note for note in encoder.notes_)
    unknown = frame.iloc[:1].assign(code="9")
    assert encoder.transform(unknown)[0, -3:].tolist() == [0, 0, 0]


def test_the_transformer_is_a_step_of_a_pipeline(rng: np.random.Generator) -> None:
    from sklearn.base import clone
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    X = rng.normal(size=(200, 2))
    y = np.abs(X[:, 0])
    pipeline = clone(make_pipeline(gpubp.TableEncoder("piecewise(8)"), Ridge(1e-3)))
    assert pipeline.fit(X, y).score(X, y) > 0.95
    assert not hasattr(pipeline[0], "feature_names_in_") and pipeline[0].n_features_in_ == 2


def test_a_network_with_an_encoding_keeps_it_in_its_file(tmp_path: Path, rng: np.random.Generator) -> None:
    data = table(rng)
    ready = prepare(data, test=0, numbers="robust+piecewise(4)")
    net = gpubp.MLP([ready.n_inputs, 4, 1], loss=ready.loss, device="cpu-reference")
    net.preprocessing = ready.preprocessing
    net.save(tmp_path / "m.safetensors")
    loaded = gpubp.MLP.load(tmp_path / "m.safetensors", "cpu-reference")
    assert loaded.preprocessing is not None
    np.testing.assert_array_equal(net.forward(ready.train[0]), loaded.forward(encode(loaded.preprocessing, data)[0]))


@pytest.mark.parametrize("name", ["piecewise", "steps(leaf=1)", "forest"])
def test_no_border_lies_where_rounding_alone_tells_values_apart(name: str) -> None:
    days = np.cos(2 * np.pi * np.arange(70) / 7)[:, None]
    moved = np.nextafter(days, 2)
    y = (np.arange(70) % 7 < 3).astype(np.int64)  # days whose cosines are equal but for rounding differ in it
    fitted = fit(name, days, Target(y, classes=True), np.random.default_rng(0))
    inputs = [np.empty((70, width(fitted))) for _ in range(2)]
    for values, out in zip((days, moved), inputs, strict=True):
        apply(fitted, values, out)
    np.testing.assert_allclose(inputs[0], inputs[1], atol=1e-6)


def test_rows_of_weight_0_do_not_make_bins(rng: np.random.Generator) -> None:
    values = rng.normal(size=(200, 1))
    y, weight = (values[:, 0] > 0).astype(np.int64), np.repeat([1.0, 0.0], 100)
    spoilt = np.where(weight > 0, y, 1 - y)
    edges = [fit("piecewise(leaf=1)", values, Target(t, True, weight), rng)[0]["edges"][0] for t in (y, spoilt)]
    assert edges[0] == edges[1] and len(edges[0]) == 3
    assert len(fit("piecewise(leaf=1)", values, Target(spoilt, True), rng)[0]["edges"][0]) > 3
    forests = [fit("forest", values, Target(t, True, weight), np.random.default_rng(0)) for t in (y, spoilt)]
    assert forests[0] == forests[1]


@pytest.mark.parametrize("unit, origin", [(2.0**-40, 0.0), (2.0**40, 0.0), (1.0, 1e8)])
def test_bins_of_a_transformer_do_not_depend_on_the_units_of_the_target(unit, origin, rng: np.random.Generator) -> None:
    x = rng.normal(size=(500, 1))
    y = np.sin(3 * x[:, 0]) + 0.1 * rng.normal(size=500)
    encoder = gpubp.TableEncoder("piecewise")
    bins = encoder.fit_transform(x, y).shape[1]
    assert encoder.fit_transform(x, origin + unit * y).shape[1] == bins > 5
    assert encoder.fit_transform(x, np.full(500, 3.3)).shape[1] == 1


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"numbers": None}, "None is no encoding of numbers; give names, such as robust"),
        ({"numbers": 3}, "3 is no encoding of numbers"),
        ({"numbers": []}, "no encoding of numbers is named; known: "),
        ({"dtype": "x"}, "dtype='x' does not fit; use a floating-point type, such as float32"),
        ({"dtype": int}, "does not fit; use a floating-point type"),
        ({"dtype": None}, "dtype=None does not fit"),
        ({"random_state": "x"}, "random_state='x' does not fit; use a whole number"),
    ],
)
def test_parameters_of_another_kind_are_refused_by_name(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        gpubp.TableEncoder(**parameters).fit(np.ones((3, 2)))
