"""How the rounds use Flower's state, runs and messages."""
