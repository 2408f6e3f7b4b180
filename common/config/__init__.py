"""The YAML files as typed, bounded models, and how they are read."""
