"""Tables: recipes for networks, presets that train them on folds and weigh them, and estimators for data frames."""
