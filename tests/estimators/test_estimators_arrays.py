"""Arrays of other libraries in, arrays of theirs out; and a GPU's memory is where it stays."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn
from sklearn.datasets import load_iris

from gpubp import DataError, MLPClassifier, MLPRegressor
from support.cuda_host.arrays import DeviceArray
from support.package import PACKAGE

VERSION = tuple(int(part) for part in sklearn.__version__.split(".")[:2])
STRICT = """
import sys, warnings
from sklearn.utils import estimator_checks as checks
import array_api_strict, gpubp
warnings.simplefilter("ignore")
for name in sys.argv[1:]:
    estimator = getattr(gpubp, name)(device="cpu", max_iter=3)
    for dtype in ("float32", "float64"):
        checks.check_array_api_input_and_values(name, estimator, "array_api_strict", dtype_name=dtype)
    checks.check_array_api_same_namespace(name, estimator, "array_api_strict")
    print(name, "alike")
"""

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.backends  # it imports scikit-learn anew
@pytest.mark.skipif(VERSION < (1, 9), reason="scikit-learn's helpers for this are those of 1.9")
def test_arrays_of_the_standard():
    """In a process of its own: SciPy looks at SCIPY_ARRAY_API when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", STRICT, "MLPClassifier", "MLPRegressor"],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        env={"PATH": "", "SCIPY_ARRAY_API": "1", "HOME": str(Path.home())},
        timeout=300,
    )
    assert done.stdout.splitlines() == ["MLPClassifier alike", "MLPRegressor alike"], done.stderr


def test_the_tag_says_so():
    assert MLPClassifier().__sklearn_tags__().array_api_support


# -- a GPU -------------------------------------------------------------------------------------------------


@pytest.fixture
def iris():
    X, y = load_iris(return_X_y=True)
    return X - X.mean(axis=0), y


def test_parts_of_arrays_on_the_gpu_are_as_good_as_arrays(gpu, iris):
    """Columns of X, and a column of it as y, lie in pieces."""
    X, _ = iris
    there = gpu.to_device(np.hstack([X, X]))
    wanted = MLPRegressor(max_iter=3, random_state=0).fit(X, X[:, 0]).predict(X)
    found = MLPRegressor(max_iter=3, random_state=0).fit(there[:, :4], there[:, 0]).predict(there[:, :4])
    np.testing.assert_allclose(found.get(), wanted, rtol=1e-9)


@pytest.mark.parametrize("changed", [{}, {"early_stopping": True}, {"solver": "lbfgs"}, {"batch_size": 150}])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_lies_on_the_gpu_stays_there(gpu, iris, dtype, changed):
    X, y = iris[0].astype(dtype), iris[1]
    parameters = {"max_iter": 4, "random_state": 0, "hidden_layer_sizes": (8,), **changed}
    on_host = MLPClassifier(**parameters).fit(X, y)
    there, labels = gpu.to_device(X), gpu.to_device(y)
    gpu.copied.clear()
    clf = MLPClassifier(**parameters).fit(there, labels)
    assert X.size not in gpu.copied  # labels are encoded on the host, but no row comes to it
    assert all(isinstance(W, DeviceArray) and W.dtype == dtype for W in clf.coefs_ + clf.intercepts_)
    for found, expected in zip(clf.coefs_ + clf.intercepts_, on_host.coefs_ + on_host.intercepts_, strict=True):
        np.testing.assert_array_equal(found.get(), expected)
    gpu.copied.clear()
    results = [clf.predict(there), clf.predict_proba(there), clf.predict_log_proba(there)]
    assert all(isinstance(array, DeviceArray) for array in results) and set(gpu.copied) <= {1}
    for found, expected in zip(results, (on_host.predict(X), on_host.predict_proba(X)), strict=False):
        np.testing.assert_allclose(found.get(), expected, rtol=1e-6)
    assert clf.score(there, labels) == on_host.score(X, y)
    np.testing.assert_array_equal(clf.predict(X), on_host.predict(X))


def test_values_labels_and_text(gpu, iris):
    X, y = iris
    there = gpu.to_device(X)
    gpu.copied.clear()
    regressor = MLPRegressor(max_iter=3, random_state=0, dropout=0.1).fit(there, gpu.to_device(X[:, :2]))
    assert not {300, 600} & set(gpu.copied)  # neither targets nor rows come to the host
    expected = MLPRegressor(max_iter=3, random_state=0, dropout=0.1).fit(X, X[:, :2]).predict(X)
    np.testing.assert_allclose(regressor.predict(there).get(), expected)
    assert regressor.partial_fit(there, X[:, :2], np.ones(150)).predict(there).shape == (150, 2)
    column = MLPRegressor(max_iter=3, random_state=0).fit(there, gpu.to_device(X[:, :1]))
    expected = MLPRegressor(max_iter=3, random_state=0).fit(X, X[:, 0]).predict(X)
    np.testing.assert_allclose(column.predict(there).get(), expected)
    for values in (np.full(150, np.nan), np.zeros((150, 1, 1))):
        with pytest.raises(DataError, match="y contains NaN|y has shape"):
            MLPRegressor().fit(there, gpu.to_device(values))
    with pytest.raises(DataError, match='y holds values outside 0 .*"poisson"'):
        MLPRegressor("poisson").fit(there, gpu.to_device(np.full(150, -1.0)))
    binary = MLPClassifier(max_iter=3, random_state=0).fit(there, np.where(y > 0, "b", "a"))
    assert set(binary.predict(there)) <= {"a", "b"}  # text has no place on a GPU
    assert binary.predict_proba(there).shape == (150, 2)
    labels = MLPClassifier(max_iter=3, random_state=0).fit(there, X[:, :3] > 0)
    assert isinstance(labels.predict(there), DeviceArray)


def test_weights_on_the_gpu_are_the_truth_and_are_kept_on_the_host(gpu, iris):
    there, y = gpu.to_device(iris[0]), iris[1]
    clf = MLPClassifier(max_iter=3, random_state=0).fit(there, y)
    twin = pickle.loads(pickle.dumps(clf))
    assert all(type(W) is np.ndarray for W in (*twin.coefs_, *twin.intercepts_, *twin._optimizer.slots))
    np.testing.assert_array_equal(twin.predict(there).get(), clf.predict(there).get())
    clf.partial_fit(there, y), twin.partial_fit(there, y)
    np.testing.assert_array_equal(clf.coefs_[0].get(), twin.coefs_[0].get())
    clf.intercepts_[-1] = gpu.to_device(np.array([0.0, 0.0, 1e6]))
    assert (clf.predict(there).get() == 2).all()
    clf.fit(iris[0], y)
    assert all(type(W) is np.ndarray for W in clf.coefs_)  # as X is


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X[:, :3], "has 3 features, but MLPClassifier is expecting 4 features"),
        (lambda X: X[0], r"X has shape \(4,\); it must be \(rows, columns\)"),
        (lambda X: X[:0], "X has no rows"),
        (lambda X: X * np.nan, "Input X contains NaN or infinity"),
    ],
)
def test_rows_on_the_gpu_are_checked_as_well(gpu, iris, change, message):
    there = gpu.to_device(iris[0])
    clf = MLPClassifier(max_iter=1, random_state=0).fit(there, iris[1])
    with pytest.raises(ValueError, match=message):
        clf.predict(change(there))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        clf.fit(there, iris[1][:9])
    with pytest.raises(DataError, match="X holds values too large for float32"):
        MLPClassifier(precision="float32").fit(there * 1e300, iris[1])


def test_a_processor_that_is_asked_for_gets_its_copy(gpu, iris):
    clf, there = MLPClassifier(max_iter=2, random_state=0, device="cpu"), gpu.to_device(iris[0])
    assert isinstance(clf.fit(there, iris[1]).predict(there), DeviceArray)
    assert isinstance(clf.coefs_[0], DeviceArray) and isinstance(clf._stack.theta, np.ndarray)
