"""Estimators for unprepared tables: a preset behind scikit-learn's interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, d2_pinball_score, r2_score
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from gpubp import checks
from gpubp.data import decode, targets
from gpubp.errors import DataError, UsageError
from gpubp.losses import Loss, get_loss
from gpubp.serialization import check_metadata, class_values, refuse_metadata
from gpubp.tabular import fitting
from gpubp.tabular.fold_rows import TrainingRows
from gpubp.tabular.frames import as_table, check_width, column_of_targets, with_target
from gpubp.tabular.model import TabularModel
from gpubp.tabular.recipes import get_preset

PARAMETERS = "estimator"  # the entry of `TabularModel.about` that an estimator is saved under
ABOUT = {"class": str, "parameters": {}, "n_features": int, "columns": [str]}


class _Tabular(BaseEstimator, ABC):  # type: ignore[misc]
    """What the classifier and the regressor share."""

    def _fit(
        self,
        X: Any,
        y: NDArray[Any],
        loss: Loss,
        weight: NDArray[np.float64] | None,
        class_names: Sequence[str | int] | None = None,
    ) -> fitting.FittedPreset:
        """Fit the preset on encoded targets: class indices, which have these names in messages, or values."""
        preset = get_preset(self.preset)
        limit = self.time_limit
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, Real) or not float(limit) > 0):
            raise UsageError(f"time_limit={self.time_limit!r} does not fit; give seconds, or None")
        say = (lambda text: print(text, flush=True)) if self.verbose else fitting.silent
        data = replace(with_target(as_table(X), y, "target"), class_names=class_names)
        outputs = targets.Outputs.of(loss)
        target = targets.fit(data, loss, outputs)
        rows = np.arange(data.rows)
        targets.standardize(target, data, loss, rows, outputs)
        table = TrainingRows(data, rows, target, loss, outputs, targets.class_indices(target, data), weight)
        targets.clamp(target, table.y)
        run = fitting.Run(
            seed=checks.whole("random_state", self.random_state, 0),
            device=self.device,
            precision=self.precision,
            time_limit=None if limit is None else float(limit),
            epochs=None if self.epochs is None else checks.whole("epochs", self.epochs, 1),
            say=say,
        )
        fitted = fitting.fit(table, preset, run)
        for note in data.notes:
            say(note)
        self.model_, self.recipe_weights_ = fitted.model, fitted.weights
        self.notes_ = list(data.notes)
        names = [name for name in data.columns if name != data.target]
        self.n_features_in_ = len(names)
        if hasattr(X, "columns"):
            self.feature_names_in_ = np.array(names, dtype=object)
        return fitted

    def _outputs(self, X: Any) -> NDArray[np.float64]:
        """a^L (m, n_L) of rows, on the scale of the model's target."""
        check_is_fitted(self, "model_")
        table = as_table(X, self.model_.preprocessing)
        check_width(X, table, self)
        rows, _ = self.model_.encode(table, with_target=False)
        return self.model_.forward(rows)

    def permutation_importances(
        self, X: Any, y: Any, *, n_repeats: int = 5, random_state: int = 0
    ) -> dict[str, tuple[float, float]]:
        """How much worse `score` becomes when a column is shuffled among the rows.

        Parameters
        ----------
        X : data frame or array
            Rows that were not trained on.
        y : (m,) array
        n_repeats : int
            How often each column is shuffled.
        random_state : int

        Returns
        -------
        dict of str to (float, float)
            Mean and standard deviation by column, the most important first.
        """
        from sklearn.inspection import permutation_importance  # slow to import, and not needed by fits

        result = permutation_importance(self, X, y, n_repeats=n_repeats, random_state=random_state)
        names = [str(name) for name in getattr(X, "columns", range(self.n_features_in_))]
        order = np.argsort(-result.importances_mean)
        return {names[j]: (float(result.importances_mean[j]), float(result.importances_std[j])) for j in order}

    # -- files -----------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to one safetensors file, without pickle.

        Raises
        ------
        UsageError
            For classes that are neither strings nor numbers, or if the file cannot be written.
        """
        check_is_fitted(self, "model_")
        parameters = {"class": type(self).__name__, "parameters": self._json_parameters()}
        columns = [str(name) for name in getattr(self, "feature_names_in_", [])]
        about = {**parameters, "n_features": self.n_features_in_, "columns": columns, **self._json_attributes(path)}
        TabularModel(self.model_.members, self.model_.preprocessing, self.model_.about | {PARAMETERS: about}).save(path)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Self:
        """Read an estimator that `save` wrote; it can predict, and keeps its parameters and recipes, but not its rows.

        Raises
        ------
        DataError
            If the file holds something else, or is damaged.
        """
        model = TabularModel.load(path, device)
        about = model.about.get(PARAMETERS)
        if about is None:
            raise DataError(f"{path}: holds the model of a run; load it with gpubp predict")
        check_metadata(f"{path}: about.{PARAMETERS}", about, ABOUT)
        if about["class"] != cls.__name__:
            raise DataError(f"{path}: holds a {about['class']}; load it with {about['class']}.load")
        try:
            est = cls(**about["parameters"])
        except TypeError as error:
            raise DataError(f"{path}: {error}; the file is damaged or from another version") from None
        est.model_, est.recipe_weights_, est.notes_ = model, model.about["recipe_weights"], []
        est.n_features_in_ = about["n_features"]
        if len(about["columns"]) not in (0, est.n_features_in_):
            refuse_metadata(f"{path}: about.{PARAMETERS}.columns", about["columns"], f"{est.n_features_in_} names")
        if about["columns"]:
            est.feature_names_in_ = np.array(about["columns"], dtype=object)
        est._take_attributes(f"{path}: about.{PARAMETERS}", about)
        return est

    def _json_parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = self.get_params(deep=False)
        return parameters

    def _json_attributes(self, path: str | Path) -> dict[str, Any]:
        return {}

    def _take_attributes(self, where: str, about: Mapping[str, Any]) -> None:
        """Set the attributes that `_json_attributes` saved; `where` they are stored is for messages."""

    @abstractmethod
    def predict(self, X: Any) -> NDArray[Any]:
        """Predict rows."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags


class TabularClassifier(ClassifierMixin, _Tabular):  # type: ignore[misc]
    """Classify rows of a table with networks that a preset builds, trains and weights.

    Data frames need no preparation: columns may hold numbers, text, categories, booleans, dates and missing values.

    Parameters
    ----------
    preset : {"fast", "good", "best"}
        One network; eight, each validated on the rows of its fold; or eight from each of several recipes.
    class_weight : dict or "balanced", optional
        Multiplies the sample weights by a weight for each class.
    time_limit : float, optional
        Seconds for `fit`; if they are too few, networks are trained for fewer epochs, and recipes are left out.
    epochs : int, optional
        Overrides the recipes' own number.
    random_state : int
    device, precision : str
        As in `gpubp.MLP`.
    verbose : bool
        Whether to print what is trained, how long it may take, and what was left out.

    Attributes
    ----------
    classes_ : (n_classes,) array
    n_features_in_ : int
    feature_names_in_ : (n_features_in_,) array of str
        If X had names.
    oof_proba_ : (m, n_classes) array
        Out-of-fold probabilities of the training rows, from networks that were not trained on them, or for ``"fast"``
        from its network before it was; NaN for rows on which no network was validated.
    oof_score_ : float
        The accuracy of these probabilities.
    recipe_weights_ : dict of str to float
        The weight of each recipe, chosen by out-of-fold predictions.
    notes_ : list of str
        What was left out, or read in a way that you may want to know about.

    Examples
    --------
    >>> import gpubp
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> clf = gpubp.TabularClassifier("good", epochs=40, device="cpu").fit(X, y)
    >>> clf.oof_score_ > 0.9
    True
    >>> clf.predict_proba(X[:2]).shape
    (2, 3)
    """

    def __init__(
        self,
        preset: str = "best",
        *,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        time_limit: float | None = None,
        epochs: int | None = None,
        random_state: int = 0,
        device: str = "auto",
        precision: str = "float32",
        verbose: bool = False,
    ) -> None:
        self.preset = preset
        self.class_weight = class_weight
        self.time_limit = time_limit
        self.epochs = epochs
        self.random_state = random_state
        self.device = device
        self.precision = precision
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train the networks of the preset.

        Parameters
        ----------
        X : pandas or polars data frame, (m, n) array, or dict of str to (m,) array
        y : (m,) array
            Classes: strings, numbers or booleans.
        sample_weight : (m,) array, optional

        Returns
        -------
        TabularClassifier
            Itself.

        Raises
        ------
        DataError
            If there is nothing to learn from X or y; the message says what is missing and where.
        UsageError
            For a parameter that does not fit, or a time limit that is too short.
        """
        labels = column_of_targets(y)
        if type_of_target(labels) not in ("binary", "multiclass"):
            raise DataError(f"y: {labels.dtype}, {type_of_target(labels)}; give a class a row, or TabularRegressor")
        classes, codes = np.unique(labels, return_inverse=True)
        if len(classes) == 1:
            raise DataError(f'y: all {len(labels)} rows are of class "{classes[0]}"; there is nothing to learn')
        weight = checks.sample_weight(sample_weight, len(codes))
        if self.class_weight is not None:
            by_class = self._weights_of_classes(classes, labels)[codes]
            weight = by_class if weight is None else weight * by_class
        names = [int(name) if classes.dtype.kind in "iu" else str(name) for name in classes]
        fitted = self._fit(X, codes, get_loss("cross_entropy"), weight, names)
        self.classes_ = classes
        self.oof_proba_ = fitted.oof_outputs
        known = ~np.isnan(fitted.oof_outputs).any(axis=1)
        right = self.classes_[fitted.oof_outputs[known].argmax(axis=1)]
        self.oof_score_ = float(accuracy_score(labels[known], right))
        return self

    def _weights_of_classes(self, classes: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
        if isinstance(self.class_weight, Mapping):
            for name, value in self.class_weight.items():
                if not isinstance(value, Real) or not 0 <= float(value) < np.inf:
                    raise UsageError(f"class_weight[{name!r}] = {value!r} must be finite and not negative")
        weights: NDArray[np.float64] = compute_class_weight(self.class_weight, classes=classes, y=labels)
        return weights

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities (m, n_classes) of the classes in `classes_`."""
        return self._outputs(X)

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class (m,) of each row."""
        outputs = self._outputs(X)  # first, because it refuses an unfitted estimator
        classes: NDArray[Any] = self.classes_[outputs.argmax(axis=1)]
        return classes

    def _json_parameters(self) -> dict[str, Any]:
        parameters = super()._json_parameters()
        if isinstance(self.class_weight, Mapping):
            parameters["class_weight"] = None  # its keys may not fit JSON, and predictions do not need them
        return parameters

    def _json_attributes(self, path: str | Path) -> dict[str, Any]:
        if self.classes_.dtype.kind not in "biufUO":
            raise UsageError(f"{path}: classes of type {self.classes_.dtype} cannot be saved; use texts or numbers")
        return {"classes": self.classes_.tolist(), "dtype": self.classes_.dtype.str}

    def _take_attributes(self, where: str, about: Mapping[str, Any]) -> None:
        check_metadata(where, about, {"classes": [], "dtype": str})
        self.classes_ = class_values(where, about["classes"], about["dtype"])
        if len(self.classes_) != self.model_.preprocessing["target"]["outputs"]:
            refuse_metadata(f"{where}.classes", about["classes"], "one for each output")


class TabularRegressor(RegressorMixin, _Tabular):  # type: ignore[misc]
    """Predict values for rows of a table with networks that a preset builds, trains and weights.

    Data frames need no preparation: columns may hold numbers, text, categories, booleans, dates and missing values.
    Predictions stay within the range of the training targets.

    Parameters
    ----------
    preset : {"fast", "good", "best"}
        One network; eight, each validated on the rows of its fold; or eight from each of several recipes.
    loss : str
        A loss on values: ``"half_squared_error"``, ``"huber"``, ``"quantile(0.9)"``, ``"poisson"``, ….
    time_limit : float, optional
        Seconds for `fit`; if they are too few, networks are trained for fewer epochs, and recipes are left out.
    epochs : int, optional
        Overrides the recipes' own number.
    random_state : int
    device, precision : str
        As in `gpubp.MLP`.
    verbose : bool
        Whether to print what is trained, how long it may take, and what was left out.

    Attributes
    ----------
    n_features_in_ : int
    feature_names_in_ : (n_features_in_,) array of str
        If X had names.
    oof_prediction_ : (m,) or (m, n_outputs) array
        Out-of-fold predictions for the training rows, from networks that were not trained on them, or for ``"fast"``
        from its network before it was; NaN for rows on which no network was validated.
    oof_score_ : float
        R² of these predictions; for several quantiles, the mean D² of their pinball losses.
    recipe_weights_ : dict of str to float
        The weight of each recipe, chosen by out-of-fold predictions.
    notes_ : list of str
        What was left out, or read in a way that you may want to know about.

    Examples
    --------
    >>> import gpubp
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> reg = gpubp.TabularRegressor("good", epochs=20, device="cpu").fit(X, y)
    >>> 0.3 < reg.oof_score_ < 0.7
    True
    """

    def __init__(
        self,
        preset: str = "best",
        *,
        loss: str = "half_squared_error",
        time_limit: float | None = None,
        epochs: int | None = None,
        random_state: int = 0,
        device: str = "auto",
        precision: str = "float32",
        verbose: bool = False,
    ) -> None:
        self.preset = preset
        self.loss = loss
        self.time_limit = time_limit
        self.epochs = epochs
        self.random_state = random_state
        self.device = device
        self.precision = precision
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train the networks of the preset.

        Parameters
        ----------
        X : pandas or polars data frame, (m, n) array, or dict of str to (m,) array
        y : (m,) or (m, n_outputs) array
            Numbers.
        sample_weight : (m,) array, optional

        Returns
        -------
        TabularRegressor
            Itself.

        Raises
        ------
        DataError
            If there is nothing to learn from X or y; the message says what is missing and where.
        UsageError
            For a parameter that does not fit, or a time limit that is too short.
        """
        loss = get_loss(self.loss)
        if loss.classification:
            raise UsageError(f'loss "{loss.name}" is for classes; use TabularClassifier, or a loss on values')
        targets_of_rows = column_of_targets(y)
        if targets_of_rows.dtype.kind in "mM":
            raise DataError(
                f"y: holds times ({targets_of_rows.dtype}), which have no unit as numbers; give numbers, such as "
                "seconds"
            )
        try:
            values = targets_of_rows.astype(np.float64)
        except (TypeError, ValueError):
            raise DataError("y: holds texts; give numbers, or use TabularClassifier for classes") from None
        if len(values) > 1 and (values == values[0]).all():
            raise DataError(f"y: {values.ravel()[0]:g} in all {len(values)} rows; there is nothing to learn")
        fitted = self._fit(X, values, loss, checks.sample_weight(sample_weight, len(values)))
        self.oof_prediction_ = self._decoded(fitted.oof_outputs)
        known = ~np.isnan(fitted.oof_outputs).any(axis=1)
        many = known.sum() > 1
        self.oof_score_ = self._score_of(values[known], self.oof_prediction_[known], None) if many else np.nan
        return self

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R² of the predictions, averaged over targets; of several quantiles, the mean D² of their pinball losses.

        Parameters
        ----------
        X : pandas or polars data frame, (m, n) array, or dict of str to (m,) array
        y : (m,) or (m, n_outputs) array
        sample_weight : (m,) array, optional
        """
        return self._score_of(column_of_targets(y), self.predict(X), sample_weight)

    def _score_of(self, y: NDArray[Any], predictions: NDArray[np.float64], weight: Any) -> float:
        quantiles = get_loss(self.loss).quantiles
        if not quantiles:
            return float(r2_score(y, predictions, sample_weight=weight))
        columns = zip(predictions.T, quantiles, strict=True)
        return float(np.mean([d2_pinball_score(y, p, alpha=q, sample_weight=weight) for p, q in columns]))

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Values (m,), or (m, n_outputs) where there are several targets."""
        return self._decoded(self._outputs(X))

    def _decoded(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        columns = list(decode(self.model_.preprocessing, outputs).values())
        return columns[0] if len(columns) == 1 else np.column_stack(columns)
