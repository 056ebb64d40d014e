"""Cases of `support.paired`: scikit-learn's meta-estimators and functions around an estimator, and routed weights.

A table has by name what is run with a side; `REFUSED` are those that raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn
from sklearn import ensemble, inspection, model_selection, multiclass, multioutput, semi_supervised
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.ensemble import VotingClassifier, VotingRegressor
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import RFE, RFECV, SelectFromModel, SelectKBest, SequentialFeatureSelector
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from support.paired import (
    BINARY,
    CLASSES,
    FRAME,
    HALF,
    LABELS,
    SEVERAL,
    VALUES,
    WEIGHT,
    Case,
    Side,
    X,
    predictions,
)

# -- meta-estimators ----------------------------------------------------------------------------------------

Model = Callable[[Any], Any]
CLASSIFIERS: dict[str, Model] = {
    "bagging": lambda est: ensemble.BaggingClassifier(est, 3, random_state=0, oob_score=True),
    "bagging of some columns": lambda est: ensemble.BaggingClassifier(est, 3, max_features=3, random_state=0),
    "adaboost": lambda est: ensemble.AdaBoostClassifier(est.set_params(max_iter=15), n_estimators=3, random_state=0),
    "voting, hard": lambda est: VotingClassifier([("a", est), ("b", clone(est).set_params(alpha=1.0))]),
    "voting, soft": lambda est: VotingClassifier([("a", est), ("b", LogisticRegression())], voting="soft"),
    "voting with weights": lambda est: VotingClassifier([("a", est), ("b", clone(est))], voting="soft", weights=[1, 3]),
    "stacking": lambda est: ensemble.StackingClassifier(
        [("a", est), ("b", LogisticRegression())], cv=2, stack_method="predict_proba"
    ),
    "stacking with X": lambda est: ensemble.StackingClassifier(
        [("a", est)], clone(est), cv=2, passthrough=True, stack_method="predict"
    ),
    "pipeline": lambda est: make_pipeline(StandardScaler(), PCA(3), est),
    "union of features": lambda est: make_pipeline(FeatureUnion([("a", PCA(2)), ("b", SelectKBest(k=2))]), est),
    "multi-output": lambda est: multioutput.MultiOutputClassifier(est),
    "one against the rest": lambda est: multiclass.OneVsRestClassifier(est),
    "one against one": lambda est: multiclass.OneVsOneClassifier(est),
    "output codes": lambda est: multiclass.OutputCodeClassifier(est, random_state=0),
    "calibrated": lambda est: CalibratedClassifierCV(est, cv=3),
    "calibrated, isotonic": lambda est: CalibratedClassifierCV(est, method="isotonic", cv=2),
    "calibrated on predictions": lambda est: CalibratedClassifierCV(est, cv=2, ensemble=False),
    "calibrated, frozen": lambda est: CalibratedClassifierCV(
        FrozenEstimator(est.fit(X[HALF], CLASSES[HALF] == "setosa"))
    ),
    "searched": lambda est: model_selection.GridSearchCV(
        est, {"alpha": [1e-4, 1.0], "activation": ["tanh", "relu"]}, cv=2
    ),
    "selected columns": lambda est: make_pipeline(SequentialFeatureSelector(est, n_features_to_select=2, cv=2), est),
    "threshold": lambda est: model_selection.FixedThresholdClassifier(
        est, threshold=0.3, response_method="predict_proba", pos_label=1
    ),
    "tuned threshold": lambda est: model_selection.TunedThresholdClassifierCV(
        est, cv=2, thresholds=[0.2, 0.4, 0.6], response_method="predict_proba"
    ),
    "on cluster distances": lambda est: make_pipeline(ColumnTransformer([("a", MinMaxScaler(), [0, 1])]), est),
}
# Of two classes alone, of several labels alone, and those that look for a `decision_function` first.
OF_TWO = {"threshold", "tuned threshold", "calibrated, frozen"}
OF_LABELS = {"multi-output"}
BY_LOGITS = {"one against one", "calibrated", "calibrated, isotonic", "calibrated on predictions", "calibrated, frozen"}
BY_LOGITS |= {"one against the rest", "output codes"}
TARGETS = {"classes": CLASSES, "two classes": BINARY}
MODELS_OF_CLASSES = [
    (name, targets)
    for name in CLASSIFIERS
    for targets in TARGETS
    if not (name in OF_TWO and targets == "classes") and name not in OF_LABELS
]

REGRESSORS: dict[str, Model] = {
    "bagging": lambda est: ensemble.BaggingRegressor(est, 3, random_state=0, oob_score=True),
    "adaboost": lambda est: ensemble.AdaBoostRegressor(est, n_estimators=3, random_state=0),
    "voting": lambda est: VotingRegressor([("a", est), ("b", Ridge())]),
    "stacking": lambda est: ensemble.StackingRegressor([("a", est), ("b", Ridge())], cv=2),
    "stacking on networks": lambda est: ensemble.StackingRegressor(
        [("a", Ridge())], clone(est), cv=2, passthrough=True
    ),
    "pipeline": lambda est: make_pipeline(StandardScaler(), PCA(3), est),
    "transformed target": lambda est: TransformedTargetRegressor(est, transformer=StandardScaler()),
    "logarithm of the target": lambda est: TransformedTargetRegressor(est, func=np.arctan, inverse_func=np.tan),
    "multi-output": lambda est: multioutput.MultiOutputRegressor(est),
    "chain": lambda est: multioutput.RegressorChain(est, order=[1, 0], cv=2),
    "searched": lambda est: model_selection.GridSearchCV(est, {"alpha": [1e-4, 1.0], "solver": ["sgd", "adam"]}, cv=2),
    "drawn": lambda est: model_selection.RandomizedSearchCV(
        est, {"alpha": [0.1, 1.0, 3.0], "batch_size": [8, 30]}, n_iter=3, cv=2, random_state=0
    ),
    "halved": lambda est: model_selection.HalvingGridSearchCV(
        est, {"alpha": [0.1, 1.0, 3.0, 9.0]}, cv=2, factor=2, random_state=0, resource="max_iter", max_resources=4
    ),
    "selected columns": lambda est: make_pipeline(SequentialFeatureSelector(est, n_features_to_select=2, cv=2), est),
}
OF_SEVERAL = {"multi-output", "chain"}

MODELS: dict[str, Case] = {}
for _name, _targets in MODELS_OF_CLASSES:

    def _fitted_classifier(side: Side, name: str = _name, targets: str = _targets) -> Any:
        est = side.classifier_without_logits() if name in BY_LOGITS else side.classifier()
        y = TARGETS[targets]
        model = CLASSIFIERS[name](est).fit(X[HALF], y[HALF])
        return predictions(model), model.score(X, y)

    MODELS[f"{_name}, {_targets}"] = _fitted_classifier
for _name in REGRESSORS:

    def _fitted_regressor(side: Side, name: str = _name) -> Any:
        y = SEVERAL if name in OF_SEVERAL else VALUES
        model = REGRESSORS[name](side.regressor()).fit(X[HALF], y[HALF])
        return predictions(model), model.score(X, y)

    MODELS[f"{_name}, values"] = _fitted_regressor

UNLABELLED = np.where(np.arange(len(X)) % 3 == 0, -1, BINARY)
MODELS |= {
    "several labels": lambda side: predictions(multioutput.MultiOutputClassifier(side.classifier()).fit(X, LABELS)),
    "several labels, of texts": lambda side: predictions(
        multioutput.MultiOutputClassifier(side.classifier()).fit(X, np.array(["no", "yes"])[LABELS])
    ),
    "chain of labels": lambda side: predictions(
        multioutput.ClassifierChain(side.classifier(), order=[2, 0, 1], chain_method="predict_proba").fit(X, LABELS)
    ),
    "chain of labels, cross-validated": lambda side: predictions(
        multioutput.ClassifierChain(side.classifier(), cv=2).fit(X, LABELS)
    ),
    "one network a label": lambda side: multiclass.OneVsRestClassifier(side.classifier()).fit(X, LABELS).predict(X),
    "learnt from its own labels": lambda side: predictions(
        semi_supervised.SelfTrainingClassifier(side.classifier(), threshold=0.6).fit(X, UNLABELLED)
    ),
    "learnt from its best labels": lambda side: predictions(
        semi_supervised.SelfTrainingClassifier(side.classifier(), criterion="k_best", k_best=5).fit(X, UNLABELLED)
    ),
    "frozen": lambda side: predictions(FrozenEstimator(side.classifier().fit(X, CLASSES)).fit(X[:3], CLASSES[:3])),
    "partial fits of several outputs": lambda side: predictions(
        multioutput.MultiOutputClassifier(side.classifier()).partial_fit(X, LABELS, classes=[[0, 1]] * 3)
    ),
    "partial fits against the rest": lambda side: (
        multiclass.OneVsRestClassifier(side.classifier()).partial_fit(X, CLASSES, classes=np.unique(CLASSES)).predict(X)
    ),
}

# -- functions that take an estimator -----------------------------------------------------------------------


def scored(side: Side, scoring: Any) -> Any:
    y = {"f": VALUES, "U": CLASSES, "i": BINARY}[scoring[0]]
    if scoring[1] in ("roc_auc", "average_precision"):  # which ask for logits where there are any
        est = side.classifier_without_logits()
    else:
        est = side.regressor() if scoring[0] == "f" else side.classifier()
    return model_selection.cross_val_score(est, X, y, cv=3, scoring=scoring[1])


FUNCTIONS: dict[str, Case] = {
    **{
        f"scored by {name}": lambda side, kind=kind, name=name: scored(side, (kind, name))
        for kind, names in {
            "i": ["accuracy", "balanced_accuracy", "f1", "roc_auc", "average_precision", "neg_brier_score"],
            "U": ["f1_macro", "neg_log_loss", "roc_auc_ovr", "top_k_accuracy", "matthews_corrcoef"],
            "f": [
                "r2",
                "neg_mean_absolute_error",
                "neg_root_mean_squared_error",
                "explained_variance",
                "neg_max_error",
            ],
        }.items()
        for name in names
    },
    "cross_validate": lambda side: model_selection.cross_validate(
        side.classifier(), X, CLASSES, cv=3, scoring=["accuracy", "neg_log_loss"], return_train_score=True
    ),
    **{
        f"cross_val_predict, {method}": lambda side, method=method: model_selection.cross_val_predict(
            side.classifier(), X, CLASSES, cv=3, method=method
        )
        for method in ("predict", "predict_proba", "predict_log_proba")
    },
    "cross_val_predict of values": lambda side: model_selection.cross_val_predict(side.regressor(), X, SEVERAL, cv=3),
    "learning_curve": lambda side: model_selection.learning_curve(
        side.classifier(), X, CLASSES, cv=2, train_sizes=[0.4, 1.0], shuffle=True, random_state=0
    ),
    "learning_curve, incremental": lambda side: model_selection.learning_curve(
        side.classifier(), X, BINARY, cv=2, train_sizes=[0.4, 1.0], exploit_incremental_learning=True
    ),
    "validation_curve": lambda side: model_selection.validation_curve(
        side.regressor(), X, VALUES, param_name="alpha", param_range=[0.0, 1.0, 10.0], cv=2
    ),
    "permutation_test_score": lambda side: model_selection.permutation_test_score(
        side.classifier(), X, CLASSES, cv=2, n_permutations=3, random_state=0
    ),
    "permutation_importance": lambda side: inspection.permutation_importance(
        side.classifier().fit(X, CLASSES), X, CLASSES, n_repeats=2, random_state=0
    ),
    "permutation_importance of values": lambda side: inspection.permutation_importance(
        side.regressor().fit(FRAME, VALUES), FRAME, VALUES, n_repeats=2, random_state=0, scoring="r2"
    ),
    "partial_dependence": lambda side: inspection.partial_dependence(
        side.regressor().fit(X, VALUES), X, [(1, 2)], grid_resolution=5, kind="average"
    ),
    "partial_dependence of probabilities": lambda side: inspection.partial_dependence(
        side.classifier().fit(X, CLASSES), X, [1], grid_resolution=5, response_method="predict_proba", kind="both"
    ),
    "decision boundary": lambda side: (
        inspection.DecisionBoundaryDisplay.from_estimator(
            side.classifier().fit(X[:, :2], BINARY),
            X[:, :2],
            grid_resolution=6,
            response_method="predict_proba",
        ).response
    ),
    "searched by several metrics": lambda side: {
        name: column
        for name, column in model_selection.GridSearchCV(
            side.classifier(), {"alpha": [0.0, 1.0]}, cv=2, scoring=["accuracy", "f1_macro"], refit="accuracy"
        )
        .fit(X, CLASSES)
        .cv_results_.items()
        if name != "params" and not name.startswith("param_")
    },
    "sequential selection": lambda side: (
        SequentialFeatureSelector(side.regressor(), n_features_to_select=2, direction="backward", cv=2)
        .fit(X, VALUES)
        .get_support()
    ),
    **{
        f"{selector.__name__} refuses": lambda side, selector=selector: (
            selector(side.classifier()).fit(X, CLASSES).get_support()
        )
        for selector in (RFE, RFECV, SelectFromModel)
    },
}
REFUSED = {"RFE refuses", "RFECV refuses", "SelectFromModel refuses"}  # there is neither coef_ nor feature_importances_

# -- routing of sample weights --------------------------------------------------------------------------------


def routed(side: Side, model: Callable[[Any], Any], run: Callable[[Any], Any]) -> Any:
    with sklearn.config_context(enable_metadata_routing=True):
        est = side.classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        est.set_partial_fit_request(sample_weight=True)
        return run(model(est))


def fit_with_weight(model: Any) -> Any:
    return predictions(model.fit(X, CLASSES, sample_weight=WEIGHT))


ROUTES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "pipeline": (lambda est: make_pipeline(MinMaxScaler(), est), fit_with_weight),
    "bagging": (lambda est: ensemble.BaggingClassifier(est, 2, random_state=0), fit_with_weight),
    "voting": (lambda est: VotingClassifier([("a", est)], voting="soft"), fit_with_weight),
    "stacking": (
        lambda est: ensemble.StackingClassifier([("a", est)], cv=2, stack_method="predict_proba"),
        fit_with_weight,
    ),
    "search": (lambda est: model_selection.GridSearchCV(est, {"alpha": [0.0, 1.0]}, cv=2), fit_with_weight),
    "cross_validate": (
        lambda est: est,
        lambda est: model_selection.cross_validate(est, X, CLASSES, cv=2, params={"sample_weight": WEIGHT}),
    ),
    "cross_val_predict": (
        lambda est: est,
        lambda est: model_selection.cross_val_predict(est, X, CLASSES, cv=2, params={"sample_weight": WEIGHT}),
    ),
    "learning_curve": (
        lambda est: est,
        lambda est: model_selection.learning_curve(
            est, X, CLASSES, cv=2, train_sizes=[1.0], params={"sample_weight": WEIGHT}
        ),
    ),
    "self-training": (
        lambda est: semi_supervised.SelfTrainingClassifier(est, max_iter=2),
        lambda model: predictions(model.fit(X, BINARY)),
    ),
    "not asked for": (
        lambda est: make_pipeline(MinMaxScaler(), est.set_fit_request(sample_weight=None)),
        fit_with_weight,
    ),
}
ROUTED: dict[str, Case] = {
    f"routed, {name}": lambda side, model=model, run=run: routed(side, model, run)
    for name, (model, run) in ROUTES.items()
}
REFUSED |= {"routed, not asked for"}

# -- what cannot be the same ----------------------------------------------------------------------------------


def beyond_the_smallest_probability(side: Side) -> Any:
    est = side.classifier(hidden_layer_sizes=(), alpha=0.0, batch_size=1, solver="sgd")
    est.partial_fit(X[:1], [1], classes=[0, 1])
    est.coefs_, est.intercepts_ = [np.zeros((4, 1))], [np.array([-800.0])]
    return est.partial_fit(X[:1], [1]).loss_


ONLY_DIFFERENT: dict[str, Case] = {
    "a training that diverges": lambda side: side.regressor(solver="sgd", learning_rate_init=1e30).fit(X, VALUES),
    "calibrated by logits": lambda side: predictions(CalibratedClassifierCV(side.classifier(), cv=3).fit(X, CLASSES)),
    "one against one by logits": lambda side: (
        multiclass.OneVsOneClassifier(side.classifier()).fit(X, CLASSES).decision_function(X)
    ),
    "loss beyond the smallest probability": beyond_the_smallest_probability,
    "hidden activations": lambda side: side.classifier().fit(X, CLASSES).transform(X),
}
