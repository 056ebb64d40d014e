"""Lessons: what the theory says of learning, shown by experiments of a few seconds; ``gpubp demo``."""

from __future__ import annotations

from importlib import import_module

from gpubp.errors import UsageError
from gpubp.lessons.lesson import Lesson

LESSONS = (
    "slow_learning",
    "vanishing",
    "exploding",
    "symmetry",
    "search",
    "maximum_likelihood",
    "iterations",
    "caching",
)


def get_lesson(name: str) -> Lesson:
    """The lesson of that name.

    Raises
    ------
    UsageError
        If there is none.
    """
    if name not in LESSONS:
        raise UsageError(f'there is no lesson "{name}"; there are {", ".join(LESSONS)}')
    lesson: Lesson = import_module(f"gpubp.lessons.{name}").LESSON
    return lesson
