"""The members that may join, and the registry that lists them."""
