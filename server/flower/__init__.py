"""Flower's state, runs and messages, as the rounds use them."""
