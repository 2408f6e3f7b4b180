"""`hemofed bench`: contestants measured in turn in one run."""
