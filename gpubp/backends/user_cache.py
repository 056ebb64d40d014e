"""The folder of user files that later processes find again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_cache() -> Path:
    """``gpubp`` in the user's cache; it need not exist."""
    if sys.platform == "win32":
        caches = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        caches = Path.home() / "Library" / "Caches"
    else:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "gpubp"
