"""A model file of every format that there has been loads for ever, and predicts with the same bits.

Their weights are multiples of 1/64, and inputs are small whole numbers once they are encoded: every product and every
sum is exact in float32, so that the bits are the same whatever BLAS adds up in whatever order. What a new format writes
is added by ``python tests/interchange/test_golden_files.py``, and stays as it is from then on.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gpubp
from gpubp.data import decode, encode, prepare, read
from gpubp.serialization import FORMAT

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TARGETS = {"price": "half_squared_error", "quality": "cross_entropy"}
ENSEMBLE_ROWS = [[0.0, 1.0], [2.0, -3.0], [-1.5, 0.25]]


def test_there_is_a_file_for_every_format():
    formats = {int(path.stem.split("-")[1]) for path in GOLDEN.glob("format-*.safetensors")}
    assert formats == set(range(1, FORMAT + 1))


def test_the_files_are_small():
    assert sum(path.stat().st_size for path in GOLDEN.iterdir()) < 50_000


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("format-*.safetensors")))
def test_it_predicts_the_same_bits(name):
    path, expected = GOLDEN / f"{name}.safetensors", json.loads((GOLDEN / f"{name}.json").read_text())
    if name.endswith("ensemble"):
        ensemble = gpubp.MLPEnsembleRegressor.load(path, device="cpu-reference")
        np.testing.assert_array_equal(ensemble.predict(np.array(ENSEMBLE_ROWS, np.float32)), expected["predictions"])
        return
    assert predictions(path) == expected


def predictions(path):
    """What a network predicts of the rows in tests/golden, and the logits that it does it by."""
    net = gpubp.MLP.load(path, device="cpu-reference")
    X, _ = encode(net.preprocessing, read(GOLDEN / "rows.csv", trained=net.preprocessing), with_target=False)
    columns = decode(net.preprocessing, net.forward(X))
    return {
        "X": X.tolist(),
        "logits": net.stack.layer_values(X, -1)[0].tolist(),
        "predictions": columns["prediction"].tolist(),
    }


def write():
    """Write a file of each kind in the present format, and what they predict."""
    for target, loss in TARGETS.items():
        data = read(GOLDEN / "training.csv", target=target, ignore=TARGETS.keys() - {target})
        prepared = prepare(data, test=0.0, loss=loss)
        sizes = [prepared.n_inputs, 5, prepared.n_outputs]
        net = gpubp.MLP(sizes, "relu", loss, seed=1, device="cpu-reference")
        net.preprocessing = prepared.preprocessing
        round_weights([*net.weights, *net.biases])
        path = GOLDEN / f"format-{FORMAT}-{target}.safetensors"
        net.save(path)
        path.with_suffix(".json").write_text(json.dumps(predictions(path)) + "\n")
    member = gpubp.MLPRegressor(hidden_layer_sizes=(3,), max_iter=1, random_state=0, device="cpu-reference")
    X = np.array(ENSEMBLE_ROWS, np.float32)
    ensemble = gpubp.MLPEnsembleRegressor(member, n_estimators=2, random_state=0).fit(X, X.sum(axis=1))
    for est in ensemble.estimators_:
        round_weights([*est.coefs_, *est.intercepts_])
    path = GOLDEN / f"format-{FORMAT}-ensemble.safetensors"
    ensemble.save(path)
    path.with_suffix(".json").write_text(json.dumps({"predictions": ensemble.predict(X).tolist()}) + "\n")


def round_weights(arrays):
    """Make parameters multiples of 1/64, in place; biases too, which begin at zero."""
    for i, array in enumerate(arrays):
        array[...] = np.round(array * 64 + (array.ndim == 1) * (i + 1)) / 64


if __name__ == "__main__":
    write()
