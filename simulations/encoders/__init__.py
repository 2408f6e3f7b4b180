"""Encoders for studies to start from, trained on public cells."""
