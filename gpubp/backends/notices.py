"""What gpubp has to say beside its results: once each, through the logger ``gpubp``."""

from __future__ import annotations

import functools
import logging


@functools.cache
def say_once(message: str) -> None:
    """Log `message` as a warning, which Python prints unless told otherwise, the first time it comes up."""
    logging.getLogger("gpubp").warning(message)
