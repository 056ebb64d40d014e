"""The command line: one module per command or concern; `main` is the console script."""

from gpubp.cli.app import main

__all__ = ["main"]
