"""Labels on one side, what the losses take on the other."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d, compute_sample_weight
from sklearn.utils.multiclass import unique_labels

from gpubp.errors import UsageError
from gpubp.estimators.arrays import as_numpy
from gpubp.estimators.base import BaseMLP
from gpubp.estimators.data import Subset
from gpubp.losses import Loss, get_loss


class Labelled(BaseMLP):
    """A network whose targets are classes, one a row or several.

    Two classes are one logistic output, more a softmax, and several labels a row one logistic output each,
    unless the parameter `loss` says otherwise.
    """

    class_weight: Any
    warm_start: bool
    classes_: NDArray[Any]

    def _check_targets(self, y: Any, incremental: bool) -> Any:
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
            return y
        classes = unique_labels(y)
        if self.warm_start and not incremental and set(classes) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {self.classes_}, `y` has {classes}"
            )
        if len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
            )
        return y

    def _weights(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> NDArray[np.float64] | None:
        weight = super()._weights(X, y, sample_weight, incremental)
        if self.class_weight is None:
            return weight
        if incremental and isinstance(self.class_weight, str):
            raise ValueError(
                "class_weight='balanced' is not supported for partial_fit: one call does not see how frequent the "
                "classes are. Give a dict, from sklearn.utils.class_weight.compute_class_weight over all of y"
            )
        by_class: NDArray[np.float64] = compute_sample_weight(self.class_weight, y)
        return by_class if weight is None else weight * by_class

    @property
    def _kind(self) -> str:
        """ "binary", "multiclass" or "multilabel-indicator"."""
        kind: str = self._label_binarizer.y_type_
        return kind

    def _outputs(self, y: Any) -> int:
        loss = self._named_loss()
        if self._kind == "binary":
            return 2 if loss is not None and loss.integer_targets else 1
        return len(self.classes_)

    def _named_loss(self) -> Loss | None:
        """The loss that the user named; None for the one that fits the labels."""
        if self.loss == "auto":
            return None
        loss = get_loss(self.loss)
        if not loss.classification:
            raise UsageError(
                f'loss="{loss.name}" is for values; MLPClassifier takes "auto", "cross_entropy" or '
                f'"binary_cross_entropy", or a Loss for classes'
            )
        return loss

    def _loss_record(self, n_outputs: int) -> Loss:
        loss = self._named_loss()
        if loss is None:
            return get_loss("cross_entropy" if self._kind == "multiclass" else "binary_cross_entropy")
        if loss.integer_targets and self._kind == "multilabel-indicator":
            raise UsageError(
                f'loss="{loss.name}" takes one class a row, but y has several labels; use "binary_cross_entropy"'
            )
        return loss

    def _encoding(self) -> Hashable:
        return self._kind, tuple(self.classes_.tolist()), str(self.loss)

    def _encoded_beyond(self, y: Any) -> NDArray[Any]:
        """As `_encoded`, of labels some of which may be unknown; those mean nothing."""
        if self._kind != "multilabel-indicator":
            y = np.where(np.isin(y, self.classes_), y, self.classes_[0])
        return self._encoded(y)

    def _encoded(self, y: Any) -> NDArray[Any]:
        if self._kind == "multilabel-indicator":
            return np.asarray(y.toarray() if issparse(y) else y, np.bool_)
        index: NDArray[np.int64] = np.searchsorted(self.classes_, y)
        loss = self._named_loss()
        if self._kind == "multiclass" if loss is None else loss.integer_targets:
            return index
        if self._kind == "binary":
            return index[:, None]
        return np.eye(len(self.classes_))[index]

    def _strata(self, targets: NDArray[Any]) -> Any:
        return (targets[:, 0] == 1).astype(str) if targets.ndim == 2 and targets.shape[1] == 1 else None

    def _score_of(self, a: NDArray[Any], data: Subset) -> float:
        truth = as_numpy(data.targets)
        if self._kind != "multilabel-indicator" and truth.ndim == 2:  # one column, or one-hot
            truth = truth[:, 0] if truth.shape[1] == 1 else truth.argmax(axis=1)
        return float(accuracy_score(truth.astype(np.int64), self._indices(a), sample_weight=data.row_weight))

    def _indices(self, a: Any) -> Any:
        """The class of each row, or the 0/1 matrix of its labels."""
        if self._kind == "multilabel-indicator":
            return (a > 0.5).astype(np.int64)
        return (a[:, 0] > 0.5).astype(np.int64) if a.shape[1] == 1 else a.argmax(axis=1)
