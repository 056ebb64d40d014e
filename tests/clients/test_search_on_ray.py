"""A search whose stacks are trained by the workers of Ray's joblib backend.

pip install '.[test,clients]' && pytest -m clients
"""

from __future__ import annotations

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_digits

from gpubp import MLPClassifier, MLPSearchCV

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def ray():
    """Two workers on this machine."""
    ray = pytest.importorskip("ray", reason="ray is not installed; it is in the extra clients")
    from ray.util.joblib import register_ray

    register_ray()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield ray
    ray.shutdown()


def test_results_do_not_depend_on_the_workers(ray):
    X, y = (a[:600] for a in load_digits(return_X_y=True))
    grid = {"hidden_layer_sizes": [(8,), (6, 6)], "learning_rate_init": [1e-3, 1e-2]}
    net = MLPClassifier(max_iter=4, random_state=0, device="cpu")
    search = MLPSearchCV(net, grid, cv=3, scoring="neg_log_loss")
    here = search.fit(X, y).cv_results_
    with joblib.parallel_config(backend="ray", n_jobs=2):
        spread = search.fit(X, y).cv_results_
    assert spread["params"] == here["params"]
    np.testing.assert_allclose(spread["mean_test_score"], here["mean_test_score"], rtol=1e-10)
    assert search.best_estimator_.predict(X).shape == (600,)
