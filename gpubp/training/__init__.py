"""Training: the epoch loop, the step of a stack, what the host draws up for it, and what it leaves behind."""

from gpubp.training.loop import train
from gpubp.training.run import Callback

__all__ = ["Callback", "train"]
