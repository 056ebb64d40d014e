"""How estimators are trained: the stochastic solvers by scikit-learn's rules, and L-BFGS."""
