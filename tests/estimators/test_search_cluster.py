"""A search whose stacks are trained by the workers of a Dask cluster, or of joblib's own backends."""

from __future__ import annotations

import os
import signal
import threading
import time

import joblib
import numpy as np
import pytest
from joblib._parallel_backends import ThreadingBackend
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gpubp import MLPClassifier, MLPSearchCV

DIGITS = tuple(a[:600] for a in load_digits(return_X_y=True))
pytestmark = [
    pytest.mark.backends,  # a cluster takes its time to start
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


@pytest.fixture(scope="module")
def client():
    """Two worker processes on this machine."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client:
            yield client


@pytest.mark.parametrize("halving", [False, True])
def test_results_do_not_depend_on_the_workers(client, halving):
    from distributed import get_task_stream

    X, y = DIGITS
    grid = {
        "mlpclassifier__hidden_layer_sizes": [(8,), (6, 6)],
        "mlpclassifier__learning_rate_init": [1e-3, 1e-2],
        "standardscaler__with_std": [False, True],
    }
    net = make_pipeline(StandardScaler(), MLPClassifier(max_iter=4, random_state=0, device="cpu"))
    search = MLPSearchCV(net, grid, cv=3, scoring="neg_log_loss", halving=halving)
    here = search.fit(X, y).cv_results_
    with get_task_stream(client) as stream, joblib.parallel_config(backend="dask"):
        spread = search.fit(X, y).cv_results_
    assert len(stream.data) >= 2  # a stack for each shape
    assert list(spread) == list(here) and spread["params"] == here["params"]
    for name in here:
        if name.startswith(("split", "mean_test", "rank_test")):
            np.testing.assert_allclose(spread[name], here[name], rtol=1e-10, err_msg=name)
    assert search.best_estimator_.predict(X).shape == (600,)


def small_search(epochs: int = 4) -> MLPSearchCV:
    """Four shapes, so four stacks."""
    grid = {"hidden_layer_sizes": [(8,), (6, 6), (5,), (7,)], "learning_rate_init": [1e-3, 1e-2]}
    return MLPSearchCV(MLPClassifier(max_iter=epochs, random_state=0, device="cpu"), grid, cv=3, scoring="neg_log_loss")


def test_the_loss_of_a_worker_changes_nothing(client):
    X, y = DIGITS
    search = small_search(epochs=60)
    here = search.fit(X, y).cv_results_["mean_test_score"]
    killed = []

    def kill_a_worker() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and not killed:
            time.sleep(0.05)
            if all(client.processing().values()):  # each worker has a stack to train
                worker, process = sorted(client.run(os.getpid).items())[0]
                os.kill(process, signal.SIGKILL)
                killed.append(worker)

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    with joblib.parallel_config(backend="dask"):
        spread = search.fit(X, y).cv_results_["mean_test_score"]
    killer.join()
    assert len(killed) == 1
    np.testing.assert_allclose(spread, here, rtol=1e-10)


def test_a_backend_of_joblib_that_gives_all_results_at_once_is_one_too(monkeypatch):
    """As Ray's is, and that of multiprocessing."""
    monkeypatch.setattr(ThreadingBackend, "supports_return_generator", False)
    X, y = DIGITS
    search = small_search()
    here = search.fit(X, y).cv_results_["mean_test_score"]
    with joblib.parallel_config(backend="threading", n_jobs=2):
        spread = search.fit(X, y).cv_results_["mean_test_score"]
    np.testing.assert_allclose(spread, here, rtol=1e-10)
