"""Metadata that do not fit together are refused by name when a file is loaded, and never end in a traceback.

Their digest is right, so that nothing but the check of the metadata as a whole can notice.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import gpubp
from gpubp import DataError, GpubpError
from gpubp.cli import display, metrics
from gpubp.data import decode, prepare, read
from gpubp.tabular.predictor import encode, load_network
from tests.support.damaged_metadata import metadata_of, save_with, variants

pytestmark = pytest.mark.filterwarnings("ignore")  # numbers near the end of the range overflow, which is no fault
GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FILES = ("format-1-price", "format-2-quality", "format-3-price", "format-3-quality")


def use(path: Path, rows: Path) -> None:
    """Do with a file all that the commands inspect, predict and evaluate do."""
    net = load_network(path, "cpu-reference")
    if net.preprocessing is None:  # a network of arrays
        return
    X, y = encode(net, read(rows, trained=net.preprocessing))
    outputs = net.forward(X)
    decode(net.preprocessing, outputs)
    metrics.score(net, X, y)
    if metrics.baseline(net.preprocessing, y) is not None:
        metrics.baseline_name(net.preprocessing)
    metrics.confusion(net.preprocessing, y, outputs)
    display.describe_preprocessing(net.preprocessing)


def check(original: Path, damaged: Path, stride: int, function) -> None:
    """Use a file with every `stride`-th change of its metadata; only errors that name it are allowed."""
    function(original)
    refused = 0
    for what, metadata in itertools.islice(variants(metadata_of(original)), stride // 2, None, stride):
        if not what.startswith("format"):
            save_with(damaged, original, metadata)
            try:
                function(damaged)
            except GpubpError:
                refused += 1
            except Exception as error:
                raise AssertionError(f"{what}: {error!r}") from error
    assert refused > 3, "the test of the test"


@pytest.mark.parametrize("name", FILES)
def test_changed_metadata_of_a_network_are_refused_or_harmless(tmp_path, name):
    check(GOLDEN / f"{name}.safetensors", tmp_path / "m", 151, lambda path: use(path, GOLDEN / "training.csv"))


@pytest.mark.thorough
@pytest.mark.parametrize("name", FILES)
def test_many_changes_of_the_metadata_of_a_network(tmp_path, name):
    check(GOLDEN / f"{name}.safetensors", tmp_path / "m", 7, lambda path: use(path, GOLDEN / "training.csv"))


@pytest.mark.thorough
def test_changed_encodings_of_numbers(tmp_path):
    data = read(GOLDEN / "training.csv", target="price", ignore={"quality"})
    prepared = prepare(data, test=0.0, numbers="quantile+piecewise+fourier(2)+steps(4)+robust+standard+forest(2)")
    net = gpubp.MLP([prepared.n_inputs, 3, prepared.n_outputs], loss=prepared.loss, device="cpu-reference")
    net.preprocessing = prepared.preprocessing
    net.save(tmp_path / "original")
    check(tmp_path / "original", tmp_path / "m", 9, lambda path: use(path, GOLDEN / "training.csv"))


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["estimator", "ensemble", "preset"])
def test_changed_metadata_of_estimators(tmp_path, rng, kind):
    X = rng.normal(size=(60, 2))
    y = np.where(X[:, 0] > 0, "yes", "no")
    if kind == "preset":
        X = pd.DataFrame(X, columns=["a", "b"]).assign(c=np.where(X[:, 1] > 0, "u", "v"))
        est, stride = gpubp.TabularClassifier("fast", epochs=1, device="cpu"), 13
    elif kind == "estimator":
        est, stride = gpubp.MLPClassifier((3,), max_iter=2, device="cpu-reference"), 7
    else:
        est, stride = gpubp.MLPEnsembleClassifier(n_estimators=2, hidden_layer_sizes=(3,), max_iter=2), 7
    est.fit(X, y).save(tmp_path / "original")
    check(
        tmp_path / "original", tmp_path / "m", stride, lambda path: type(est).load(path, "cpu-reference").predict(X[:9])
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(preprocessing=[]), r"preprocessing is \[\], not a record"),
        (lambda m: m.update(preprocessing={}), "preprocessing: 'features' is missing"),
        (lambda m: m["preprocessing"]["target"]["classes"].pop(), "target.classes has 2 entries, not 3"),
        (lambda m: m["preprocessing"]["features"]["categories"].pop(), "features make 8 inputs, and the network takes"),
        (lambda m: m["preprocessing"]["features"]["numbers"]["scale"].insert(0, 0), "scale has 4 entries, not 3"),
        (lambda m: m["preprocessing"]["features"]["numbers"].update(scale=[1, 0, 1]), "scale is .*, which is not 0"),
        (lambda m: m["preprocessing"]["schema"]["columns"].pop("area"), 'schema.columns: lacks "area"'),
        (lambda m: m["preprocessing"]["schema"]["options"].update(speed=1), "unexpected keyword argument 'speed'"),
        (lambda m: m.update(precision=[]), r"precision is \[\], not text"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    original = GOLDEN / "format-3-quality.safetensors"
    metadata = metadata_of(original)
    change(metadata)
    save_with(tmp_path / "m.safetensors", original, metadata)
    with pytest.raises(DataError, match=rf"m\.safetensors.*{message}"):
        load_network(tmp_path / "m.safetensors", "cpu-reference")


def test_a_column_that_is_called_as_the_target_of_an_estimator_is_no_target(tmp_path):
    X = pd.DataFrame({"a": np.arange(40.0), "b": np.arange(40.0) % 7})
    gpubp.TabularClassifier("fast", epochs=1, device="cpu").fit(X, X["b"] > 2).save(tmp_path / "m")
    X.assign(target="x").to_csv(tmp_path / "rows.csv", index=False)
    predictor = gpubp.load(tmp_path / "m", "cpu")
    assert predictor.predict(tmp_path / "rows.csv").shape == (40,)
    data = read(tmp_path / "rows.csv", trained=predictor.net.preprocessing)
    assert encode(predictor.net, data)[1] is None


def test_a_type_of_classes_that_takes_gigabytes_is_refused(tmp_path):
    X = np.arange(8.0).reshape(4, 2)
    gpubp.MLPClassifier((2,), max_iter=1).fit(X, ["a", "b", "a", "b"]).save(tmp_path / "original")
    metadata = metadata_of(tmp_path / "original")
    metadata["estimator"]["classes"]["dtype"] = "<U60000000"
    save_with(tmp_path / "m", tmp_path / "original", metadata)
    with pytest.raises(DataError, match="not a type of texts that have 1 characters at most"):
        gpubp.MLPClassifier.load(tmp_path / "m")


def test_weights_that_are_not_finite_are_named(tmp_path):
    net = gpubp.MLP([3, 2, 2], device="cpu-reference")
    net.weights[1][1, 0] = np.nan
    net.save(tmp_path / "m.safetensors")
    with pytest.raises(DataError, match=r"weights\.1: 1 of 4 values are not finite, the first, number 2 of network 0"):
        gpubp.MLP.load(tmp_path / "m.safetensors")
