"""The mechanism: clipping, noise, and the account of both."""
