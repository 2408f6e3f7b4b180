"""Tests the accountant's whole trade-off curve in one run.

An accountant that composes privacy losses claims more than one pair (epsilon, delta): it claims a
delta for every epsilon, that is, a trade-off function f. Mahloujifar, Melis, Chaudhuri 2024
(arXiv 2410.22235, theorem 9 and algorithm 3) bound the right guesses of a one-run audit under f-DP.
For a Gaussian mechanism this refutes far smaller faults than the pair alone, which a much leakier
mechanism would satisfy, too.

With p_i the probability of exactly i right guesses of r, m canaries, and F(x) = 1 - f(x):

    for every k:   sum_{i>k} (i/m) p_i  <=  F( sum_{i>=k} ((r - i)/m) p_i ).

Flip the coin of a canary chosen at random: i right guesses that include it become i - 1, and F,
being concave, bounds the mean over canaries. The p_i sum to 1; if P[V >= v] = tau forces them to
sum to more, then P[V >= v] < tau.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_POINTS = 400
"""The number of pairs (epsilon, delta) of a claim; fewer make the claim weaker, never stronger."""
_SMALLEST_DELTA = 1e-13
"""The smallest delta of a pair; convolutions in float64 are not exact enough for less."""
_LARGEST_EPSILON = 300.0
"""The largest epsilon of a pair: e^300 fits into float64, and no audit refutes a claim with it."""


@dataclass(frozen=True, eq=False)
class Tradeoff:
    """The claim that a mechanism is (epsilons[j], deltas[j])-DP for every j, in both directions."""

    epsilons: Floats
    """(J,) ascending from 0."""
    deltas: Floats
    """(J,) the delta of each epsilon."""

    def least_elsewhere(self, chance: float) -> float:
        """Return F^-1(chance): the least probability, on a neighbouring data set, of an event that
        has the probability `chance`."""
        grown = np.exp(-self.epsilons) * (chance - self.deltas)
        shrunk = 1 - self.deltas - np.exp(self.epsilons) * (1 - chance)
        return max(0.0, float(grown.max()), float(shrunk.max()))


@lru_cache(maxsize=64)
def claimed(noise_multiplier: float, sample_rate: float, steps: int) -> Tradeoff:
    """Return the claim for `steps` Poisson-sampled Gaussian mechanisms.

    It is computed with privacy loss distributions, rounded up.
    """
    # Losses reach about steps * rate / z^2; a fine grid for a large loss would take minutes.
    scale = max(1.0, steps * sample_rate**2 / noise_multiplier**2)
    interval = min(1e-2, 1e-3 * scale)
    losses = privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sample_rate,
        value_discretization_interval=interval,
        pessimistic_estimate=True,
    ).self_compose(steps)
    top = min(_LARGEST_EPSILON, float(losses.get_epsilon_for_delta(_SMALLEST_DELTA)))
    epsilons = np.linspace(0.0, top, _POINTS)
    deltas = np.asarray(losses.get_delta_for_epsilon(epsilons), dtype=np.float64)
    return Tradeoff(epsilons, np.maximum(deltas, _SMALLEST_DELTA))


def refuted(
    claim: Tradeoff, canaries: int, guesses: int, correct: int, significance: float
) -> bool:
    """Return whether `correct` right guesses have a probability below `significance` by the claim.

    Args:
        claim: the accountant's.
        canaries: m.
        guesses: r.
        correct: v.
        significance: the probability tau.
    """
    right = significance * correct / canaries
    wrong = significance * (guesses - correct) / canaries
    for count in range(correct - 1, -1, -1):
        needed = max(wrong, claim.least_elsewhere(right))
        right += count / (guesses - count) * (needed - wrong)
        wrong = needed
        if right + wrong > guesses / canaries:
            return True
    return right + wrong > guesses / canaries


def p_value(claim: Tradeoff, canaries: int, guesses: int, correct: int) -> float:
    """Return the smallest significance that refutes the claim, within 1 % and rounded up; or 1."""
    low, high = -14.0, 0.0
    if not refuted(claim, canaries, guesses, correct, 1.0):
        return 1.0
    if refuted(claim, canaries, guesses, correct, 10.0**low):
        return float(10.0**low)
    while high - low > np.log10(1.01):
        middle = (low + high) / 2
        found = refuted(claim, canaries, guesses, correct, 10.0**middle)
        low, high = (low, middle) if found else (middle, high)
    return float(10.0**high)
