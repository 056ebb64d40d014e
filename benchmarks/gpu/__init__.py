"""The benchmarks of a GPU, and their dry run without one: ``python -m benchmarks.gpu``."""
