"""The estimators' imports from scikit-learn beyond its public interface; a release that moves them breaks this alone.

They must exist from scikit-learn 1.7 on. Private names that are inherited rather than imported are where they are used:
`_parameter_constraints`, `_validate_params` and `_get_param_names` of any estimator; `_get_scorers`, `_format_results`
and `_select_best_index` of a search; `_init_callback_context` and `_skl_callbacks` of callbacks.
"""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any

# decorates `fit`: parameters are checked by `_parameter_constraints` first
from sklearn.base import _fit_context as fit_context

# several metrics as one callable, which keeps them in `_scorers`
from sklearn.metrics._scorer import _MultimetricScorer as MultimetricScorer

# what GridSearchCV and RandomizedSearchCV have in common
from sklearn.model_selection._search import BaseSearchCV

# the scores of a fitted estimator on some rows, with a search's warnings if scoring fails
from sklearn.model_selection._validation import _score as score_estimator

# a search's report of the fits that failed
from sklearn.model_selection._validation import _warn_or_raise_about_fit_failures as warn_or_raise_about_fit_failures

# `check_same_namespace`, from 1.9 on: X must be of the weights' library
from sklearn.utils import _array_api

# rows of arrays, sparse matrices, data frames and lists alike
from sklearn.utils import _safe_indexing as safe_indexing

# an array of any library in NumPy
from sklearn.utils._array_api import _convert_to_numpy as convert_to_numpy

# whether a namespace is NumPy's own or a wrapper around it
from sklearn.utils._array_api import _is_numpy_namespace as is_numpy_namespace

# an array's namespace, whether it supports the array API, and its device
from sklearn.utils._array_api import get_namespace_and_device

# the bounds of parameters: numbers in an interval, some values, real numbers that are not integers, some strings
from sklearn.utils._param_validation import Interval, Options, RealNotInt, StrOptions

# the error about an invalid parameter value
from sklearn.utils._param_validation import InvalidParameterError as InvalidParameterError

# whether this call of `partial_fit` is the first, whose `classes` become `classes_`
from sklearn.utils.multiclass import _check_partial_fit_first_call as check_partial_fit_first_call

# iterations that L-BFGS made, with a warning if it did not converge
from sklearn.utils.optimize import _check_optimize_result as check_optimize_result

# checks column names against those of `fit`, which it remembers
from sklearn.utils.validation import _check_feature_names as check_feature_names

# metadata of `fit`, with each array that has as many rows as X cut to some rows
from sklearn.utils.validation import _check_method_params as check_method_params

# checks the number of columns against that in `fit`, which it remembers
from sklearn.utils.validation import _check_n_features as check_n_features

# sample weights as an array of one number per row
from sklearn.utils.validation import _check_sample_weight as check_sample_weight

# rows of whatever `fit` takes
from sklearn.utils.validation import _num_samples as num_samples

__all__ = [
    "BaseSearchCV",
    "Interval",
    "InvalidParameterError",
    "MultimetricScorer",
    "Options",
    "RealNotInt",
    "StrOptions",
    "check_feature_names",
    "check_method_params",
    "check_n_features",
    "check_optimize_result",
    "check_partial_fit_first_call",
    "check_same_namespace",
    "check_sample_weight",
    "convert_to_numpy",
    "fit_context",
    "get_namespace_and_device",
    "is_numpy_namespace",
    "num_samples",
    "safe_indexing",
    "score_estimator",
    "scorer_takes_weights",
    "warn_or_raise_about_fit_failures",
]


def check_same_namespace(X: Any, estimator: Any, attribute: str, method: str) -> None:
    """Refuse X from a different array library than the estimator's attribute; scikit-learn before 1.9 does not."""
    if hasattr(_array_api, "check_same_namespace"):
        _array_api.check_same_namespace(X, estimator, attribute=attribute, method=method)


def scorer_takes_weights(scorer: Any) -> bool:
    """Whether a scorer takes sample weights: a scikit-learn scorer does if its metric does."""
    parameters = signature(getattr(scorer, "_score_func", scorer)).parameters
    return "sample_weight" in parameters or any(each.kind == Parameter.VAR_KEYWORD for each in parameters.values())
