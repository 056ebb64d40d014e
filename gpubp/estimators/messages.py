"""Messages that scikit-learn's estimators give too: warnings under its module, and errors of its class."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from sklearn.exceptions import DataConversionWarning

from gpubp.errors import UsageError
from gpubp.estimators.sklearn_private import InvalidParameterError

SKLEARN_MODULE = "sklearn.neural_network._multilayer_perceptron"
_PASSED_OVER = {"gpubp", "sklearn", "joblib", "contextlib"}  # packages whose stack frames are not the caller's


class InvalidNameError(UsageError, InvalidParameterError):  # type: ignore[misc]
    """A parameter value that is in no registry: both gpubp's error and scikit-learn's."""


@contextmanager
def invalid_names() -> Iterator[None]:
    """Raise gpubp's refusals as an error that code for scikit-learn also catches."""
    try:
        yield
    except UsageError as error:
        raise InvalidNameError(*error.args) from error


def warn_of_column() -> None:
    """Say in scikit-learn's words that targets came as a column (m, 1), and are taken as (m,)."""
    warn(
        "A column-vector y was passed when a 1d array was expected. Please change the shape of y to (n_samples, ), for "
        "example using ravel().",
        DataConversionWarning,
        SKLEARN_MODULE,
    )


def warn(message: str, category: type[Warning] = UserWarning, module: str | None = None) -> None:
    """Warn at the line that called gpubp or scikit-learn.

    Parameters
    ----------
    message : str
    category : type
    module : str or None
        The module that filters match; None means the caller's. Warnings that scikit-learn's estimators also give use
        `SKLEARN_MODULE`, so that ``filterwarnings("ignore", module="sklearn")`` silences both.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _PASSED_OVER:
        frame = frame.f_back
    warnings.warn_explicit(
        message,
        category,
        filename=frame.f_code.co_filename,
        lineno=frame.f_lineno,
        module=module or str(frame.f_globals.get("__name__")),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )
