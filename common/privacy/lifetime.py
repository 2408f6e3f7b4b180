"""How much of a data set's lifetime budget is used by studies chosen one after another: a filter.

Studies are chosen in the light of earlier results, so their number and settings are random. To
compose them as if they had been fixed beforehand, and stop when a bound is crossed, is not a proven
bound: for trade-off functions in general it is none (arXiv 2602.06756). It is one where everything
is measured by one yardstick. Ours is the family R(c), 0 <= c <= 1: with probability
1 - (1 - leak)^c it tells everything, else it shows a Gaussian of mean 0 or sqrt(c) mu. `leak` and
`mu` are such that R(1) has the lifetime's epsilon and delta. R(a) and R(b) together are R(a + b).

A *plan* is all that a study may ever do of one kind: its steps are fixed before the first is done.
Its share is a c with H(plan) <= H(R(c)) at every order, H the hockey-stick divergence, in both
directions: R(c) dominates the plan (Zhu, Dong, Wang 2022, arXiv 2106.08567, definition 7).

Formal guarantees: as long as the shares of all plans that were begun add up to at most 1, all that
they ever release is (epsilon, delta)-differentially private together, though each is chosen
knowing all that was released before, plans run side by side, and any is broken off. Proof, by
induction over the steps that may be left: say that of the plans begun the steps S are left, and c
is not used yet; then what follows is dominated by S and R(c) together. (i) If nothing more is
done, that is so. (ii) If a step s of S is next, what follows it is dominated, whatever s tells, by
S without s and R(c); so s and all that follows by S and R(c) (theorem 10 there: dominating pairs
compose adaptively). (iii) If a plan P of share p <= c is begun, what follows is dominated by S, P
and R(c - p), and so by S, R(p) and R(c - p), which are S and R(c). Before the first plan S is empty
and c is 1. A share is never 0, so the steps are finitely many.
For Gaussians alone this is the filter of Smith and Thakurta 2022 (arXiv 2210.17520).

`leak` may depend on what is known before anything is released: epsilon, delta, and the first plan.
It is delta/10, which suits most plans, or another part of delta where the first plan does not fit
with that. So a plan whose noise was calibrated to the whole lifetime uses all of it and no more, or
up to 1 % more (`tests/common/privacy/test_lifetime.py` says how near).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from common.privacy.accounting import Floats, deltas
from common.privacy.events import Event

_LEAKS = (0.1, 0.2, 0.05, 0.5, 0.02, 0.01)
"""Fractions of delta that `leak` is chosen from: the first by which the first plan fits."""
_NEGLIGIBLE = 1e-5
"""A plan is compared up to the epsilon where its delta is this fraction of the lifetime's."""
_POINTS = 4096
"""Epsilons at which a plan is compared with the yardstick; convexity covers those between."""
_SHARES_A_DOUBLING = 4096
"""Shares are 2^(k/4096): rounded up by at most 0.02 %."""
_LEAST, _MOST = -20 * _SHARES_A_DOUBLING, 10 * _SHARES_A_DOUBLING
_SMALL = 1e-3
"""Below this, a share computed without regard to sampling, which is quick, is close enough."""


def used(plans: Sequence[Event], epsilon: float, delta: float) -> float:
    """The fraction of the lifetime (`epsilon`, `delta`) that `plans` use.

    `plans` are in the order in which they were begun; each holds all steps that its study may ever
    do. The result is 0 for no plans, above 1 where they exceed the lifetime, and infinite where a
    plan has no noise. One plan more never makes it smaller.

    >>> plan = Event(
    ...     mechanism="poisson_discrete_gaussian", sample_rate=0.05, noise_multiplier=2.0,
    ...     steps=100, unit="image",
    ... )
    >>> f"{used([plan], 3.0, 1e-5):.3f}, left epsilon {left([plan], 3.0, 1e-5):.2f}"
    '0.169, left epsilon 2.70'
    """
    if not plans:
        return 0.0
    yardstick = _yardstick(epsilon, delta, plans[0])
    return math.fsum(_share(plan, yardstick) for plan in plans)


def left(plans: Sequence[Event], epsilon: float, delta: float) -> float:
    """The largest epsilon at `delta` that one more study may have after `plans`; 0 for none."""
    if not plans:
        return epsilon
    rest = 1 - used(plans, epsilon, delta)
    if rest <= 0:
        return 0.0
    yardstick = _yardstick(epsilon, delta, plans[0])

    def over(point: float) -> float:
        return float(yardstick.delta(rest, np.array([point]))[0]) - delta

    return _root(over, 0.0, epsilon) if over(0.0) > 0 else 0.0


@dataclass(frozen=True)
class _Yardstick:
    leak: float
    mu: float
    negligible: float

    def told(self, share: float) -> float:
        """The probability that R(share) tells everything."""
        return -math.expm1(share * math.log1p(-self.leak))

    def delta(self, share: float, epsilons: Floats) -> Floats:
        """R(share)'s delta at each of `epsilons`."""
        told = self.told(share)
        return told + (1 - told) * _gaussian(math.sqrt(share) * self.mu, epsilons)

    def covers(self, share: float, epsilons: Floats, found: Floats) -> bool:
        """Whether R(share)'s delta is nowhere below that of a plan with `found` at `epsilons`.

        Both are convex in exp(epsilon). Between two points the plan lies below the chord; where a
        tangent of R lies above both ends of the chord, R is above all of it. After the last point
        the plan's delta falls further, and R's is never below the probability that R tells all.
        """
        from scipy.special import log_ndtr  # slow to import

        told, mu = self.told(share), math.sqrt(share) * self.mu
        middle = (epsilons[1:] + epsilons[:-1]) / 2
        height = self.delta(share, middle)
        slope = (1 - told) * np.exp(middle + log_ndtr(-mu / 2 - middle / mu))
        left_end = height - slope * np.expm1(epsilons[:-1] - middle)
        right_end = height - slope * np.expm1(epsilons[1:] - middle)
        above = (found[:-1] <= left_end) & (found[1:] <= right_end)
        return bool(above.all() and found[-1] <= told)


@lru_cache(maxsize=256)
def _yardstick(epsilon: float, delta: float, first: Event) -> _Yardstick:
    """The first yardstick by which the plan `first` fits; if none, the one it exceeds least."""
    made = [_make(epsilon, delta, part) for part in _LEAKS]
    fitting = (yardstick for yardstick in made if _share(first, yardstick) <= 1)
    return next(fitting, None) or min(made, key=lambda yardstick: _share(first, yardstick))


def _make(epsilon: float, delta: float, part: float) -> _Yardstick:
    """R whose leak is the fraction `part` of delta, and whose mu is as large as the rest allows."""
    leak = part * delta
    rest = (delta - leak) / (1 - leak)
    point = np.array([epsilon])
    most = math.sqrt(2 * epsilon) + 40
    mu = _root(lambda mu: float(_gaussian(mu, point)[0]) - rest, 1e-9, most)
    # A little below the root, whatever rounding did to it.
    return _Yardstick(leak, mu * (1 - 1e-9), _NEGLIGIBLE * delta)


@lru_cache(maxsize=4096)
def _share(plan: Event, yardstick: _Yardstick) -> float:
    """The smallest share c that is found for which R(c) dominates the plan."""
    if plan.noise_multiplier == 0:
        return math.inf
    # Sampling can only help, and Gaussians compose to one.
    whole = plan.steps / (plan.noise_multiplier * yardstick.mu) ** 2
    if plan.sample_rate == 1 or whole <= _SMALL:
        return whole
    epsilons, found = _profile(plan, yardstick.negligible)
    low, high = _LEAST, _MOST + 1
    while low < high:
        middle = (low + high) // 2
        if yardstick.covers(_step(middle), epsilons, found):
            high = middle
        else:
            low = middle + 1
    return whole if high > _MOST else min(whole, _step(high))


@lru_cache(maxsize=256)
def _profile(plan: Event, negligible: float) -> tuple[Floats, Floats]:
    """(epsilons, deltas) of the plan, float64 (_POINTS,) each.

    The epsilons run from 0 to where the plan's delta is at most `negligible`, or beyond 512.
    """
    end = 0.01
    while end < 512 and deltas(plan, np.array([end]))[0] > negligible:
        end *= 2
    epsilons = np.linspace(0.0, end, _POINTS)
    return epsilons, deltas(plan, epsilons)


def _step(k: int) -> float:
    return float(2.0 ** (k / _SHARES_A_DOUBLING))


def _gaussian(mu: float, epsilons: Floats) -> Floats:
    """Deltas of the Gaussian with mean `mu` and deviation 1 (Balle, Wang 2018, theorem 8)."""
    from scipy.special import log_ndtr, ndtr

    far = np.exp(epsilons + log_ndtr(-mu / 2 - epsilons / mu))
    return np.asarray(np.maximum(ndtr(mu / 2 - epsilons / mu) - far, 0.0))


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq

    return float(brentq(function, low, high, xtol=1e-12, rtol=1e-12))
