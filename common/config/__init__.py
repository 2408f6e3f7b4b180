"""The YAML files: typed, bounded, read with every fault named."""
