"""What exact clipping costs, and whether a unit's share hangs on its company."""
