"""What a site did to its data, and what that costs: events, and the engines that compose them.

The engines are Google's dp-accounting: "pld" composes discretised privacy loss distributions
(Koskela et al. 2020, arXiv 1906.03049; "connect the dots", Doroshenko et al. 2022,
arXiv 2207.04380), always rounding up, and is the figure that is reported; "rdp" composes Renyi
divergences (Mironov et al. 2019, arXiv 1908.10530), is 6 to 40 % larger, and takes milliseconds.
The discrete Gaussian of `noise.py` is at least as private as the Gaussian with the same noise
multiplier (proved there), so both mechanisms are composed as the Poisson-subsampled Gaussian.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache, reduce
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.config.study import PrivacySpec
from common.errors import PrivacyError
from common.privacy.events import ADJACENCY, Event, expect, merge

__all__ = [
    "ACCOUNTANT",
    "ADJACENCY",
    "Accountant",
    "Event",
    "calibrate",
    "deltas",
    "epsilon",
    "epsilon_at_most",
    "merge",
]

Floats = NDArray[np.float64]

Accountant = Literal["pld", "rdp"]

ACCOUNTANT = {
    "pld": "privacy loss distributions (Google dp-accounting), rounded up",
    "rdp": "Renyi differential privacy (Google dp-accounting), an upper bound of the former",
}
"""Accountant -> its name in reports."""
_RDP_ORDERS = (*range(2, 65), 72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 1024, 2048)
_ROUNDING_A_STEP = 1e-15
"""Probability that float64's Fourier transforms may lose a step. Against the Gaussian mechanism's
exact formula, 10,000 compositions lost 3e-13 (`test_accounting.py`)."""
_INTERVAL_DELTA = 1e-5
"""The delta at which `deltas` estimates epsilon, to choose how finely losses are cut."""
_COARSE = 10.0
"""`calibrate` first cuts losses this many times more coarsely, to come near its answer."""
_STEPS_A_DOUBLING = 1024
"""`calibrate` returns noise multipliers 2^(k/1024) for whole k: they lie 0.07 % apart."""
_STRIDE = 64
"""`calibrate` first tries every 64th k."""
_SERIES = tuple(sorted({math.ceil(1.05**k) for k in range(400)}))
"""Numbers of steps that `epsilon_at_most` rounds up to: 1 to 20, then each a twentieth more."""
_LOWEST, _HIGHEST = -6 * _STEPS_A_DOUBLING, 12 * _STEPS_A_DOUBLING


def epsilon(events: Iterable[Event], delta: float, accountant: Accountant = "pld") -> float:
    """The epsilon at `delta` of all `events` on one data set, when one unit is added or removed.

    | events                       | epsilon      |
    |------------------------------|--------------|
    | none                         | 0            |
    | one with noise_multiplier 0  | infinity     |
    | of both units                | PrivacyError |

    Formal guarantees: never below the true epsilon. "pld" sets aside a part of delta for float64's
    rounding, which grows with the steps; where that is more than half of it (below 2e-11 for 10,000
    steps), "rdp" answers in its place. Raises PrivacyError for a delta outside (0, 1) too.

    >>> once = Event(
    ...     mechanism="poisson_discrete_gaussian", sample_rate=0.05, noise_multiplier=1.0,
    ...     steps=100, unit="image",
    ... )
    >>> f"{epsilon([once], 1e-5):.2f}, twice {epsilon([once, once], 1e-5):.2f}"
    '3.50, twice 4.77'
    >>> f"{epsilon([once], 1e-5, 'rdp'):.2f}"
    '4.11'
    """
    expect("accountant", accountant, get_args(Accountant))
    if not 0 < delta < 1:
        raise PrivacyError(f"epsilon: delta={delta}; expected 0 < delta < 1")
    merged = merge(events)
    if not merged:
        return 0.0
    if len({event.unit for event in merged}) > 1:
        raise PrivacyError(
            "epsilon: some events protect an image and some a patient; one epsilon cannot speak "
            "of both: ask for each unit's events alone"
        )
    if any(event.noise_multiplier == 0 for event in merged):
        return math.inf
    return _composed(merged, delta, accountant)


def epsilon_at_most(events: Iterable[Event], delta: float, marks: Iterable[int] = ()) -> float:
    """An upper bound of `epsilon` by "pld", cheap to ask again and again while a study grows.

    Each event's steps are rounded up to the next number of a series that grows by a twentieth, or
    to the next of `marks` where that comes first. `marks` are the plan's own numbers of steps: at
    them the bound is exact. Elsewhere it is some 2.5 % above `epsilon` where epsilon grows with the
    root of the steps. Most calls find their answer in a cache. Raises PrivacyError like `epsilon`.

    Formal guarantees: never below the true epsilon, which only grows with the steps.
    """
    known = sorted(marks)
    return epsilon([replace(one, steps=_up(one.steps, known)) for one in merge(events)], delta)


def _up(steps: int, marks: list[int]) -> int:
    """The smallest number of the series and of the sorted `marks` that is at least `steps`."""
    found = next(at for at in _SERIES if at >= steps) if steps <= _SERIES[-1] else steps
    return min([found, *marks[bisect_left(marks, steps) :][:1]])


def deltas(event: Event, epsilons: Floats) -> Floats:
    """The delta of `event` at each of `epsilons`, float64 (N,) -> float64 (N,).

    No epsilon may be below 0, and the event's noise multiplier must be above 0.

    Formal guarantees: never below the true delta, in either direction of add-or-remove. It is the
    smaller one of "pld", with what float64 may lose added, and of "rdp" (Canonne, Kamath, Steinke
    2020, arXiv 2004.00010, proposition 12).
    """
    step = _rdp_step(event.sample_rate, event.noise_multiplier)
    by_pld = np.asarray(_losses(event).get_delta_for_epsilon(epsilons))
    by_pld += _ROUNDING_A_STEP * event.steps
    orders = np.array(_RDP_ORDERS, dtype=np.float64)[:, None]
    slack = (orders - 1) * (event.steps * step[:, None] - epsilons)
    slack += orders * np.log1p(-1 / orders) - np.log(orders - 1)
    return np.asarray(np.minimum(by_pld, np.exp(np.minimum(slack.min(axis=0), 0.0))))


@lru_cache(maxsize=4096)
def calibrate(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """The smallest noise multiplier with which `steps` steps cost at most `epsilon` at `delta`.

    Each step is Poisson-sampled with `sample_rate`, and "pld" says what the steps cost. The result
    is 2^(k/1024) for a whole k. It rises with `steps` and `sample_rate`, and falls with `epsilon`
    and `delta`. Raises PrivacyError when `epsilon` is not a finite number above 0, and when no
    multiplier up to 4096 suffices.

    >>> f"{calibrate(2.0, 1e-5, sample_rate=0.05, steps=100):.3f}"
    '1.345'
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise PrivacyError(f"calibrate: epsilon={epsilon}; expected a finite number above 0")

    def meets(k: int, accountant: Accountant) -> bool:
        return _steps_cost(k, delta, sample_rate, steps, accountant) <= epsilon

    def roughly(k: int) -> float:
        return _steps_cost(k, delta, sample_rate, steps, "pld", _COARSE)

    if not meets(_HIGHEST, "rdp"):
        raise PrivacyError(
            f"calibrate: no noise multiplier up to 4096 gives epsilon={epsilon} at delta={delta} "
            f"for sample_rate={sample_rate} and {steps} steps; ask for a larger epsilon or fewer "
            "steps"
        )
    # "rdp" is an upper bound of "pld": where it meets the target, so does "pld".
    start = _STRIDE * _first(
        _LOWEST // _STRIDE, _HIGHEST // _STRIDE, lambda k: meets(_STRIDE * k, "rdp")
    )
    start = _secant(start, lambda k: math.log(max(roughly(k), 1e-9 * epsilon) / epsilon))
    start = _first_below(start, lambda k: roughly(k) <= epsilon)
    return _multiplier(_first_below(start, lambda k: meets(k, "pld")))


def study_event(privacy: PrivacySpec, rounds: int) -> Event:
    """All steps that `rounds` rounds and the spare ones may ever do to a site's data.

    Their noise multiplier is the smallest that keeps them within the study's epsilon: in mode
    distributed the one of the noise that is left when the planned colluders subtract theirs and
    the planned dropouts are away. Raises PrivacyError like `calibrate`.
    """
    steps = (rounds + privacy.spare_rounds) * privacy.local_steps
    return Event(
        mechanism="poisson_discrete_gaussian",
        sample_rate=privacy.sample_rate,
        noise_multiplier=calibrate(privacy.epsilon, privacy.delta, privacy.sample_rate, steps),
        steps=steps,
        unit=privacy.unit,
        mode="distributed" if privacy.mode == "distributed" else "local",
    )


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The smallest k in [low, high] that `holds` accepts.

    `holds` accepts `high`, and accepts every k above one that it accepts.
    """
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high


def _first_below(start: int, holds: Callable[[int], bool]) -> int:
    """`_first` from a `start` near the answer: doubling strides find an interval around it."""
    stride = 1
    if holds(start):
        while start > _LOWEST and holds(max(_LOWEST, start - stride)):
            start, stride = max(_LOWEST, start - stride), 2 * stride
        return _first(max(_LOWEST, start - stride + 1), start, holds)
    while not holds(start + stride):
        start, stride = start + stride, 2 * stride
    return _first(start + 1, start + stride, holds)


def _secant(k: int, excess: Callable[[int], float]) -> int:
    """A k near the root of the falling function `excess`: at most three secant steps from `k`."""
    value, slope = excess(k), -1.2 * math.log(2) / _STEPS_A_DOUBLING
    for _ in range(3):
        step = max(-1024, min(1024, round(-value / slope)))
        if step == 0:
            break
        k = max(_LOWEST, k + step)
        before, value = value, excess(k)
        slope = min((value - before) / step, slope / 4)
    return k


def _multiplier(k: int) -> float:
    return float(2.0 ** (k / _STEPS_A_DOUBLING))


def _steps_cost(
    k: int,
    delta: float,
    sample_rate: float,
    steps: int,
    accountant: Accountant,
    coarsening: float = 1.0,
) -> float:
    event = Event(
        mechanism="poisson_gaussian",
        sample_rate=sample_rate,
        noise_multiplier=_multiplier(k),
        steps=steps,
        unit="image",
    )
    return _composed((event,), delta, accountant, coarsening)


@lru_cache(maxsize=4096)
def _composed(
    merged: tuple[Event, ...], delta: float, accountant: Accountant, coarsening: float = 1.0
) -> float:
    rdp = _rdp(merged, delta)
    left = delta - _ROUNDING_A_STEP * sum(event.steps for event in merged)
    if accountant == "rdp" or left < delta / 2:
        return rdp
    interval = coarsening * _interval(rdp)
    losses = [
        _step(event.sample_rate, event.noise_multiplier, interval).self_compose(event.steps)
        for event in merged
    ]
    return float(reduce(lambda one, other: one.compose(other), losses).get_epsilon_for_delta(left))


def _rdp(merged: tuple[Event, ...], delta: float) -> float:
    total = sum(
        event.steps * _rdp_step(event.sample_rate, event.noise_multiplier) for event in merged
    )
    from dp_accounting.rdp import compute_epsilon  # slow to import, like all of dp_accounting

    return float(compute_epsilon(_RDP_ORDERS, total, delta)[0])


@lru_cache(maxsize=256)
def _rdp_step(sample_rate: float, noise_multiplier: float) -> NDArray[np.float64]:
    """One step's Renyi divergence at each of `_RDP_ORDERS`."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    sampled = PoissonSampledDpEvent(sample_rate, GaussianDpEvent(noise_multiplier))
    return np.asarray(RdpAccountant(_RDP_ORDERS).compose(sampled).rdp)


@lru_cache(maxsize=16)
def _step(sample_rate: float, noise_multiplier: float, interval: float) -> Any:
    """One step's privacy loss distribution: the slowest part of most questions, so it is cached."""
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sample_rate,
        value_discretization_interval=interval,
        pessimistic_estimate=True,
    )


@lru_cache(maxsize=4)
def _losses(event: Event) -> Any:
    """The privacy loss distribution of all steps of `event`."""
    interval = _interval(_rdp((event,), _INTERVAL_DELTA))
    return _step(event.sample_rate, event.noise_multiplier, interval).self_compose(event.steps)


def _interval(rdp: float) -> float:
    """Width of the intervals that losses are cut into, for a study whose "rdp" epsilon is `rdp`.

    It is wider for a large epsilon, so that time stays bounded. A wider interval gives a larger
    result, and a larger epsilon never gets a narrower interval, so `epsilon` stays monotone.
    """
    return 1e-4 if rdp < 1 else 5e-4 if rdp < 10 else 1e-3 if rdp < 200 else 1e-2
