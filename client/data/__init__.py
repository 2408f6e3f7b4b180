"""From image files to batches: index, cache, splits, checks."""
