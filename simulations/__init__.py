"""Many labs on one machine."""
