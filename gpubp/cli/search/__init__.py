"""The command `search`: its grid, the trials in their stacks, the ranking, and its display."""
