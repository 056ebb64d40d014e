"""The command `search`: its grid, the plan of stacks, the ranking, and what is shown of it."""
