"""What a site computes on its cells: features, training, evaluation, what leaves of them."""
