"""The aggregator: runs the rounds, sees no image."""
