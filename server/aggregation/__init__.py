"""How the updates of a round become one, and one becomes the next model."""
