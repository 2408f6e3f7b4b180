"""A lower bound on epsilon from one run: Steinke, Nasr, Jagielski 2023 (arXiv 2305.08846).

m canaries join the data set, each by a fair coin of its own. An adversary sees what the training
released and guesses r of the coins, abstaining from the rest; v guesses are right. Under
(epsilon, delta)-DP for adding or removing one unit, theorem 5.2 bounds the chance of that:

    P[V >= v]  <=  P[W >= v] + 2 m delta max_{1<=i<=v} (P[W >= v - i] - P[W >= v]) / i,
    W ~ Binomial(r, e^epsilon / (1 + e^epsilon)).

Formal guarantee: whatever the adversary does, and for any data beside the canaries, the chance that
`lower_bound` exceeds the training's epsilon is at most 1 - confidence.
"""

import math

import numpy as np
from scipy.stats import binom

from common.errors import PrivacyError

_PRECISION = 1e-6
_MOST = 64.0
"""No bound beyond this is looked for: it would take e^64 canaries."""


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Largest probability of at least `correct` right guesses under (epsilon, delta)-DP.

    canaries (m) >= guesses (r) >= correct (v) >= 0; 1 when v = 0. Raises PrivacyError for counts
    out of order, a negative epsilon, a delta outside [0, 1].
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
    """The largest epsilon, to 1e-6 and rounded down, that the guesses refute at `confidence`.

    0 when none is refuted. A refuted epsilon refutes every smaller one too, since (epsilon,
    delta)-DP is weaker for a larger epsilon: so any refuted value is a valid bound, and the search
    need not assume that the p-value rises everywhere.
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
    """The bound that guessing every canary rightly would give: no audit of m canaries says more."""
    return lower_bound(canaries, canaries, canaries, delta, confidence)


def _check(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> None:
    if not 0 <= correct <= guesses <= canaries:
        raise PrivacyError(
            f"audit: correct={correct}, guesses={guesses}, canaries={canaries}; expected "
            "0 <= correct <= guesses <= canaries"
        )
    if not epsilon >= 0 or not 0 <= delta <= 1:
        raise PrivacyError(f"audit: epsilon={epsilon}, delta={delta}; expected >= 0 and in [0, 1]")
