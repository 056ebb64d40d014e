"""Judging gradients: against the complex step, and by name where they are wrong."""

from gpubp.diagnostics.gradient_check import GradientCheck, check_gradients, complex_step

__all__ = ["GradientCheck", "check_gradients", "complex_step"]
