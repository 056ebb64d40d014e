"""Notices besides the results, each given once, through the logger ``gpubp``."""

from __future__ import annotations

import functools
import logging


@functools.cache
def say_once(message: str) -> None:
    """Log `message` as a warning, which Python prints by default, the first time it occurs."""
    logging.getLogger("gpubp").warning(message)
