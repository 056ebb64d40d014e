"""MLPSearchCV: scikit-learn's searches, with all candidates trained together."""

from gpubp.estimators.search.search_cv import MLPSearchCV

__all__ = ["MLPSearchCV"]
