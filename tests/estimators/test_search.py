"""MLPSearchCV: the results of scikit-learn's searches, and what it has beyond them."""

from __future__ import annotations

import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy.stats import loguniform
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_iris
from sklearn.decomposition import PCA
from sklearn.exceptions import DataConversionWarning, FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer, log_loss, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    PredefinedSplit,
    RandomizedSearchCV,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import gpubp
from gpubp import MLPClassifier, MLPRegressor, MLPSearchCV, UsageError
from gpubp.estimators import stacked_fits
from gpubp.estimators.base import BaseMLP
from gpubp.estimators.search import halving
from gpubp.estimators.search.halving import PlannedRung, plan_halving, total_epochs
from support.machines import by_tier

accuracy = get_scorer("accuracy")
pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:One or more of the (test|train) scores are non-finite"),
]


@pytest.fixture(autouse=True)
def reference(estimators_on):
    """The backend on which a network of a stack has the bits that it has alone."""
    estimators_on("reference")


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return (X - X.mean(axis=0)) / X.std(axis=0), np.array(["setosa", "versicolor", "virginica"])[y]


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return X[:150] * 20, (y[:150] - 150) / 80


def classifier(**parameters):
    given = {"max_iter": 4, "random_state": 0, "device": "cpu", "learning_rate_init": 0.01, "batch_size": 32}
    return MLPClassifier((6,), **{**given, **parameters})


def regressor(**parameters):
    return MLPRegressor(hidden_layer_sizes=(6,), max_iter=6, random_state=0, device="cpu", **parameters)


def same_search(ours, theirs, *given, **params):
    """Fit both and compare all that is not time."""
    ours.fit(*given, **params), theirs.fit(*given, **params)
    assert list(ours.cv_results_) == list(theirs.cv_results_)
    for name, column in theirs.cv_results_.items():
        if not name.endswith("_time"):
            found = ours.cv_results_[name]
            assert type(found) is type(column), name
            assert np.ma.getmaskarray(found).tolist() == np.ma.getmaskarray(column).tolist(), name
            found, column = (np.ma.compressed(a) if np.ma.isMA(a) else np.asarray(a) for a in (found, column))
            np.testing.assert_array_equal(found, column, err_msg=name)
    assert (ours.cv_results_["mean_fit_time"] > 0).all() and (ours.cv_results_["mean_score_time"] > 0).all()
    for name in ("best_index_", "best_params_", "best_score_", "n_splits_", "multimetric_"):
        assert hasattr(ours, name) == hasattr(theirs, name), name
        found, expected = (getattr(search, name, None) for search in (ours, theirs))
        assert found == expected or (found != found and expected != expected), name
    assert hasattr(ours, "best_estimator_") == hasattr(theirs, "best_estimator_")
    if hasattr(ours, "best_estimator_"):
        np.testing.assert_array_equal(ours.predict(given[0]), theirs.predict(given[0]))
        assert ours.score(*given[:2]) == theirs.score(*given[:2])
    return ours


# -- as scikit-learn's -------------------------------------------------------------------------------------

GRID = [
    {"alpha": [1e-4, 10.0], "hidden_layer_sizes": [(4,), [6, 5]]},
    {"solver": ["sgd", "lbfgs"], "activation": ["tanh"]},
    {"learning_rate_init": [1e-3, 0.1], "batch_size": [20, 64], "dropout": [0.2]},
]


OPTIONS = [
    {},
    {"cv": ShuffleSplit(3, test_size=0.37, random_state=0), "return_train_score": True},
    {"scoring": ["accuracy", "neg_log_loss"], "refit": "neg_log_loss", "return_train_score": True},
    {"scoring": ["accuracy", "neg_log_loss"], "refit": False},
    {"scoring": "roc_auc_ovr", "refit": lambda results: 3},
    {"scoring": lambda est, X, y: {"a": est.score(X, y), "rows": len(est.predict(X))}, "refit": "a"},
    {"scoring": {"weights": lambda est, X, y: est.coefs_[0].sum()}, "refit": "weights"},
    {"cv": [(np.arange(150) % 3 > 0, np.arange(150) % 3 == 0)]},
]


@pytest.mark.parametrize("options", by_tier(OPTIONS, OPTIONS[:3].__contains__))
def test_a_grid(options, iris):
    options = {"cv": 2, **options}
    ours, theirs = MLPSearchCV(classifier(), GRID, **options), GridSearchCV(classifier(), GRID, **options)
    same_search(ours, theirs, *iris)


def test_random_candidates(iris):
    options = {"n_iter": 5, "cv": 2, "random_state": 3}
    drawn = {"alpha": loguniform(1e-4, 1), "hidden_layer_sizes": [(3,), (5,)]}
    ours = MLPSearchCV(classifier(), param_distributions=drawn, **options)
    same_search(ours, RandomizedSearchCV(classifier(), drawn, **options), *iris)


@pytest.mark.parametrize("scoring", [None, ["r2", "neg_mean_absolute_error"]])
def test_regression(scoring, diabetes):
    X, y = diabetes
    options = {"cv": 4, "scoring": scoring, "refit": "r2" if scoring else True}
    grid = {"alpha": [0.0, 1.0], "loss": ["squared_error", "huber(1)"]}
    for target in (y, np.c_[y, X[:, 0]]):
        same_search(MLPSearchCV(regressor(), grid, **options), GridSearchCV(regressor(), grid, **options), X, target)


def test_groups_and_weights(iris):
    X, y = iris
    params = {"groups": np.arange(150) % 5, "sample_weight": np.linspace(0, 2, 150)}
    grid, options = {"alpha": [0.0, 1.0]}, {"cv": GroupKFold(5), "scoring": "neg_log_loss"}
    ours = same_search(
        MLPSearchCV(classifier(), grid, **options), GridSearchCV(classifier(), grid, **options), X, y, **params
    )
    unweighted = clone(ours).fit(X, y, groups=params["groups"])
    assert (unweighted.cv_results_["mean_test_score"] != ours.cv_results_["mean_test_score"]).all()


def test_weights_are_routed(iris):
    X, y = iris
    w = np.linspace(0, 2, 150)
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(log_loss, greater_is_better=False, response_method="predict_proba")
        net = classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=True)
        options = {"cv": 2, "scoring": scorer.set_score_request(sample_weight=True)}
        for est, name in ((net, "alpha"), (make_pipeline(scaler, net), "mlpclassifier__alpha")):
            grid = {name: [0.0, 1.0]}
            same_search(MLPSearchCV(est, grid, **options), GridSearchCV(est, grid, **options), X, y, sample_weight=w)


@pytest.mark.parametrize("kind", by_tier(["frame", "list", "sparse", "column"], "frame".__eq__))
def test_kinds_of_input(kind, iris):
    X, y = iris
    if kind == "frame":
        X, y = pd.DataFrame(X, columns=list("abcd")), pd.Series(y)
    elif kind == "sparse":
        X = pytest.importorskip("scipy.sparse").csr_array(X)
    elif kind == "list":
        X, y = X.tolist(), y.tolist()
    else:
        y = y[:, None]
    grid = {"alpha": [0.0, 1.0], "solver": ["adam", "lbfgs"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataConversionWarning)  # y is a column
        ours = same_search(MLPSearchCV(classifier(), grid, cv=2), GridSearchCV(classifier(), grid, cv=2), X, y)
    assert hasattr(ours, "feature_names_in_") == (kind == "frame")


def test_a_fold_without_one_of_the_classes(iris):
    """Its networks know two; scores that need all three are not there."""
    X, y = iris
    grid, options = {"alpha": [0.0, 1.0]}, {"cv": PredefinedSplit(np.arange(150) // 50)}
    ours = same_search(MLPSearchCV(classifier(), grid, **options), GridSearchCV(classifier(), grid, **options), X, y)
    assert ours.cv_results_["mean_test_score"].max() == 0  # whoever is tested on has not been seen
    options = {"cv": [(np.arange(120), np.arange(150))], "scoring": "neg_log_loss"}
    short = np.arange(150)[y[np.arange(150)] != "virginica"]
    options["cv"].append((short, np.arange(150)))
    with pytest.warns(UserWarning) as warned:
        same_search(MLPSearchCV(classifier(), grid, **options), GridSearchCV(classifier(), grid, **options), X, y)
    assert [len(re.findall("Scoring failed", str(w.message))) for w in warned].count(1) == 4


# -- pipelines ---------------------------------------------------------------------------------------------


class Counting(TransformerMixin, BaseEstimator):
    """Multiplies, and counts how often it is fitted."""

    fits = 0

    def __init__(self, factor=1.0):
        self.factor = factor

    def fit(self, X, y=None):
        Counting.fits += 1
        assert y is not None
        if self.factor == 0:
            raise ArithmeticError("a factor of 0")
        return self

    def transform(self, X):
        return X * self.factor


def test_steps_are_fitted_once_for_each_fold_and_setting(iris, monkeypatch):
    columns = ColumnTransformer([("a", StandardScaler(), [0, 1]), ("b", MinMaxScaler(), [2, 3])])
    pipeline = make_pipeline(columns, Counting(), PCA(3, svd_solver="randomized", random_state=0), classifier())
    grid = {
        "counting__factor": [0.5, 2.0],
        "columntransformer__a": [StandardScaler(), "passthrough"],
        "mlpclassifier__alpha": [1e-4, 1.0, 3.0],
        "mlpclassifier__hidden_layer_sizes": [(3,), (4,)],
    }
    monkeypatch.setattr(Counting, "fits", 0)
    search = MLPSearchCV(pipeline, grid, cv=3, refit=False).fit(*iris)
    assert Counting.fits == 2 * 2 * 3 and len(search.cv_results_["params"]) == 24
    same_search(search.set_params(refit=True), GridSearchCV(pipeline, grid, cv=3), *iris)


def test_networks_of_a_data_set_share_it(iris, monkeypatch):
    seen = []
    monkeypatch.setattr(stacked_fits.StackedFits, "train", lambda self, until: seen.extend(self.tasks))
    monkeypatch.setattr(stacked_fits.StackedFits, "__init__", lambda self, tasks, *rest: setattr(self, "tasks", tasks))
    for est, name, sets in (
        (classifier(), "alpha", 1),
        (make_pipeline(PCA(), classifier()), "mlpclassifier__alpha", 2),
    ):
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            MLPSearchCV(est, {name: [1, 2, 3]}, cv=2).fit(*iris)
        assert len(seen) == 6 and len({id(task.X) for task in seen}) == sets
        assert len({id(task.est) for task in seen}) == 6


def test_the_network_and_other_steps_may_be_replaced(iris, monkeypatch):
    nested = Pipeline([("scale", StandardScaler()), ("net", Pipeline([("pca", PCA()), ("mlp", classifier())]))])
    grid = [
        {"net__mlp": [classifier(solver="adamw"), classifier(solver="sgd")], "net__pca__n_components": [2, 3]},
        {"net": [make_pipeline(MinMaxScaler(), classifier())], "scale": ["passthrough"]},
    ]
    same_search(MLPSearchCV(nested, grid, cv=2), GridSearchCV(nested, grid, cv=2), *iris)
    assert not any(hasattr(net, "coefs_") for net in grid[0]["net__mlp"])  # copies were trained
    monkeypatch.setattr(Counting, "fits", 0)
    networks = [classifier(), classifier(solver="sgd")]
    MLPSearchCV(make_pipeline(Counting(), classifier()), {"mlpclassifier": networks}, cv=2, refit=False).fit(*iris)
    assert Counting.fits == 2


def test_weights_of_a_pipeline(iris):
    X, y = iris
    pipeline, grid = make_pipeline(StandardScaler(), classifier()), {"mlpclassifier__alpha": [0.0, 1.0]}
    params = {"mlpclassifier__sample_weight": np.linspace(0, 2, 150), "standardscaler__sample_weight": np.ones(150)}
    same_search(MLPSearchCV(pipeline, grid, cv=2), GridSearchCV(pipeline, grid, cv=2), X, y, **params)


# -- targets that are transformed ------------------------------------------------------------------------------

TRANSFORMED = {
    "a network": (
        TransformedTargetRegressor(regressor(), transformer=StandardScaler()),
        {"regressor__alpha": [1e-4, 3.0], "transformer": [StandardScaler(), MinMaxScaler()]},
    ),
    "functions": (
        TransformedTargetRegressor(regressor(), func=np.arctan, inverse_func=np.tan),
        {"regressor": [regressor(solver="sgd"), regressor(early_stopping=True)], "check_inverse": [False]},
    ),
    "a pipeline inside": (
        TransformedTargetRegressor(make_pipeline(StandardScaler(), regressor()), transformer=StandardScaler()),
        {
            "regressor__mlpregressor__hidden_layer_sizes": [(4,), (5,)],
            "regressor__standardscaler__with_mean": [True, False],
        },
    ),
    "inside a pipeline": (
        Pipeline([("pca", PCA(3)), ("target", TransformedTargetRegressor(regressor(), transformer=MinMaxScaler()))]),
        {"target__regressor__batch_size": [20, 32], "pca__n_components": [2, 3]},
    ),
    "twice": (
        TransformedTargetRegressor(TransformedTargetRegressor(regressor(), transformer=MinMaxScaler())),
        {"regressor__regressor__solver": ["adam", "lbfgs"]},
    ),
}


@pytest.mark.parametrize("name", by_tier(TRANSFORMED, {"inside a pipeline"}.__contains__))
def test_a_transformed_target(name, diabetes, monkeypatch):
    """All candidates in stacks: no network is fitted by itself but the best one and those of L-BFGS."""
    est, grid = TRANSFORMED[name]
    fitted, fit = [], BaseMLP._fit
    ours, theirs = (search(est, grid, cv=3, return_train_score=True) for search in (MLPSearchCV, GridSearchCV))
    monkeypatch.setattr(BaseMLP, "_fit", lambda self, *rest, **named: fitted.append(self) or fit(self, *rest, **named))
    ours.fit(*diabetes)
    assert len(fitted) == 1 + 3 * (name == "twice")
    same_search(ours, theirs, *diabetes)


@pytest.mark.parametrize("columns", by_tier((1, 2), (2).__eq__))
def test_a_transformed_target_with_weights_and_of_several_columns(columns, diabetes):
    X, y = diabetes
    est = TransformedTargetRegressor(regressor(), transformer=StandardScaler())
    searches = [search(est, {"regressor__alpha": [0.0, 2.0]}, cv=2) for search in (MLPSearchCV, GridSearchCV)]
    weight = np.linspace(0.1, 2.0, 150)
    ours = same_search(*searches, X, y if columns == 1 else np.column_stack([y, y**2]), sample_weight=weight)
    theirs = gpubp.to_sklearn(ours)
    assert type(theirs.regressor_).__module__.startswith("sklearn.")
    np.testing.assert_allclose(theirs.predict(X), ours.predict(X), rtol=1e-12)


def test_a_transformed_target_with_halving_and_routing(diabetes):
    X, y = diabetes
    with sklearn.config_context(enable_metadata_routing=True):
        net = regressor().set_fit_request(sample_weight=True)
        est = TransformedTargetRegressor(make_pipeline(MinMaxScaler(), net), transformer=StandardScaler())
        grid = {"regressor__mlpregressor__alpha": [0.0, 1.0, 2.0]}
        weight = np.linspace(0.1, 2.0, 150)
        same_search(MLPSearchCV(est, grid, cv=2), GridSearchCV(est, grid, cv=2), X, y, sample_weight=weight)
    halved = MLPSearchCV(est, grid, cv=2, halving=True).fit(X, y)
    assert halved.cv_results_["n_epochs"].tolist() == [2, 2, 2, 6]


# -- what goes wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error_score", [np.nan, -7.0])
@pytest.mark.parametrize(
    "scoring", [None, ["accuracy", "neg_log_loss"], lambda est, X, y: {"accuracy": est.score(X, y)}]
)
def test_a_network_that_diverges(scoring, error_score, iris):
    grid = {"learning_rate_init": [1e-2, 1e30], "hidden_layer_sizes": [(4,), (3,)]}
    options = {"cv": 2, "scoring": scoring, "refit": scoring is None or "accuracy", "error_score": error_score}
    est = classifier(solver="sgd")
    with pytest.warns(Warning) as warned:
        ours = MLPSearchCV(est, grid, **options).fit(*iris)
    text = next(str(w.message) for w in warned if w.category is FitFailedWarning)
    assert "4 fits failed out of a total of 8" in text and "diverged at step" in text
    with pytest.warns(Warning):
        theirs = GridSearchCV(est, grid, **options).fit(*iris)
    assert list(ours.cv_results_) == ["error", *theirs.cv_results_]
    name = "mean_test_accuracy" if scoring else "mean_test_score"
    np.testing.assert_array_equal(ours.cv_results_[name], theirs.cv_results_[name])
    assert ours.best_params_ == theirs.best_params_ and ours.best_score_ == theirs.best_score_
    failed = [bool(reason) for reason in ours.cv_results_["error"]]
    assert failed == [False, True, False, True]
    assert re.match(r"split0: ValueError: .* diverged at step .*\nsplit1: ValueError", ours.cv_results_["error"][1])


def test_errors_are_raised_on_demand(iris, monkeypatch):
    grid = {"learning_rate_init": [1e-2, 1e30]}
    with pytest.raises(ValueError, match="diverged at step"):
        MLPSearchCV(classifier(solver="sgd"), grid, cv=2, error_score="raise").fit(*iris)
    with pytest.raises(ValueError, match=r"(?s)All the 4 fits failed.*'alpha' parameter of MLPClassifier must be"):
        MLPSearchCV(classifier(), {"alpha": [-1, -2]}, cv=2).fit(*iris)
    pipeline = make_pipeline(Counting(), classifier())
    search = MLPSearchCV(pipeline, {"counting__factor": [1.0, 0.0]}, cv=2, error_score="raise")
    monkeypatch.delattr(stacked_fits.StackedFits, "train")  # nothing is trained first
    with pytest.raises(ArithmeticError, match="a factor of 0"):
        search.fit(*iris)


def test_a_step_that_fails(iris):
    pipeline, grid = make_pipeline(Counting(), classifier()), {"counting__factor": [1.0, 0.0]}
    with pytest.warns(Warning, match="2 fits failed out of a total of 4"):
        search = MLPSearchCV(pipeline, grid, cv=2).fit(*iris)
    assert search.best_params_ == {"counting__factor": 1.0}
    reason = "ArithmeticError: a factor of 0"
    assert list(search.cv_results_["error"]) == ["", f"split0: {reason}\nsplit1: {reason}"]
    pipeline, grid = make_pipeline(StandardScaler(), classifier()), {"standardscaler__with_mean": [True, 1]}
    with pytest.warns(FitFailedWarning):  # 1 is not True
        assert not MLPSearchCV(pipeline, grid, cv=2).fit(*iris).cv_results_["error"][0]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"alpa": [1]}, 'MLPClassifier has no parameter "alpa"; did you mean "alpha"?'),
        ({"mlpclassifier__alpa": [1]}, '"mlpclassifier__alpa"; did you mean "mlpclassifier__alpha"?'),
        ({"alpha": [1]}, 'Pipeline has no parameter "alpha"; did you mean "mlpclassifier__alpha"?'),
        ({"pca__alpha": [1]}, 'Pipeline has no parameter "pca__alpha"; did you mean'),
        (
            {"mlpclassifier": [classifier(), LogisticRegression()]},
            "the grid mixes them with what cannot be searched: with mlpclassifier it has LogisticRegression()",
        ),
    ],
)
def test_grids_that_cannot_be_meant(grid, message, iris):
    est = classifier() if "alpa" in grid else make_pipeline(PCA(), classifier())
    with pytest.raises(UsageError, match=re.escape(message)):
        MLPSearchCV(est, grid).fit(*iris)


@pytest.mark.parametrize(
    ("est", "found"),
    [
        (LogisticRegression(), "estimator is LogisticRegression() of sklearn"),
        (make_pipeline(PCA(), LogisticRegression()), "the pipeline ends in LogisticRegression() of sklearn"),
        (TransformedTargetRegressor(PCA()), "the TransformedTargetRegressor is around PCA() of sklearn"),
        (sklearn.neural_network.MLPClassifier(), "estimator is MLPClassifier() of sklearn"),
    ],
)
def test_what_is_no_network(est, found, iris):
    with pytest.raises(UsageError, match=re.escape(f"but {found}; search over that with sklearn.model_selection.Grid")):
        MLPSearchCV(est, {}).fit(*iris)


def test_arguments_that_cannot_be_meant(iris):
    X, y = iris
    grid = {"alpha": [0.0]}
    for wrong in ({}, {"param_grid": grid, "param_distributions": grid}):
        with pytest.raises(UsageError, match="either param_grid or param_distributions"):
            MLPSearchCV(classifier(), **wrong).fit(X, y)
    for wrong in ({"factor": 1}, {"halving": 3}, {"param_grid": 3}, {"min_epochs": 0}, {"progress": "yes"}):
        with pytest.raises(ValueError, match=f"The '{next(iter(wrong))}' parameter of MLPSearchCV must be"):
            MLPSearchCV(classifier(), **{"param_grid": grid, **wrong}).fit(X, y)
    with pytest.raises(UsageError, match="sample_weight, not validation_data; search with sklearn"):
        MLPSearchCV(classifier(), grid).fit(X, y, validation_data=(X, y))
    with pytest.raises(UsageError, match="No fits were performed. Was the CV iterator empty"):
        MLPSearchCV(classifier(), grid, cv=[]).fit(X, y)
    for several in (["accuracy", "r2"], lambda est, X, y: {"a": 1.0, "b": 2.0}):
        with pytest.raises(ValueError, match="the parameter refit must be set to a scorer key or a callable"):
            MLPSearchCV(classifier(), grid, scoring=several).fit(X, y)


# -- interrupts --------------------------------------------------------------------------------------------


def interrupted(monkeypatch, finished):
    """Ctrl-C after so many networks have been trained."""

    def train(self, until):
        for task in self.tasks[:finished]:
            task.est.fit(task.X[task.rows], task.y[task.rows])
            task.done = True
        raise KeyboardInterrupt

    monkeypatch.setattr(stacked_fits.StackedFits, "train", train)
    monkeypatch.setattr(stacked_fits.StackedFits, "__init__", lambda self, tasks, *rest: setattr(self, "tasks", tasks))


@pytest.mark.parametrize("error_score", [np.nan, 2.0, "raise"])
def test_an_interrupt_leaves_what_is_finished(error_score, iris, monkeypatch):
    grid = {"alpha": [1.0, 1e-4, 1e-3]}
    whole = MLPSearchCV(classifier(), grid, cv=2, error_score=error_score).fit(*iris)
    interrupted(monkeypatch, 3)
    search = clone(whole)
    with pytest.warns(UserWarning) as warned:
        search.fit(*iris)
    assert any("interrupted: 3 of 6 networks are not finished" in str(w.message) for w in warned)
    assert search.best_index_ == 0 and search.predict(iris[0]).shape == (150,)
    for split, scored in (("split0_test_score", 2), ("split1_test_score", 1)):
        np.testing.assert_array_equal(search.cv_results_[split][:scored], whole.cv_results_[split][:scored])
        assert np.isnan(search.cv_results_[split][scored:]).all()
    assert list(search.cv_results_["error"]) == ["", "split1: interrupted", "split0: interrupted\nsplit1: interrupted"]


@pytest.mark.parametrize("finished", [0, 1])
def test_an_interrupt_before_any_candidate_is_whole(finished, iris, monkeypatch):
    interrupted(monkeypatch, finished)
    search = MLPSearchCV(classifier(), {"alpha": [1.0, 2.0]}, cv=2)
    with pytest.raises(KeyboardInterrupt):
        search.fit(*iris)
    assert np.isfinite(search.cv_results_["split0_test_score"]).sum() == finished


def test_an_interrupt_while_scoring(iris):
    calls = []

    def scoring(est, X, y):
        calls.append(est)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return est.score(X, y)

    with pytest.warns(UserWarning, match="interrupted: 1 of 6 networks"):
        search = MLPSearchCV(classifier(), {"alpha": [1e-4, 1.0, 3.0]}, cv=2, scoring=scoring).fit(*iris)
    assert list(search.cv_results_["error"]) == ["", "", "split1: interrupted"]


# -- successive halving ------------------------------------------------------------------------------------


def planned(candidates, last, factor=3, first=None):
    one = halving.Candidate(classifier(max_iter=last), ())
    return [tuple(rung) for rung in plan_halving([one] * candidates, factor, first)]


def test_rungs():
    assert planned(9, 90) == [(9, 10), (3, 30), (1, 90)]
    assert planned(9, 200) == [(9, 23), (3, 69), (1, 200)]
    assert planned(8, 30) == [(8, 10), (3, 30)]
    assert planned(1, 30) == [(1, 30)]
    assert planned(2, 30) == [(2, 30)]
    assert planned(100, 2) == [(100, 1), (34, 2)]
    assert planned(4, 100, 3, 5) == [(4, 5), (2, 15), (1, 100)]
    assert planned(4, 100, 1.5, 50) == [(4, 50), (3, 75), (2, 100)]
    with pytest.raises(UsageError, match="min_epochs=31 is more than max_iter=30"):
        planned(4, 30, 3, 31)
    assert total_epochs([PlannedRung(9, 10), PlannedRung(3, 30), PlannedRung(1, 90)]) == 90 + 60 + 60


@pytest.mark.parametrize("pipeline", [False, True])
def test_halving_goes_on_with_the_best(pipeline, iris):
    """Each rung scores as a search of those that are left, for that many epochs."""
    rates = [1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3]
    est, name = classifier(max_iter=18, tol=0, n_iter_no_change=100), "learning_rate_init"
    if pipeline:
        est, name = make_pipeline(StandardScaler(), est), "mlpclassifier__learning_rate_init"
    search = MLPSearchCV(est, {name: rates}, cv=3, halving=True, scoring="neg_log_loss").fit(*iris)
    results, left = pd.DataFrame(search.cv_results_), rates
    assert results["n_epochs"].tolist() == [2] * 9 + [6] * 3 + [18]
    for rung, epochs in enumerate((2, 6, 18)):
        now = clone(est).set_params(**{name.replace("learning_rate_init", "max_iter"): epochs})
        alone = pd.DataFrame(GridSearchCV(now, {name: left}, cv=3, scoring="neg_log_loss").fit(*iris).cv_results_)
        found = results[results["iter"] == rung]
        assert found[f"param_{name}"].tolist() == left
        np.testing.assert_array_equal(found["mean_test_score"], alone["mean_test_score"])
        left = alone.nsmallest(len(left) // 3, "rank_test_score")[f"param_{name}"].sort_index().tolist()
    assert search.best_index_ == 12 and search.best_score_ == results["mean_test_score"][12]
    assert len(search.best_estimator_[-1].loss_curve_ if pipeline else search.best_estimator_.loss_curve_) == 18


def test_the_best_is_on_the_last_rung():
    results = {"iter": [0, 0, 0, 1, 1], "mean_test_score": np.array([9.0, 1.0, 5.0, 6.0, 7.0])}
    results["rank_test_score"] = np.array([1, 5, 4, 3, 2])
    assert MLPSearchCV._select_best_index(True, "score", results) == 4
    results["mean_test_score"][3:] = np.nan
    assert MLPSearchCV._select_best_index(True, "score", results) == 0
    results["params"] = [{}] * 5
    assert MLPSearchCV._select_best_index(lambda found: 2, "score", results) == 2


def test_halving_by_one_of_several_metrics(iris):
    grid, several = {"learning_rate_init": [1e-5, 1e-2, 0.1]}, ["accuracy", "neg_log_loss"]
    search = MLPSearchCV(classifier(), grid, cv=2, scoring=several, refit="neg_log_loss", halving=True).fit(*iris)
    assert search.best_index_ == 3 and search.best_score_ == search.cv_results_["mean_test_neg_log_loss"][3]
    with pytest.raises(UsageError, match="halving goes by one of accuracy, neg_log_loss; name it as refit"):
        search.set_params(refit=False).fit(*iris)
    with pytest.raises(UsageError, match='solver="lbfgs" cannot'):
        MLPSearchCV(classifier(solver="lbfgs"), grid, halving=True).fit(*iris)


def test_halving_without_those_that_diverge(iris):
    grid = {"learning_rate_init": [1e30, 1e-2, 1e31, 1e32]}
    with pytest.warns(Warning, match="fits failed"):
        search = MLPSearchCV(classifier(solver="sgd"), grid, cv=2, halving=True).fit(*iris)
    assert search.best_params_ == {"learning_rate_init": 1e-2}
    assert [bool(reason) for reason in search.cv_results_["error"]] == [True, False, True, True, True, False][:6]


def test_an_interrupt_leaves_the_rungs_that_are_whole(iris, monkeypatch):
    train, calls = stacked_fits.StackedFits.train, []

    def at_the_second(self, until):
        calls.append(until)
        if len(calls) == 2:
            for task, _ in self.fits:
                task.done = False
            raise KeyboardInterrupt
        train(self, until)

    monkeypatch.setattr(stacked_fits.StackedFits, "train", at_the_second)
    with pytest.warns(UserWarning):
        search = MLPSearchCV(classifier(), {"alpha": np.logspace(-4, 1, 9)}, cv=2, halving=True).fit(*iris)
    first = search.cv_results_["mean_test_score"][:9]
    assert calls == [1, 3] and search.best_index_ == first.argmax() and search.best_score_ == first.max()


# -- as an estimator ---------------------------------------------------------------------------------------


@pytest.mark.backends  # as are scikit-learn's checks of what is searched over
def test_scikit_learns_checks():
    """Of networks alone, test_same_words.py has them."""
    est = make_pipeline(PCA(), regressor(learning_rate_init=0.1).set_params(max_iter=40))
    grid = {"mlpregressor__alpha": [1e-3, 0.1]}
    search = MLPSearchCV(est, grid, cv=2, error_score="raise", factor=2, halving=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(search, on_skip=None, on_fail=None)
    bad = [(r["check_name"], r["exception"]) for r in results if r["status"] not in ("passed", "skipped")]
    assert not bad, bad
    assert sum(r["status"] == "passed" for r in results) > 40


def test_nested_searches_copies_and_pickles(iris):
    search = MLPSearchCV(classifier(), {"alpha": [1e-4, 1.0]}, cv=2, halving=True, factor=2)
    folds = StratifiedKFold(3)
    scores = cross_val_score(search, *iris, cv=folds)
    by_hand = [clone(search).fit(*(a[i] for a in iris)).score(*(a[j] for a in iris)) for i, j in folds.split(*iris)]
    np.testing.assert_array_equal(scores, by_hand)
    twin = pickle.loads(pickle.dumps(search.fit(*iris)))
    np.testing.assert_array_equal(twin.predict_proba(iris[0]), search.predict_proba(iris[0]))
    assert clone(twin).get_params(deep=False).keys() == search.get_params(deep=False).keys()
    assert "MLPClassifier" in search._repr_html_() and list(search.classes_) == ["setosa", "versicolor", "virginica"]
    assert search.n_features_in_ == 4 and search.refit_time_ > 0 and sklearn.base.is_classifier(search)
    outer = MLPSearchCV(make_pipeline(PCA(), classifier()), {"mlpclassifier__alpha": [0.1]}, cv=2)
    assert "mlpclassifier__dropout" in outer.get_params()["estimator"].get_params()


@pytest.mark.skipif(sklearn.__version__ < "1.9", reason="scikit-learn has callbacks from 1.9 on")
def test_callbacks_of_the_search(iris):
    class Seen:
        def setup(self, estimator, context):
            self.tasks = []

        def teardown(self, estimator, context):
            self.tasks.append("teardown")

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context):
            self.tasks.append(context.task_name)

    seen = Seen()
    MLPSearchCV(classifier(), {"alpha": [0.1, 1.0]}, cv=2).set_callbacks(seen).fit(*iris)
    on_splits = ["candidate-split-evaluation"] * 4
    assert seen.tasks == [*on_splits, "search", "refit-with-best-params", "fit", "teardown"]  # as of a GridSearchCV


# -- what it says ------------------------------------------------------------------------------------------


def test_the_plan_and_the_bar(iris, capsys):
    grid = {"alpha": [1e-4, 1.0, 2.0], "hidden_layer_sizes": [(4,), (5,), (6,)]}
    search = MLPSearchCV(classifier(max_iter=9), grid, cv=2, verbose=1, progress=True, refit=False).fit(*iris)
    said = capsys.readouterr()
    assert "2 folds of 9 candidates for 9 epochs" in said.out and "6 networks 4-5-3 in 1 stack," in said.out
    assert "162/162" in said.err
    search.set_params(halving=True, verbose=1).fit(*iris)
    said = capsys.readouterr()
    assert "2 folds of 9 candidates for 1 epochs, then 3 candidates for 3 epochs, then 1 candidates" in said.out
    assert "42/42" in said.err
    search.set_params(verbose=0, progress=None).fit(*iris)
    assert capsys.readouterr() == ("", "")


def test_the_package_names_it():
    assert gpubp.MLPSearchCV is MLPSearchCV and "MLPSearchCV" in dir(gpubp)


def test_rows_that_one_step_makes_sparse_and_another_dense_are_trained_in_stacks_of_their_own(iris):
    X, y = iris
    pipeline = make_pipeline(OneHotEncoder(handle_unknown="ignore"), classifier())
    grid = {"onehotencoder__sparse_output": [True, False]}
    ours, theirs = (search(pipeline, grid, cv=2) for search in (MLPSearchCV, GridSearchCV))
    same_search(ours, theirs, np.round(X), y)
