"""Checks gradients against the complex step, and names their faults."""

from gpubp.diagnostics.gradient_check import GradientCheck, check_gradients, complex_step

__all__ = ["GradientCheck", "check_gradients", "complex_step"]
