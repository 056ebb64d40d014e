"""Published results of multilayer perceptrons, trained again: ``python -m benchmarks.reproductions NAME …``."""
