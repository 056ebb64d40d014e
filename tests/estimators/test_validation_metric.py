"""Early stopping by a metric of choice, and the loss on the rows of validation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, get_scorer, make_scorer, mean_pinball_loss, roc_auc_score
from test_estimators_parity import PAIRS, data

from gpubp import MLPClassifier, MLPRegressor, MLPSearchCV
from gpubp.estimators.data import Subset

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
PARAMETERS = {"hidden_layer_sizes": (6,), "max_iter": 8, "random_state": 0, "early_stopping": True, "device": "cpu"}
CASES = [
    ("binary", "roc_auc"),
    ("binary", "neg_log_loss"),
    ("classes", "f1_macro"),
    ("classes", "neg_log_loss"),
    ("labels", "f1_micro"),
    ("value", "neg_mean_absolute_error"),
    ("value", make_scorer(mean_pinball_loss, greater_is_better=False, alpha=0.9)),
    ("values", "neg_root_mean_squared_error"),
]


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize(("task", "metric"), CASES)
def test_the_best_score_is_that_of_the_weights_that_are_kept(task, metric, weighted, rng):
    X, y = data(task, rng)
    held_out = (X[150:], y[150:], rng.uniform(0.5, 2.0, 80)) if weighted else (X[150:], y[150:])
    make = PAIRS["regressor" if task.startswith("value") else "classifier"][0]
    est = make(**PARAMETERS, early_stopping_metric=metric).fit(X[:150], y[:150], validation_data=held_out)
    weight = {"sample_weight": held_out[2]} if weighted else {}
    assert est.best_validation_score_ == pytest.approx(get_scorer(metric)(est, *held_out[:2], **weight))
    assert est.best_validation_score_ == max(est.validation_scores_) and len(est.validation_scores_) == est.n_iter_


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("task", ["binary", "classes", "labels", "value", "values"])
def test_the_loss_on_the_rows_that_early_stopping_sets_aside(task, weighted, rng, monkeypatch):
    """Recorded after every epoch, without the penalty; the weights that are kept are those of the best score."""
    X, y = data(task, rng)
    weight = rng.uniform(0.5, 2.0, len(X)) if weighted else None
    splits, split = [], Subset.split
    monkeypatch.setattr(Subset, "split", lambda *arguments: splits.append(split(*arguments)) or splits[-1])
    make = PAIRS["regressor" if task.startswith("value") else "classifier"][0]
    est = make(**PARAMETERS, alpha=10.0).fit(X, y, weight)
    [(_, held_out)] = splits
    assert len(est.validation_loss_curve_) == len(est.validation_scores_) == est.n_iter_ == 8
    (loss,), _ = est._network().evaluate(held_out.X, held_out.y, held_out.weight, [held_out.rows])
    assert est.validation_loss_curve_[np.argmax(est.validation_scores_)] == pytest.approx(loss, rel=1e-12)
    est.set_params(warm_start=True).fit(X, y, weight)
    assert len(est.validation_loss_curve_) == len(est.loss_curve_) > 8


def test_rows_that_are_set_aside_and_stacks(rng):
    X, y = data("binary", rng)
    clf = MLPClassifier(**PARAMETERS, early_stopping_metric="roc_auc").fit(X, y)
    plain = MLPClassifier(**PARAMETERS).fit(X, y)
    assert clf.validation_scores_ != plain.validation_scores_
    np.testing.assert_allclose(clf.loss_curve_, plain.loss_curve_)  # the same rows, the same training
    search = MLPSearchCV(MLPClassifier(**PARAMETERS), {"early_stopping_metric": ["roc_auc", None]}, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_a_function_of_the_users_own(rng):
    X, y = data("binary", rng)

    def auc(est, X, y):
        return roc_auc_score(y, est.predict_proba(X)[:, 1])

    scores = [
        MLPClassifier(**PARAMETERS, early_stopping_metric=metric).fit(X, y).validation_scores_
        for metric in (auc, "roc_auc")
    ]
    assert scores[0] == pytest.approx(scores[1])
    with pytest.raises(ValueError, match="The 'early_stopping_metric' parameter of MLPRegressor must be"):
        MLPRegressor(early_stopping_metric="auc").fit(X, y)


def test_weights_go_to_the_scorers_that_take_them(rng):
    X, y = data("binary", rng)
    given, class_weight = [], {-1: 1.0, 7: 3.0}

    def accuracy(est, X, y):
        return accuracy_score(y, est.predict(X))

    def weighted_accuracy(est, X, y, sample_weight=None):
        given.append(sample_weight)
        return accuracy_score(y, est.predict(X), sample_weight=sample_weight)

    def all_scores(metric, **weights):
        return MLPClassifier(**PARAMETERS, early_stopping_metric=metric, **weights).fit(X, y).validation_scores_

    assert len(all_scores(accuracy, class_weight="balanced")) == 8
    assert len(all_scores("rand_score", class_weight=class_weight)) == 8
    assert all_scores(weighted_accuracy, class_weight=class_weight) == all_scores("accuracy", class_weight=class_weight)
    assert {1.0, 3.0} == set(np.concatenate(given))
