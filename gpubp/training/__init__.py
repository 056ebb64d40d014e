"""Training: the epoch loop, the step of a stack, the tables that the host prepares for it, and its results."""

from gpubp.training.loop import train
from gpubp.training.run import Callback

__all__ = ["Callback", "train"]
