"""What a round costs between processes, beside stock Flower."""
