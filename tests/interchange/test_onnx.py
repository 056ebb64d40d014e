"""ONNX models against the networks that they are made of: checked by onnx's checker, run by onnxruntime."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

import gpubp
from gpubp.activations import ACTIVATIONS
from gpubp.cli.app import app
from gpubp.data import decode, encode, prepare, read
from gpubp.data.prepare import schema_of_network
from gpubp.data.schema import TableOptions
from gpubp.data.targets import clamp
from gpubp.errors import UsageError
from gpubp.interchange import graph
from gpubp.interchange.numbers import FORMS
from gpubp.registry import parse
from gpubp.tabular.recipes import PRESETS, RECIPES
from support.raw_rows import feeds, run, write_table

pytest.importorskip("onnx", reason="onnx is not installed; it is in the extra onnx")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it is in the extra test")

TOLERANCE = 1e-5
OPTIONS = {"hidden_layer_sizes": (8,), "max_iter": 15, "random_state": 0, "device": "cpu"}
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # fits end early


@pytest.fixture(name="X")
def rows(rng):
    return rng.normal(size=(300, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return X, y, np.array(["setosa", "versicolor", "virginica"])[y]


def gpubp_command(*arguments: Any) -> Any:
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, [str(a) for a in arguments], prog_name="gpubp")


# -- networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("name", [*ACTIVATIONS, "leaky_relu(0.2)", "elu(0.5)"])
def test_every_activation_in_hidden_layers_and_as_output(name, precision, X):
    X = X.astype(precision)
    net = gpubp.MLP([6, 8, 8, 3], name, precision=precision, device="cpu-reference")
    outputs = run(gpubp.to_onnx(net), {"X": X})
    np.testing.assert_allclose(outputs["probabilities"], net.forward(X), atol=TOLERANCE)
    np.testing.assert_array_equal(outputs["label"], net.predict(X))

    squares = gpubp.MLP(
        [6, 8, 2], "tanh", "half_squared_error", output_activation=name, precision=precision, device="cpu-reference"
    )
    values = run(gpubp.to_onnx(squares), {"X": X})["values"]
    np.testing.assert_allclose(values, squares.forward(X), rtol=TOLERANCE, atol=TOLERANCE)
    assert values.dtype == precision


@pytest.mark.parametrize("name", ["elu", "selu", "softplus", "mish", "gelu", "gelu_tanh", "silu", "leaky_relu"])
def test_far_from_zero_and_next_to_it(name):
    net = gpubp.MLP([1, 1], loss="half_squared_error", output_activation=name, device="cpu-reference")
    net.weights[0][...] = 1.0
    z = np.array([[-1e4], [-100], [-20], [-1e-4], [0], [1e-6], [20], [1e4]], np.float32)
    values = run(gpubp.to_onnx(net), {"X": z})["values"]
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values, net.forward(z), rtol=TOLERANCE, atol=1e-12)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "poisson", "huber"])
@pytest.mark.parametrize("models", [1, 3])
def test_every_kind_of_output_alone_and_in_a_stack(loss, models, X):
    net = gpubp.MLP([6, 8, 4], "tanh", loss, models=models, device="cpu-reference")
    a = net.forward(X).mean(axis=0) if models > 1 else net.forward(X)
    outputs = run(gpubp.to_onnx(net), {"X": X})
    kind = "probabilities" if net.loss.classification else "values"
    np.testing.assert_allclose(outputs[kind], a, rtol=TOLERANCE, atol=TOLERANCE)
    if net.loss.classification:
        label = a.argmax(axis=1) if loss == "cross_entropy" else (a > 0.5).astype(int)
        np.testing.assert_array_equal(outputs["label"], label)


def test_one_output_is_two_classes(X):
    net = gpubp.MLP([6, 8, 1], "tanh", "binary_cross_entropy", device="cpu-reference")
    outputs = run(gpubp.to_onnx(net), {"X": X})
    a = net.forward(X)
    np.testing.assert_allclose(outputs["probabilities"], np.hstack([1 - a, a]), atol=TOLERANCE)
    np.testing.assert_array_equal(outputs["label"], net.predict(X))


def test_a_record_of_ones_own_is_exported_by_its_scalar_expression(X):
    squared = gpubp.Activation(
        name="squared",
        f=lambda xp, z: z * xp.tanh(z),
        derivative=lambda xp, z: z,
        derivative_from="z",
        scalar_f="select(fabs(z) >= T(1e9), T(0), z) * tanh(z)",
    )
    net = gpubp.MLP([6, 8, 2], squared, device="cpu-reference")
    np.testing.assert_allclose(run(gpubp.to_onnx(net), {"X": X})["probabilities"], net.forward(X), atol=TOLERANCE)


@pytest.mark.parametrize(
    "scalar_f, why", [(None, "no scalar expression"), ("cbrt(z)", "cbrt"), ("z && T(1)", "no ONNX form")]
)
def test_a_record_without_an_onnx_form_is_refused_by_name(scalar_f, why):
    mine = gpubp.Activation("mine", lambda xp, z: z, lambda xp, z: z, "z", scalar_f=scalar_f)
    with pytest.raises(UsageError, match=f'activation "mine".*{why}'):
        gpubp.to_onnx(gpubp.MLP([2, 3, 2], mine, device="cpu-reference"))


def test_a_model_that_is_too_large_says_how_large(monkeypatch):
    monkeypatch.setattr(graph, "MOST_BYTES", 100)
    with pytest.raises(UsageError, match=r"\d+ bytes.*2 GB"):
        gpubp.to_onnx(gpubp.MLP([6, 8, 3], device="cpu-reference"))


def test_without_onnx_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match=r"gpubp\[onnx\]"):
        gpubp.to_onnx(gpubp.MLP([6, 8, 3], device="cpu-reference"))


# -- estimators --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, targets",
    [
        ({}, lambda y, names: names),
        ({"activation": "gelu"}, lambda y, names: y),
        ({}, lambda y, names: y == 1),
        ({"loss": "cross_entropy"}, lambda y, names: y == 1),
        ({"loss": "binary_cross_entropy"}, lambda y, names: names),
        ({}, lambda y, names: np.column_stack([y == 1, y > 0]).astype(int)),
    ],
    ids=["texts", "numbers", "two classes", "two outputs", "each against the rest", "labels"],
)
def test_classifiers(options, targets, iris):
    X, y, names = iris
    est = gpubp.MLPClassifier(**OPTIONS, **options).fit(X, targets(y, names))
    outputs = run(gpubp.to_onnx(est), {"X": X})
    np.testing.assert_allclose(outputs["probabilities"], est.predict_proba(X), atol=TOLERANCE)
    np.testing.assert_array_equal(outputs["label"], est.predict(X))


@pytest.mark.parametrize("outputs", [1, 2])
def test_regressors(outputs, iris):
    X, _, _ = iris
    y = X[:, :outputs] ** 2
    est = gpubp.MLPRegressor(**OPTIONS).fit(X, y[:, 0] if outputs == 1 else y)
    values = run(gpubp.to_onnx(est), {"X": X})["values"]
    np.testing.assert_allclose(values, est.predict(X).reshape(values.shape), rtol=TOLERANCE)


def test_an_assigned_output_activation_counts(iris):
    X, _, names = iris
    est = gpubp.MLPClassifier(**OPTIONS).fit(X, names)
    est.out_activation_ = "logistic"
    np.testing.assert_allclose(run(gpubp.to_onnx(est), {"X": X})["probabilities"], est.predict_proba(X), atol=TOLERANCE)


def test_searches_and_ensembles(iris):
    X, y, names = iris
    search = gpubp.MLPSearchCV(gpubp.MLPClassifier(**OPTIONS), {"alpha": [1e-4, 1.0]}, cv=2).fit(X, names)
    ensemble = gpubp.MLPEnsembleClassifier(gpubp.MLPClassifier(**OPTIONS), 3, random_state=0).fit(X, names)
    for est in (search, ensemble):
        outputs = run(gpubp.to_onnx(est), {"X": X})
        np.testing.assert_allclose(outputs["probabilities"], est.predict_proba(X), atol=TOLERANCE)
        np.testing.assert_array_equal(outputs["label"], est.predict(X))
    regressors = gpubp.MLPEnsembleRegressor(gpubp.MLPRegressor(**OPTIONS), 3, random_state=0).fit(X, y)
    np.testing.assert_allclose(
        run(gpubp.to_onnx(regressors), {"X": X})["values"][:, 0], regressors.predict(X), rtol=TOLERANCE, atol=TOLERANCE
    )


def test_what_predicts_in_a_way_of_its_own_is_refused(iris):
    class Doubled(gpubp.MLPRegressor):
        def predict(self, X):
            return 2 * super().predict(X)

    X, y, _ = iris
    with pytest.raises(UsageError, match="Doubled has a predict of its own"):
        gpubp.to_onnx(Doubled(**OPTIONS).fit(X, y))
    with pytest.raises(UsageError, match="StandardScaler cannot be exported"):
        gpubp.to_onnx(StandardScaler().fit(X))
    with pytest.raises(UsageError, match="raw_rows is for a network"):
        gpubp.to_onnx(gpubp.MLPRegressor(**OPTIONS).fit(X, y), raw_rows=True)


def test_a_pipeline_needs_skl2onnx(iris, monkeypatch):
    X, y, _ = iris
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(UsageError, match="pip install skl2onnx"):
        gpubp.to_onnx(make_pipeline(StandardScaler(), gpubp.MLPRegressor(**OPTIONS)).fit(X, y))


# -- raw rows ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A folder with a table to train on, and a generator for rows to predict."""
    rng, folder = np.random.default_rng(7), tmp_path_factory.mktemp("tables")
    write_table(folder / "training.csv", 500, rng)
    return folder, rng


def trained(folder, target, numbers="standard", **options):
    """A network trained on the table, with its encoding."""
    ignore = {"kind": ("value",), "value": ("kind",)}[target]
    source = read(folder / "training.csv", target=target, ignore=ignore, missing=("-999",))
    prepared = prepare(source, numbers=numbers)
    net = gpubp.MLP([prepared.n_inputs, 16, prepared.n_outputs], loss=prepared.loss, device="cpu-reference", **options)
    net.preprocessing = prepared.preprocessing
    gpubp.train(net, *prepared.train, epochs=10)
    return net


def assert_same_predictions(net, path, table):
    X, _ = encode(net.preprocessing, read(path, trained=net.preprocessing), with_target=False)
    a = net.forward(X)
    columns = decode(net.preprocessing, a.mean(axis=0) if net.models > 1 else a)
    model = gpubp.to_onnx(net, raw_rows=True)
    outputs = run(model, feeds(model, table))
    if "values" in outputs:
        scale = net.preprocessing["target"]["scale"][0]
        np.testing.assert_allclose(outputs["values"][:, 0] / scale, columns["prediction"] / scale, atol=TOLERANCE)
        return
    np.testing.assert_array_equal(outputs["label"], columns["prediction"])
    for j, name in enumerate(net.preprocessing["target"]["classes"]):
        np.testing.assert_allclose(outputs["probabilities"][:, j], columns[f"probability_{name}"], atol=TOLERANCE)


@pytest.mark.parametrize("target", ["kind", "value"])
def test_a_table_goes_in_column_by_column(tables, target):
    folder, rng = tables
    table = write_table(folder / "rows.csv", 300, rng)
    table["city"][0], table["paid"][1] = "Atlantis", "maybe"  # categories that did not occur
    net = trained(folder, target)
    from_cells = folder / "changed.csv"
    from_cells.write_text("\n".join(map(",".join, [_quoted(table), *map(_quoted, zip(*table.values(), strict=True))])))
    assert_same_predictions(net, from_cells, table)
    model = gpubp.to_onnx(net, raw_rows=True)
    names = ["size", "price", "reading", "only", "city", "paid", "when", "day", "moment"]
    assert [value.name for value in model.graph.input] == names
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert properties == ({"classes": ["large", "medium", "small"]} if target == "kind" else {})


def _quoted(cells):
    return [f'"{cell}"' for cell in cells]


@pytest.mark.thorough
def test_ten_thousand_raw_rows_with_every_activation_and_in_an_ensemble(tables):
    folder, rng = tables
    table = write_table(folder / "many.csv", 10_000, rng)
    for name in ACTIVATIONS:
        assert_same_predictions(trained(folder, "kind", activations=name), folder / "many.csv", table)
    assert_same_predictions(trained(folder, "value"), folder / "many.csv", table)
    assert_same_predictions(trained(folder, "kind", models=4), folder / "many.csv", table)


NUMBERS = ["robust", "piecewise(4)", "steps(bins=4)", "fourier", "robust(clip=2)+piecewise(by=quantile)+fourier(3)"]
NUMBERS += ["standard+forest(trees=5, leaves=4, height=0.5)"]


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("target", ["kind", "value"])
def test_every_encoding_of_numbers(tables, target, numbers):
    folder, rng = tables
    table = write_table(folder / "encoded.csv", 200, rng)
    net = trained(folder, target, numbers=numbers)
    if target == "value":
        clamp(net.preprocessing["target"], np.array([[-0.5], [0.5]]))
    assert_same_predictions(net, folder / "encoded.csv", table)


def test_the_network_of_the_preset_fast_has_a_form():
    (recipe,) = PRESETS["fast"].recipes
    assert {parse("encoding of numbers", part)[0] for part in RECIPES[recipe].numbers.split("+")} <= FORMS.keys()


@pytest.mark.parametrize("numbers", ["robust", "fourier"])
def test_numbers_too_far_out_for_the_scale_of_training_are_clipped(tmp_path, rng, numbers):
    path = tmp_path / "tiny.csv"
    cells = [f"{value!r},{row}.5" for row, value in enumerate((rng.normal(size=50) * 1e-280).tolist())]
    path.write_text("\n".join(["a,b", *cells]))
    prepared = prepare(read(path), test=0.0, numbers=numbers)
    net = gpubp.MLP([prepared.n_inputs, 1], loss=prepared.loss, seed=0, device="cpu-reference")
    net.preprocessing = prepared.preprocessing
    path.write_text("a,b\n1.0,0.5\n-1e30,0.5\n")
    X, _ = encode(net.preprocessing, read(path, trained=net.preprocessing))
    of_graph = run(gpubp.to_onnx(net, raw_rows=True), {"a": np.array([[1.0], [-1e30]])})["values"]
    expected = decode(net.preprocessing, net.forward(X))["prediction"]
    np.testing.assert_allclose(np.ravel(of_graph), expected, rtol=1e-5)


def test_an_encoding_without_a_form_and_a_preset_of_several_networks_are_refused(tables, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = tables
    with pytest.raises(UsageError, match='"quantile" has no form in ONNX; train with --numbers of standard, robust'):
        gpubp.to_onnx(trained(folder, "value", numbers="quantile"), raw_rows=True)
    arguments = ["--target", "value", "--ignore", "kind", "--preset", "good", "--epochs", 1, "--out", "run", "--quiet"]
    done = gpubp_command("train", folder / "training.csv", *arguments)
    assert done.exit_code == 0, done.output
    refused = gpubp_command("export", "run", "model.onnx")
    assert refused.exit_code == 2 and "holds the networks of a preset" in refused.stderr


@pytest.mark.parametrize("declared", [(), ("-9", "unsaid")])
def test_categories_that_elsewhere_mean_that_a_value_is_missing(tmp_path, declared):
    """Files of format 1 have such categories; what a user declared is missing all the same."""
    cells = ["NA", "x", "nan", "", "1", "1.0", "1.00", "-9", "-9.0", "unsaid", "y"]
    path = tmp_path / "cells.csv"
    path.write_text("\n".join(["c,d", *(f"{cell},0" for cell in cells)]))
    numbers = {"names": [], "width": 0, "mean": [], "scale": [], "fill": [], "indicators": []}
    known = {"name": "c", "values": ["-9", "1", "NA", "x"], "indicator": True}
    preprocessing = {
        "features": {"kind": "table", "numbers": numbers, "categories": [known]},
        "target": {"type": "values", "name": None, "outputs": 5, "mean": [0.0] * 5, "scale": [1.0] * 5},
    }
    if declared:
        schema = schema_of_network(preprocessing)
        preprocessing["schema"] = replace(schema, options=TableOptions(missing=declared)).to_json()
    net = gpubp.MLP([5, 5], loss="half_squared_error", init="zeros", device="cpu-reference")
    net.weights[0][...] = np.eye(5)
    net.preprocessing = preprocessing
    X, _ = encode(preprocessing, read(path, trained=preprocessing), with_target=False)
    one_hot = run(gpubp.to_onnx(net, raw_rows=True), {"c": np.array(cells, object)[:, None]})["values"]
    differs = cells.index("1.00")  # a spelling of 1 that the graph does not know
    np.testing.assert_array_equal(np.delete(one_hot, differs, 0), np.delete(X, differs, 0))
    assert not one_hot[differs].any()


def test_a_column_called_as_an_output_and_one_called_as_a_constant(tmp_path, rng):
    path = tmp_path / "names.csv"
    rows = [f"{a:.3f},{b:.3f},{'x' if a > b else 'y'}" for a, b in rng.normal(size=(60, 2))]
    path.write_text("\n".join(["label,constant,kind", *rows]))
    prepared = prepare(read(path, target="kind"))
    net = gpubp.MLP([prepared.n_inputs, 4, prepared.n_outputs], device="cpu-reference")
    net.preprocessing = prepared.preprocessing
    model = gpubp.to_onnx(net, raw_rows=True)
    assert [value.name for value in model.graph.output] == ["label_output", "probabilities"]
    one = np.array([[0.5]])
    assert run(model, {"label": one, "constant": one})["label_output"].shape == (1,)


def test_pixels_are_divided_by_255(tmp_path, rng):
    path = tmp_path / "pictures.npz"
    pixels = rng.integers(0, 256, (60, 4, 4)).astype(np.uint8)
    np.savez(path, X=pixels, y=rng.integers(0, 3, 60))
    prepared = prepare(read(path))
    net = gpubp.MLP([16, 4, 3], device="cpu-reference")
    net.preprocessing = prepared.preprocessing
    outputs = run(gpubp.to_onnx(net, raw_rows=True), {"X": pixels.reshape(60, 16)})
    encoded, _ = encode(prepared.preprocessing, read(path), with_target=False)
    np.testing.assert_allclose(outputs["probabilities"], net.forward(encoded), atol=TOLERANCE)


def test_arrays_with_gaps(tmp_path, rng):
    path = tmp_path / "arrays.npz"
    X = rng.normal(5, 3, (80, 3))
    X[::7, 1] = np.nan
    np.savez(path, X=X, y=np.column_stack([X[:, 0] > 5, X[:, 2] > 5]).astype(int))
    prepared = prepare(read(path))
    net = gpubp.MLP([4, 4, 2], loss=prepared.loss, device="cpu-reference")
    net.preprocessing = prepared.preprocessing
    outputs = run(gpubp.to_onnx(net, raw_rows=True), {"X": X})
    encoded, _ = encode(prepared.preprocessing, read(path), with_target=False)
    np.testing.assert_allclose(outputs["probabilities"], net.forward(encoded), atol=TOLERANCE)
    np.testing.assert_array_equal(outputs["label"], net.predict(encoded))


def test_the_encoding_has_to_be_there():
    with pytest.raises(UsageError, match="does not say how raw rows are encoded"):
        gpubp.to_onnx(gpubp.MLP([4, 2], device="cpu-reference"), raw_rows=True)


# -- the command -------------------------------------------------------------------------------------------


def test_the_command_exports_a_run(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    assert gpubp_command("train", "iris", "--epochs", "2", "--hidden", "4", "--out", "run", "--quiet").exit_code == 0
    done = gpubp_command("export", "run", "iris.onnx")
    assert done.exit_code == 0, done.output
    assert "takes sepal length (cm), sepal width (cm), petal length (cm), petal width (cm)" in done.output
    assert "gives label, probabilities" in done.output
    X, _ = load_iris(return_X_y=True)
    model = onnx.load("iris.onnx")
    outputs = run(model, {value.name: X[:, [j]] for j, value in enumerate(model.graph.input)})
    net = gpubp.MLP.load("run/model.safetensors", device="cpu-reference")
    encoded, _ = encode(net.preprocessing, read("iris"), with_target=False)
    assert list(outputs["label"]) == list(decode(net.preprocessing, net.forward(encoded))["prediction"])


def test_the_command_exports_estimators_and_ensembles(tmp_path, monkeypatch, iris):
    monkeypatch.chdir(tmp_path)
    X, _, names = iris
    est = gpubp.MLPClassifier(**OPTIONS).fit(X, names)
    ensemble = gpubp.MLPEnsembleClassifier(gpubp.MLPClassifier(**OPTIONS), 2, random_state=0).fit(X, names)
    onnx = pytest.importorskip("onnx")
    for fitted in (est, ensemble):
        fitted.save("model.safetensors")
        assert gpubp_command("export", "model.safetensors", "model.onnx").exit_code == 0
        np.testing.assert_array_equal(run(onnx.load("model.onnx"), {"X": X})["label"], fitted.predict(X))


def test_the_command_refuses_what_would_be_lost_or_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gpubp.MLP([4, 2], device="cpu-reference").save("model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    for out, why in (("model.safetensors", "is the model itself"), ("net.pt", "ends in .onnx or .safetensors")):
        done = gpubp_command("export", "model.safetensors", out)
        assert done.exit_code == 2 and why in done.output
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert "no such" in gpubp_command("export", "nothing", "net.onnx").output
