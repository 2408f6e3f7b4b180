"""What it costs to add the sites' updates, in the clear and under masks."""
