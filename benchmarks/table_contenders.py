"""Who is compared on tables: a function each from training rows and targets to predictions of test rows.

All get the columns as they are, with one thread and the settings that they have by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

SEED = 0


def with_categories(train: Any, test: Any) -> tuple[Any, Any]:
    """Texts and truth values as pandas' categories, those of the training rows; a missing one stays missing."""
    import pandas

    train, test = train.copy(), test.copy()
    for name in _text_columns(train):
        texts, others = (frame[name].map(str, na_action="ignore") for frame in (train, test))
        kind = pandas.CategoricalDtype(sorted(texts.dropna().unique()))
        test[name] = others.where(others.isin(kind.categories)).astype(kind)
        train[name] = texts.astype(kind)
    return train, test


def _text_columns(frame: Any) -> list[str]:
    return [name for name in frame if frame[name].dtype.kind not in "iuf"]


def _predicted(model: Any, X: Any, classes: bool) -> Any:
    return model.predict_proba(X) if classes else model.predict(X)


def hgb(X: Any, y: Any, test: Any, classes: bool) -> Any:
    """scikit-learn's histogram gradient boosting."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    X, test = with_categories(X, test)
    return _predicted(kind(categorical_features="from_dtype", random_state=SEED).fit(X, y), test, classes)


def sklearn_mlp(X: Any, y: Any, test: Any, classes: bool) -> Any:
    """scikit-learn's MLP on standardized numbers, medians for missing ones, and one-hot categories."""
    import warnings

    from sklearn.compose import TransformedTargetRegressor, make_column_transformer
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.impute import SimpleImputer
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    warnings.simplefilter("ignore", ConvergenceWarning)
    X, test = with_categories(X, test)
    texts = [name for name in X if X[name].dtype == "category"]
    X[texts], test[texts] = X[texts].astype(object), test[texts].astype(object)
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), texts), remainder=numbers, sparse_threshold=0
    )
    if classes:
        network = MLPClassifier(random_state=SEED)
    else:
        network = TransformedTargetRegressor(MLPRegressor(random_state=SEED), transformer=StandardScaler())
    return _predicted(make_pipeline(columns, network).fit(X, y), test, classes)


def lightgbm(X: Any, y: Any, test: Any, classes: bool) -> Any:
    """LightGBM."""
    from lightgbm import LGBMClassifier, LGBMRegressor

    kind = LGBMClassifier if classes else LGBMRegressor
    X, test = with_categories(X, test)
    return _predicted(kind(random_state=SEED, n_jobs=1, verbose=-1).fit(X, y), test, classes)


def xgboost(X: Any, y: Any, test: Any, classes: bool) -> Any:
    """XGBoost."""
    from xgboost import XGBClassifier, XGBRegressor

    kind = XGBClassifier if classes else XGBRegressor
    X, test = with_categories(X, test)
    y = np.unique(y, return_inverse=True)[1] if classes else y
    return _predicted(kind(random_state=SEED, n_jobs=1, enable_categorical=True).fit(X, y), test, classes)


def catboost(X: Any, y: Any, test: Any, classes: bool) -> Any:
    """CatBoost."""
    from catboost import CatBoostClassifier, CatBoostRegressor

    kind = CatBoostClassifier if classes else CatBoostRegressor
    texts = _text_columns(X)
    X, test = X.copy(), test.copy()
    for frame in (X, test):
        frame[texts] = frame[texts].astype(object).fillna("missing").astype(str)
    model = kind(random_seed=SEED, thread_count=1, verbose=False, allow_writing_files=False, cat_features=texts)
    return _predicted(model.fit(X, y), test, classes)


def realmlp(X: Any, y: Any, test: Any, classes: bool) -> Any:
    """RealMLP with its tuned defaults, by pytabkit; it takes no missing number, so medians stand for them."""
    from pytabkit import RealMLP_TD_Classifier, RealMLP_TD_Regressor

    kind = RealMLP_TD_Classifier if classes else RealMLP_TD_Regressor
    X, test = with_categories(X, test)
    numbers = [name for name in X if X[name].dtype != "category"]
    middle = X[numbers].median()
    X[numbers], test[numbers] = X[numbers].fillna(middle), test[numbers].fillna(middle)
    return _predicted(kind(random_state=SEED, device="cpu", n_threads=1).fit(X, y), test, classes)


def before_presets(X: Any, y: Any, test: Any, classes: bool) -> Any:
    """``gpubp train --preset none``: one hidden layer, no validation, standardized numbers."""
    import gpubp
    from gpubp import data as reading
    from gpubp.cli.settings import default_epochs

    frame = X.copy()
    frame["target of all"] = y
    loss = "cross_entropy" if classes else "half_squared_error"
    ready = reading.prepare(reading.read(frame, "target of all"), loss=loss, test=0.0)
    net = gpubp.MLP([ready.n_inputs, 128, ready.n_outputs], loss=ready.loss, device="cpu")
    gpubp.train(net, *ready.train, schedule="cosine", epochs=default_epochs(len(X), 128))
    rows, _ = reading.encode(ready.preprocessing, reading.read(test, trained=ready.preprocessing), with_target=False)
    outputs = net.forward(rows)
    return outputs if classes else reading.decode(ready.preprocessing, outputs)["prediction"]


def preset(name: str) -> Callable[[Any, Any, Any, bool], Any]:
    """One of gpubp's presets."""

    def predict(X: Any, y: Any, test: Any, classes: bool) -> Any:
        import gpubp

        kind = gpubp.TabularClassifier if classes else gpubp.TabularRegressor
        return _predicted(kind(preset=name, random_state=SEED, device="cpu").fit(X, y), test, classes)

    return predict


CONTENDERS: dict[str, Callable[[Any, Any, Any, bool], Any]] = {
    "gpubp none": before_presets,
    "gpubp fast": preset("fast"),
    "gpubp good": preset("good"),
    "gpubp best": preset("best"),
    "HGB": hgb,
    "scikit-learn MLP": sklearn_mlp,
    "LightGBM": lightgbm,
    "XGBoost": xgboost,
    "CatBoost": catboost,
    "RealMLP-TD": realmlp,
}
