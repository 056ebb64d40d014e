"""Arguments of `gpubp.train` that are refused before anything is trained."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

import gpubp
from gpubp import MLP, DataError, UsageError, train
from support.trainings import digest

X3, Y3 = np.arange(18.0).reshape(6, 3) / 18, np.array([0, 1, 0, 1, 0, 1])
WITH_NAN = X3.copy()
WITH_NAN[4, 1] = np.nan
BAD = [
    ({"X": X3[:, :2]}, DataError, "X has 2 columns, but the network has 3 inputs"),
    ({"X": X3[0]}, DataError, "X has shape (3,); it must be (rows, 3); one row is X.reshape(1, -1)"),
    ({"X": X3[:0], "y": Y3[:0]}, DataError, "X has no rows"),
    ({"X": WITH_NAN}, DataError, "X[4, 1] = nan; values must be finite"),
    ({"X": X3 * 1e300}, DataError, "is too large for float32; scale it"),
    ({"X": X3.astype(str)}, DataError, "it must be real numbers"),
    ({"X": X3 + 1j}, DataError, "X has dtype complex128"),
    ({"X": [[1, 2, 3], [1, 2]]}, DataError, "X is not an array"),
    ({"y": Y3[:5]}, DataError, "y has shape (5,), but there are 6 rows of X"),
    ({"y": Y3 + 1}, DataError, "y[1] = 2 is no class of this network: classes are 0 … 1"),
    ({"y": Y3 - 1}, DataError, "y[0] = -1 is no class"),
    ({"y": Y3 + 0.5}, DataError, "y[0] = 0.5 is continuous, but loss"),
    ({"y": Y3 * np.nan}, DataError, "y[0] = nan; values must be finite"),
    ({"y": np.ones((6, 2))}, DataError, 'y[0] sums to 2; a row of "cross_entropy" targets is one-hot'),
    ({"y": np.eye(3)[Y3]}, DataError, "y has shape (6, 3), but the network has 2 outputs"),
    ({"y": 2 * np.eye(2)[Y3]}, DataError, "y[0, 0] = 2.0 is outside 0 … 1"),
    ({"y": list("ababab")}, DataError, "y has dtype"),
    ({"sample_weight": np.ones(5)}, DataError, "sample_weight has shape (5,); it must be (6,)"),
    ({"sample_weight": [1, 1, -1, 1, 1, 1]}, DataError, "sample_weight[2] = -1 is negative"),
    ({"sample_weight": np.zeros(6)}, DataError, "sample_weight is all zeros"),
    ({"sample_weight": [1, np.inf, 1, 1, 1, 1]}, DataError, "sample_weight[1] = inf"),
    ({"validation_data": (X3,)}, UsageError, "give (X, y) or (X, y, sample_weight)"),
    ({"validation_data": 0.1}, UsageError, "validation_data does not fit"),
    ({"validation_data": (X3[:, :1], Y3)}, DataError, "validation X has 1 columns"),
    ({"validation_data": (X3, Y3[:2])}, DataError, "validation y has shape (2,)"),
    ({"validation_data": (X3, Y3, [1])}, DataError, "validation sample_weight has shape (1,)"),
    ({"optimizer": "adaam"}, UsageError, 'unknown optimizer "adaam"; did you mean "adam"?'),
    ({"optimizer": 3}, UsageError, "optimizer 3 is neither a name nor"),
    ({"optimizer_options": {"momentum": 0.9}}, UsageError, 'optimizer "adam" has no option "momentum"'),
    ({"optimizer_options": {"beta1": 1.0}}, UsageError, "beta1=1.0 does not fit; use 0 <= beta1 < 1"),
    ({"optimizer_options": {"beta1": "high"}}, UsageError, "beta1=high does not fit"),
    ({"optimizer_options": {"beta1": [0.1, 0.2]}}, UsageError, "beta1 has shape (2,); give one number"),
    ({"learning_rate": 0}, UsageError, "learning_rate=0 does not fit; use learning_rate > 0 and finite"),
    ({"learning_rate": np.inf}, UsageError, "learning_rate=inf does not fit"),
    ({"learning_rate": "fast"}, UsageError, "learning_rate='fast' does not fit; give one number"),
    ({"optimizer_options": {3: 0.5}}, UsageError, 'optimizer "adam" has no option "3"'),
    ({"shuffle": "no"}, UsageError, "shuffle='no' does not fit; use True or False"),
    ({"recompute": 2}, UsageError, "recompute=2 does not fit; use True or False"),
    ({"diagnostics": None}, UsageError, "diagnostics=None does not fit; use True or False"),
    ({"checkpoint": 3}, UsageError, "checkpoint=3 does not fit; use a path"),
    ({"resume": 3}, UsageError, "resume=3 does not fit; use a path"),
    ({"learning_rate": [0.1, 0.2]}, UsageError, "learning_rate has shape (2,); give one number, or 1"),
    ({"schedule": "cosin"}, UsageError, 'unknown schedule "cosin"; did you mean "cosine"?'),
    ({"l2": -1e-3}, UsageError, "l2=-0.001 does not fit; use l2 >= 0 and finite"),
    ({"weight_decay": -1}, UsageError, "weight_decay=-1 does not fit"),
    ({"dropout": 1.0}, UsageError, "dropout=1 does not fit; use dropout >= 0 and < 1"),
    ({"dropout": np.nan}, UsageError, "dropout=nan does not fit"),
    ({"label_smoothing": 1.5}, UsageError, "label_smoothing=1.5 does not fit"),
    ({"class_weight": {2: 1.0}}, UsageError, "class_weight names class 2; classes are 0 … 1"),
    ({"X": scipy.sparse.csr_array(X3)}, DataError, "X is a sparse matrix, and dense rows are needed; pass X.toarray()"),
    ({"checkpoint_every": "2steps"}, UsageError, "checkpoint_every='2steps' needs a folder to write to"),
    ({"class_weight": 3}, UsageError, 'class_weight=3 does not fit; use "balanced" or a dict {class: weight}'),
    ({"optimizer_options": 3}, UsageError, "optimizer_options=3 does not fit; give a dict, such as {'beta1': 0.9}"),
    ({"class_weight": {0: -1.0}}, UsageError, "class_weight[0] = -1.0 must be finite and not negative"),
    ({"class_weight": "balance"}, UsageError, 'class_weight "balance" is unknown; use "balanced"'),
    ({"class_weight": {0: 0, 1: 0}}, DataError, "leave every sample with weight 0"),
    ({"max_grad_norm": 0}, UsageError, "max_grad_norm=0 does not fit; use max_grad_norm > 0"),
    ({"batch_size": 0}, UsageError, "batch_size=0 does not fit; use a whole number of at least 1"),
    ({"batch_size": 2.0}, UsageError, "batch_size=2.0 does not fit"),
    ({"epochs": 0}, UsageError, "epochs=0 does not fit"),
    ({"epochs": True}, UsageError, "epochs=True does not fit"),
    ({"patience": 3}, UsageError, "patience needs validation_data to watch"),
    ({"patience": 0, "validation_data": (X3, Y3)}, UsageError, "patience=0 does not fit"),
    ({"update_tolerance": -1}, UsageError, "update_tolerance=-1 does not fit"),
    ({"seed": -1}, UsageError, "seed=-1 does not fit; use a whole number of at least 0"),
    ({"seed": 0.5}, UsageError, "seed=0.5 does not fit"),
    ({"seed": [1, 2]}, UsageError, "seed names 2 seeds for 1 networks"),
    ({"callbacks": print}, UsageError, "give a list of functions of (net, history)"),
    ({"callbacks": [3]}, UsageError, "callbacks=[3] does not fit"),
]


@pytest.mark.parametrize("change, kind, message", BAD, ids=[message[:40] for _, _, message in BAD])
def test_bad_arguments_are_refused_before_anything_is_trained(change, kind, message):
    net = MLP([3, 4, 2])
    before = digest(net)
    arguments = {"X": X3, "y": Y3, "epochs": 1, **change}
    with pytest.raises(kind) as caught:
        train(net, **arguments)
    assert message in str(caught.value)
    assert digest(net) == before


@pytest.mark.parametrize("net", [gpubp.MLPClassifier((4,)), None], ids=["an estimator", "None"])
def test_only_networks_are_trained(net):
    with pytest.raises(UsageError, match="an MLP, not a (MLPClassifier|NoneType); an estimator has a fit of its own"):
        train(net, X3, Y3)


@pytest.mark.parametrize(
    "loss, change, message",
    [
        ("half_squared_error", {"label_smoothing": 0.1}, 'smooths classes; loss "half_squared_error" has none'),
        ("half_squared_error", {"class_weight": "balanced"}, "class_weight needs one class per row"),
        ("binary_cross_entropy", {"y": 2 * Y3}, "y[1, 0] = 2 is outside 0 … 1"),
        ("poisson", {"y": Y3 - 1}, 'y[0, 0] = -1 is outside 0 … inf, where loss "poisson" has its targets'),
    ],
)
def test_arguments_that_do_not_fit_the_loss(loss, change, message):
    net = MLP([3, 4, 1], loss=loss)
    with pytest.raises(UsageError) as caught:
        train(net, **{"X": X3, "y": Y3, **change})
    assert message in str(caught.value)
