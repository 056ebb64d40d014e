"""NVIDIA GPUs through CuPy: the only place that imports it, and only when asked to."""
