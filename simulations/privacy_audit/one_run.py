"""A lower bound on epsilon from one run: Steinke, Nasr, Jagielski 2023 (arXiv 2305.08846).

Each of m canaries is in the data set or not, by a fair coin of its own. An adversary sees what the
training releases, guesses r of the coins and abstains from the rest; v guesses are right. Under
(epsilon, delta)-DP for adding or removing one unit, theorem 5.2 bounds the probability of that:

    P[V >= v]  <=  P[W >= v] + 2 m delta max_{1<=i<=v} (P[W >= v - i] - P[W >= v]) / i,
    W ~ Binomial(r, e^epsilon / (1 + e^epsilon)).

Formal guarantee: whatever the adversary does, and for any data besides the canaries, the
probability that `lower_bound` exceeds the training's epsilon is at most 1 - confidence.
"""

import math

import numpy as np
from scipy.stats import binom

from common.errors import PrivacyError

_PRECISION = 1e-6
_MOST = 64.0
"""The largest bound that is looked for; a larger one would take e^64 canaries."""


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return the largest probability of at least `correct` right guesses under (epsilon, delta)-DP.

    Args:
        canaries: m, at least r.
        guesses: r, at least v.
        correct: v; the probability is 1 if it is 0.
        epsilon: at least 0.
        delta: from 0 to 1.

    Raises:
        PrivacyError: an argument is outside these bounds.

    >>> p_value(canaries=100, guesses=10, correct=10, epsilon=0.0, delta=0.0)  # 2 ** -10
    0.0009765625
    """
    _check(canaries, guesses, correct, epsilon, delta)
    if correct == 0:
        return 1.0
    right = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, right))
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, right))
    slope = float(np.max(below / np.arange(1, correct + 1)))
    return min(1.0, tail + 2 * canaries * delta * slope)


def lower_bound(
    canaries: int, guesses: int, correct: int, delta: float, confidence: float = 0.95
) -> float:
    """Return the largest epsilon, to 1e-6 and rounded down, that the guesses refute; 0 if none.

    If an epsilon is refuted, every smaller one is, too, since (epsilon, delta)-DP is weaker for a
    larger epsilon. So any refuted value is a valid bound, and the search need not assume that the
    p-value increases everywhere.

    Args:
        canaries, guesses, correct, delta: as for `p_value`.
        confidence: between 0 and 1, both excluded.

    Raises:
        PrivacyError: an argument is outside its bounds.

    >>> round(lower_bound(canaries=1000, guesses=100, correct=95, delta=1e-5), 2)
    2.17
    >>> lower_bound(canaries=1000, guesses=100, correct=50, delta=1e-5)
    0.0
    """
    if not 0 < confidence < 1:
        raise PrivacyError(f"confidence={confidence}: expected 0 < confidence < 1")

    def refuted(epsilon: float) -> bool:
        return p_value(canaries, guesses, correct, epsilon, delta) <= 1 - confidence

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while high < _MOST and refuted(high):
        low, high = high, 2 * high
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def ceiling(canaries: int, delta: float, confidence: float = 0.95) -> float:
    """Return the bound if all canaries were guessed right, the most that m canaries can show."""
    return lower_bound(canaries, canaries, canaries, delta, confidence)


def _check(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> None:
    if not 0 <= correct <= guesses <= canaries:
        raise PrivacyError(
            f"audit: correct={correct}, guesses={guesses}, canaries={canaries}; expected "
            "0 <= correct <= guesses <= canaries"
        )
    if not epsilon >= 0 or not 0 <= delta <= 1:
        raise PrivacyError(f"audit: epsilon={epsilon}, delta={delta}; expected >= 0 and in [0, 1]")
