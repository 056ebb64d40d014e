"""The command line; `main` is the console script.

`app` has the commands and their error handling, `options` their options, `parsing` the small languages of these,
`settings` a value for each option on a network and its training. `train` and `search` are the commands that train;
`display` prints, `run_folder` saves.
"""

from gpubp.cli.app import main

__all__ = ["main"]
