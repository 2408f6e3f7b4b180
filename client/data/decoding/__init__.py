"""Picture files -> 8-bit RGB, and into the cached array."""
