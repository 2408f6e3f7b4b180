"""A lab: trains on its own cells and releases only protected updates."""
