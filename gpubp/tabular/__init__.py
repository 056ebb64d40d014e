"""Tables: recipes for networks, presets that train and weight them on folds, and estimators for data frames."""
