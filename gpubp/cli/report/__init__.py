"""``gpubp report``: a page on a run."""
