"""What a lesson is: an experiment, what it shows in a sentence, and a picture of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Lesson:
    """An experiment on backpropagation, small enough to be read at once.

    Attributes
    ----------
    title : str
    measure : callable
        Runs the experiment, a few seconds at most; returns figures and curves by name.
    conclude : callable
        ``conclude(measured) -> str``: what they say.
    draw : callable
        ``draw(axes, measured)`` draws them on Matplotlib axes.
    """

    title: str
    measure: Callable[[], dict[str, Any]]
    conclude: Callable[[dict[str, Any]], str]
    draw: Callable[[Any, dict[str, Any]], None]
