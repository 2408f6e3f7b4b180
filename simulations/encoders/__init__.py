"""Trains encoders on public cells, for studies to start from."""
