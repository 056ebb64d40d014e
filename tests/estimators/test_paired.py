"""The same lines with our estimators and with scikit-learn's: what they return, warn of and raise is the same.

Both sides run each case in this process, and numbers agree to 1e-10. `DIFFERENT` has the rest, with the reasons.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from support.paired import OURS, THEIRS, Case, Side
from support.paired_inputs import COPIES, INPUTS, REFUSALS
from support.paired_models import FUNCTIONS, MODELS, ONLY_DIFFERENT, REFUSED, ROUTED

TOLERANCE = 1e-10
IN_SINGLE = 1e-4  # what was fitted in float32


def outcome(case: Case, side: Side) -> Any:
    """What a case returns or raises, and what it warns of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            result = case(side)
        except Exception as error:
            result = error
    return result, {(warning.category.__name__, str(warning.message)) for warning in said}


def assert_alike(ours: Any, theirs: Any, tolerance: float, where: str = "") -> None:
    """Assert that both are the same: numbers to a tolerance, errors by kind and text; times may differ."""
    if isinstance(theirs, BaseException):
        assert isinstance(ours, type(theirs)) and str(ours) == str(theirs), f"{where}: {ours!r}, not {theirs!r}"
    elif isinstance(theirs, Mapping):
        assert list(ours) == list(theirs), where
        for name in theirs:
            if not str(name).endswith("_time"):
                assert_alike(ours[name], theirs[name], tolerance, f"{where}[{name!r}]")
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs), where
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_alike(a, b, tolerance, f"{where}[{i}]")
    elif sparse.issparse(theirs):
        assert type(ours) is type(theirs) and ours.dtype == theirs.dtype and abs(ours - theirs).max() == 0, where
    elif isinstance(theirs, str | type | None | bool):
        assert ours == theirs, where
    else:
        a, b = np.ma.getdata(ours), np.ma.getdata(theirs)
        assert a.shape == b.shape and a.dtype == b.dtype, f"{where}: {a.dtype}{a.shape}, not {b.dtype}{b.shape}"
        if b.dtype.kind in "fc":
            tolerance = max(tolerance, IN_SINGLE if b.dtype.itemsize < 8 else 0.0)
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=where)
        else:
            np.testing.assert_array_equal(a, b, err_msg=where)


QUICK = {**COPIES, **REFUSALS}
CASES = {**QUICK, **INPUTS, **MODELS, **FUNCTIONS, **ROUTED}
# What cannot be the same: docs/estimators.md says it too.
DIFFERENT: dict[str, str] = {
    "X, long double, classes": "networks compute in float64, and scikit-learn in the long double of X",
    "X, long double, values": "networks compute in float64, and scikit-learn in the long double of X",
    "texts as values": "ours is a ValueError that says what to do, scikit-learn's a TypeError of NumPy's",
    "unknown parameter": "the message lists the parameters, of which ours has more",
    "a training that diverges": "ours names the layer and the batch after scikit-learn's words",
    "calibrated by logits": "ours has a decision_function, by which scikit-learn calibrates where there is one",
    "one against one by logits": "ours has a decision_function, which scikit-learn asks for its confidence",
    "loss beyond the smallest probability": "scikit-learn clips probabilities, and ours is the logit's",
    "hidden activations": "scikit-learn's has no transform",
}
assert set(DIFFERENT) <= {*CASES, *ONLY_DIFFERENT}


def by_tier(names: Iterable[str]) -> list[Any]:
    """Cases as parameters of a test, of which those that take no time are in the default tier."""
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.thorough]) for name in names]


@pytest.mark.parametrize("name", by_tier(name for name in CASES if name not in DIFFERENT))
def test_it_is_as_with_scikit_learns(name):
    (theirs, their_warnings), (ours, our_warnings) = (outcome(CASES[name], side) for side in (THEIRS, OURS))
    assert isinstance(theirs, Exception) == (name in REFUSED or name in REFUSALS), theirs
    assert_alike(ours, theirs, IN_SINGLE if "float32" in name else TOLERANCE)
    assert our_warnings == their_warnings


@pytest.mark.thorough
@pytest.mark.parametrize("name", DIFFERENT)
def test_what_is_said_to_differ_does(name):
    theirs, ours = (outcome({**CASES, **ONLY_DIFFERENT}[name], side)[0] for side in (THEIRS, OURS))
    with pytest.raises(AssertionError):
        assert_alike(ours, theirs, TOLERANCE)


def test_no_case_hides_another():
    assert len(CASES) == sum(map(len, (COPIES, REFUSALS, INPUTS, MODELS, FUNCTIONS, ROUTED))) >= 210
