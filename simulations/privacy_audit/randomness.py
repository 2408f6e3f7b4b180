"""Where an audit's randomness comes from: what training draws, and the adversary's coins."""

from dataclasses import dataclass

import numpy as np

from client.randomness import Entropy, SystemEntropy
from simulations.engine.seeded import SeededEntropy


@dataclass(frozen=True)
class Randomness:
    """Fresh from the operating system, as in a deployment; or from a seed, to repeat an audit."""

    seed: int | None

    def entropy(self, number: int) -> Entropy:
        """What the training of this number draws from."""
        if self.seed is None:
            return SystemEntropy()
        return SeededEntropy((self.seed << 32) + number)

    def coins(self, number: int) -> np.random.Generator:
        """The adversary's own generator of this number; training never sees it."""
        return np.random.default_rng(None if self.seed is None else [self.seed, number])
