"""`hemofed bench`: measures contestants in turn in one run."""
