"""Aggregates the updates of a round into one, and makes the next model from it."""
