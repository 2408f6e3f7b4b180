"""The studies of a server home, and the process that runs them."""
