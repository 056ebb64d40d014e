"""A search whose stacks are trained by the workers of a Dask cluster."""

from __future__ import annotations

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gpubp import MLPClassifier, MLPSearchCV

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

    X, y = (a[:600] for a in load_digits(return_X_y=True))
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
