"""Deep ensembles: many networks of one shape, trained and asked together."""

from gpubp.estimators.ensemble.ensembles import MLPEnsembleClassifier, MLPEnsembleRegressor

__all__ = ["MLPEnsembleClassifier", "MLPEnsembleRegressor"]
