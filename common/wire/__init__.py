"""What travels between server and sites, written and read in one place."""
