"""Deep ensembles: many networks of one shape, trained together and predicting together."""

from gpubp.estimators.ensemble.ensembles import MLPEnsembleClassifier, MLPEnsembleRegressor

__all__ = ["MLPEnsembleClassifier", "MLPEnsembleRegressor"]
