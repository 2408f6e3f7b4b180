"""Proof by attack: what leaks from the training code itself, beside what is claimed of it."""
