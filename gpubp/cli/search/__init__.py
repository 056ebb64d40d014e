"""The command `search`: its grid, the trials in their stacks, the ranking, and what is shown of it."""
