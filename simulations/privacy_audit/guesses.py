"""Turns scores into guesses, and chooses before the attack how many guesses to make.

The number of guesses must not depend on the scores, or the confidence of the bounds would be spent
more than once. It is chosen by simulating the claimed mechanism, from its public settings alone.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from simulations.privacy_audit.one_run import lower_bound
from simulations.privacy_audit.scores import log_ratios
from simulations.privacy_audit.tradeoff import claimed, p_value

_SHARES = (0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)
"""The shares of the canaries that are tried as the number of guesses."""
_REPETITIONS = 4
"""How often the mechanism is simulated."""


def correct(scores: NDArray[np.float64], included: NDArray[np.bool_], guesses: int) -> int:
    """Return how many guesses are right.

    The guesses / 2 canaries with the largest scores are guessed to be included, and as many with
    the smallest not to be.

    >>> correct(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, False, False, True]), guesses=4)
    2
    """
    half = guesses // 2
    order = np.argsort(scores, kind="stable")
    ins = int(included[order[len(order) - half :]].sum())
    return ins + half - int(included[order[:half]].sum())


@lru_cache(maxsize=64)
def for_epsilon(
    canaries: int, noise: float, rate: float, steps: int, delta: float, confidence: float
) -> int:
    """Return the number of guesses with the largest mean lower bound on an honest mechanism."""

    def worth(guesses: int, right: int) -> float:
        return lower_bound(canaries, guesses, right, delta, confidence)

    return _best(canaries, noise, noise, rate, steps, worth)


@lru_cache(maxsize=64)
def for_claim(canaries: int, noise: float, rate: float, steps: int) -> int:
    """Return the number of guesses that best tells half the claimed noise from all of it."""
    claim = claimed(noise, rate, steps)

    def worth(guesses: int, right: int) -> float:
        return -float(np.log(p_value(claim, canaries, guesses, right)))

    return _best(canaries, noise / 2, noise, rate, steps, worth)


def _best(
    canaries: int,
    noise: float,
    believed: float,
    rate: float,
    steps: int,
    worth: Callable[[int, int], float],
) -> int:
    rng = np.random.default_rng(0)
    options = sorted({max(2, 2 * int(share * canaries / 2)) for share in _SHARES})
    totals = np.zeros(len(options))
    for _ in range(_REPETITIONS):
        coins = rng.integers(0, 2, canaries).astype(bool)
        scores = simulated(coins, noise, believed, rate, steps, rng)
        totals += [worth(guesses, correct(scores, coins, guesses)) for guesses in options]
    return options[int(np.argmax(totals))]


def simulated(
    included: NDArray[np.bool_],
    noise: float,
    believed: float,
    rate: float,
    steps: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Simulate the attack on m perfectly orthogonal canaries and return their scores.

    Args:
        included: (m,) the canaries' coins.
        noise: the noise multiplier.
        believed: the noise multiplier that the adversary believes in.
        rate: the sample rate.
        steps: the number of steps.
        rng: decides samples and noise.

    Returns:
        (m,) log-likelihood ratios of included to not included.
    """
    ratio = np.zeros(len(included))
    for _ in range(steps):
        joined = included & (rng.random(len(included)) < rate)
        seen = joined + noise * rng.standard_normal(len(included))
        ratio += log_ratios(seen, np.ones(len(included)), rate, believed)
    return ratio
