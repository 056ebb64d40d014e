"""How well a network predicts, compared with predictions that ignore the inputs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp._typing import Array
from gpubp.data import decode
from gpubp.network import MLP
from gpubp.tabular.model import TabularModel

Scores = dict[str, float | None]

LARGE_GAP = 0.15  # of accuracy or r2, between training and test rows
MOST_CONFUSED = 100  # most classes of a confusion matrix


def score(net: MLP | TabularModel, X: Any, y: Array) -> Scores:
    """How well a network predicts: ``loss`` and figures that depend on what it predicts.

    Parameters
    ----------
    net : MLP or TabularModel
        With the preprocessing that encoded `y`.
    X : (m, n_0) array, or TableRows of a TabularModel
    y : (m,) or (m, n_L) array

    Returns
    -------
    dict
        ``loss``, in the units of training, and the figures of `measure`.
    """
    assert net.preprocessing is not None
    return {"loss": net.evaluate(X, y)["loss"], **measure(net.preprocessing, y, net.forward(X))}


def measure(preprocessing: dict[str, Any], y: Array, outputs: Array) -> Scores:
    """Metrics of a network from its outputs for encoded targets.

    Parameters
    ----------
    preprocessing : dict
    y : (m,) or (m, n_L) array
    outputs : (m, n_L) array

    Returns
    -------
    dict
        For classes ``accuracy``, ``balanced_accuracy``, the mean over classes of the fraction of their rows that are
        right, and ``auc``, the area under the ROC curve, for several classes the mean of each against all others; None
        if all rows are of one class. For several labels ``exact_match``, the fraction of rows all of whose labels are
        right (scikit-learn's accuracy), and ``label_accuracy``, the fraction of labels. For values ``rmse``, ``mae``
        and ``r2`` in the target's own units, averaged over several targets; r2 is None for a single row. In addition
        ``pinball_loss`` if the outputs are several quantiles.
    """
    kind = preprocessing["target"]["type"]
    if kind == "labels":
        right = (outputs > 0.5) == (y > 0.5)
        return {"exact_match": float(right.all(axis=1).mean()), "label_accuracy": float(right.mean())}
    if kind == "values":
        return _measure_values(preprocessing, y, outputs)
    codes, predicted = true_classes(preprocessing, y), predicted_classes(preprocessing, outputs)
    counts = np.bincount(codes)
    recalls = np.bincount(codes[codes == predicted], minlength=len(counts))[counts > 0] / counts[counts > 0]
    return {
        "accuracy": float((codes == predicted).mean()),
        "balanced_accuracy": float(recalls.mean()),
        "auc": _area_under_curve(codes, _by_class(preprocessing, outputs)),
    }


def baseline(preprocessing: dict[str, Any], y: Array) -> Scores | None:
    """The figures of `measure` for a network that knows the mean of the training targets and ignores the inputs.

    For classes, it always predicts the most frequent one. None for a network saved without that mean.
    """
    mean = preprocessing["target"].get("training_mean")
    return None if mean is None else measure(preprocessing, y, np.tile(np.array(mean), (len(y), 1)))


def baseline_name(preprocessing: dict[str, Any]) -> str:
    """What the baseline predicts: ``always "cat"``, ``mean of training``."""
    target = preprocessing["target"]
    if "classes" not in target:
        return "most frequent labels" if target["type"] == "labels" else "mean of training"
    majority = predicted_classes(preprocessing, np.array([target["training_mean"]]))[0]
    return f'always "{target["classes"][majority]}"'


def confusion(preprocessing: dict[str, Any], y: Array, outputs: Array) -> list[list[int]] | None:
    """How many rows of each class (a row of the matrix) are predicted as each class (a column); None for other tasks.

    Also None for more than 100 classes.
    """
    classes = preprocessing["target"].get("classes")
    if classes is None or len(classes) > MOST_CONFUSED:
        return None
    k = len(classes)
    pairs = true_classes(preprocessing, y) * k + predicted_classes(preprocessing, outputs)
    matrix: list[list[int]] = np.bincount(pairs, minlength=k * k).reshape(k, k).tolist()
    return matrix


def remarks(preprocessing: dict[str, Any], matrix: list[list[int]] | None, parts: Mapping[str, Scores]) -> list[str]:
    """Warnings about what the figures might hide: predictions of a single class, and overfitting.

    Parameters
    ----------
    preprocessing : dict
    matrix : list of list of int, or None
        The result of `confusion` for the last part.
    parts : mapping of str to Scores
        The scores of the parts of the data by name, "train" first.
    """
    said = []
    last = list(parts)[-1]
    if matrix is not None:
        predicted = np.flatnonzero(np.sum(matrix, axis=0))
        if len(predicted) == 1 and np.count_nonzero(np.sum(matrix, axis=1)) > 1:
            name = preprocessing["target"]["classes"][int(predicted[0])]
            said.append(
                f'predicts "{name}" for all {int(np.sum(matrix))} rows of {last}: it tells no classes apart; try '
                "--class-weight balanced, more --epochs or another --learning-rate"
            )
    if "train" in parts and last != "train":
        for name in ("accuracy", "r2"):
            before, after = parts["train"].get(name), parts[last].get(name)
            if before is not None and after is not None and before > 0 and before - after > LARGE_GAP:
                said.append(
                    f"{name} falls from {before:.2f} on training rows to {after:.2f} on {last}: it learns rows by "
                    "heart; try --validation 0.2 with --patience 10, --dropout, --weight-decay or fewer --hidden"
                )
    return said


def true_classes(preprocessing: dict[str, Any], y: Array) -> NDArray[np.int64]:
    """The class (m,) of each encoded target."""
    y = np.asarray(y)
    if y.ndim == 1:
        return np.asarray(y, np.int64)
    if preprocessing["target"]["type"] == "binary":
        return np.asarray(y[:, 0] > 0.5, np.int64)
    return np.asarray(y.argmax(axis=1), np.int64)


def predicted_classes(preprocessing: dict[str, Any], outputs: Array) -> NDArray[np.int64]:
    """The class (m,) predicted by outputs (m, n_L)."""
    return np.asarray(_by_class(preprocessing, outputs).argmax(axis=1), np.int64)


def _by_class(preprocessing: dict[str, Any], outputs: Array) -> NDArray[Any]:
    """An output (m, classes) for each class, even if a network for two classes has only one, for the second."""
    outputs = np.asarray(outputs)
    return np.hstack([1 - outputs, outputs]) if preprocessing["target"]["type"] == "binary" else outputs


def _area_under_curve(codes: NDArray[np.int64], outputs: NDArray[Any]) -> float | None:
    """The area under the ROC curve; for several classes, the mean over those that contain some rows but not all."""
    from sklearn.metrics import roc_auc_score

    k = outputs.shape[1]
    present = [c for c in ((1,) if k == 2 else range(k)) if 0 < (codes == c).sum() < len(codes)]
    if not present:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(np.mean([roc_auc_score(codes == c, outputs[:, c]) for c in present]))


def _measure_values(preprocessing: dict[str, Any], y: Array, outputs: Array) -> Scores:
    from sklearn.metrics import mean_absolute_error, mean_pinball_loss, r2_score, root_mean_squared_error

    truth = np.column_stack(list(decode(preprocessing, y).values()))
    predicted = np.column_stack(list(decode(preprocessing, outputs).values()))
    quantiles = preprocessing["target"].get("quantiles", ())
    losses = [mean_pinball_loss(truth[:, j], predicted[:, j], alpha=q) for j, q in enumerate(quantiles)]
    return {
        **({"pinball_loss": float(np.mean(losses))} if losses else {}),
        "rmse": float(root_mean_squared_error(truth, predicted)),
        "mae": float(mean_absolute_error(truth, predicted)),
        "r2": float(r2_score(truth, predicted)) if len(truth) > 1 else None,
    }
