"""The randomness of an audit: what training draws from, and the adversary's coins."""

from dataclasses import dataclass

import numpy as np

from client.randomness import Entropy, SystemEntropy
from simulations.engine.seeded import SeededEntropy


@dataclass(frozen=True)
class Randomness:
    """Randomness from the operating system, as in a deployment, or from a seed."""

    seed: int | None
    """The same seed repeats an audit; None takes the operating system's randomness."""

    def entropy(self, number: int) -> Entropy:
        """Return what the training of this number draws from."""
        if self.seed is None:
            return SystemEntropy()
        return SeededEntropy((self.seed << 32) + number)

    def coins(self, number: int) -> np.random.Generator:
        """Return the adversary's generator of this number, which training never sees."""
        return np.random.default_rng(None if self.seed is None else [self.seed, number])
