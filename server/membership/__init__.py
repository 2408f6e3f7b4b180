"""Who may join, and the registry that says so."""
