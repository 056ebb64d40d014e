"""Audit events by which a file could run code, heard while files are read."""

from __future__ import annotations

AUDITED = (
    "pickle.find_class",
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen"),
    *("socket.", "urllib.Request", "webbrowser.open"),
)


class Watch:
    """An audit hook, which cannot be taken away again, that hears what it is to hear.

    Attributes
    ----------
    events : list of str
    listens : bool
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self.listens = False

    def __call__(self, event: str, _: object) -> None:
        """Hear an event."""
        if self.listens and event.startswith(AUDITED):
            self.events.append(event)
