"""scikit-learn's MLPClassifier and MLPRegressor on gpubp's engine."""

from gpubp.estimators.classifier import MLPClassifier
from gpubp.estimators.convert import from_sklearn, to_sklearn
from gpubp.estimators.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor", "from_sklearn", "to_sklearn"]
