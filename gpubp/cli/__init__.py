"""The command line; `main` is the console script.

`app` has the commands and how they fail, `options` what they take, `parsing` its small languages, `settings` a value
for each option on a network and its training. `train` and `search` are the commands that train; `display` is what is
printed, `run_folder` what is kept.
"""

from gpubp.cli.app import main

__all__ = ["main"]
