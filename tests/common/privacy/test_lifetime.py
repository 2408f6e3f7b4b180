"""The lifetime filter: what fits by it is within the bound, and what is made for the bound fits."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.privacy import accounting
from common.privacy.accounting import Event, calibrate, deltas, epsilon
from common.privacy.lifetime import left, used
from tests.common.privacy.test_lifetime_bounds import plan

DELTA = 1e-5


def calibrated(bound: float, sample_rate: float, steps: int, delta: float = DELTA) -> Event:
    return plan(sample_rate, calibrate(bound, delta, sample_rate, steps), steps)


def test_a_plan_made_for_epsilon_1_fits_into_a_lifetime_of_1() -> None:
    """A Renyi filter at one order counted it as 1,445."""
    made = calibrated(1.0, 0.01, 1000)
    assert 0.99 < used([made], 1.0, DELTA) <= 1
    assert left([made], 1.0, DELTA) == 0


@pytest.mark.parametrize(
    ("bound", "sample_rate", "steps", "delta"),
    [
        (0.3, 0.05, 400, DELTA),
        (3.0, 0.05, 400, DELTA),
        (8.0, 0.25, 20, DELTA),
        (1.0, 0.001, 5000, DELTA),
        (3.0, 0.01, 1000, 1e-8),
        (1.0, 1.0, 100, DELTA),
    ],
)
def test_a_plan_made_for_the_whole_lifetime_uses_it_up(
    bound: float, sample_rate: float, steps: int, delta: float
) -> None:
    """As near as was measured: a lifetime of 1 % more always has room for it."""
    made = calibrated(bound, sample_rate, steps, delta)
    assert used([made], bound, delta) <= 1.015
    assert used([made], 1.01 * bound, delta) <= 1
    assert used([made], 0.98 * bound, delta) > 1


@st.composite
def plans(draw: st.DrawFn) -> Event:
    rate, steps = draw(st.sampled_from([(0.01, 500), (0.05, 100), (0.3, 10), (1.0, 4)]))
    return plan(rate, draw(st.sampled_from([0.7, 1.0, 2.0, 5.0])) * (1 if rate < 1 else 4), steps)


@settings(max_examples=12)
@given(st.lists(plans(), min_size=1, max_size=5), st.sampled_from([0.5, 2.0, 6.0]))
def test_what_fits_is_within_the_bound_and_one_more_never_costs_less(
    chosen: list[Event], bound: float
) -> None:
    parts = [used(chosen[:count], bound, DELTA) for count in range(len(chosen) + 1)]
    assert parts[0] == 0 and all(one < more for one, more in pairwise(parts))
    for count, part in enumerate(parts):
        if part <= 1:
            assert epsilon(chosen[:count], DELTA) <= bound
            assert 0 <= left(chosen[:count], bound, DELTA) <= bound


def adaptive_delta(first: Event, answers: list[Event], point: float) -> float:
    """The delta at `point` of `first` and then whichever answer is worst for what `first` told.

    The supremum over the analyst's strategies, by integration over the first loss; Gaussians.
    """
    from scipy.special import ndtr
    from scipy.stats import norm

    def remaining(event: Event, at: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        mu = math.sqrt(event.steps) / event.noise_multiplier
        return np.asarray(ndtr(mu / 2 - at / mu) - np.exp(at) * ndtr(-mu / 2 - at / mu))

    mu = math.sqrt(first.steps) / first.noise_multiplier
    seen = np.linspace(mu - 12, mu + 12, 40_001)
    loss = mu * seen - mu**2 / 2
    worst = np.max([remaining(event, point - loss) for event in answers], axis=0)
    return float(np.trapezoid(worst * norm.pdf(seen, mu), seen))


def test_an_analyst_who_chooses_by_what_he_saw_stays_within_the_bound() -> None:
    """Any of the answers fits after the first; so does the strategy that picks the worst."""
    bound = 2.0
    first = plan(1.0, 6.0, 2)
    answers = [plan(1.0, noise, 1) for noise in (3.0, 4.0, 8.0, 20.0)]
    answers = [answer for answer in answers if used([first, answer], bound, DELTA) <= 1]
    assert len(answers) >= 2
    assert adaptive_delta(first, answers, bound) <= DELTA


def test_sampled_and_whole_plans_are_held_against_the_same_bound() -> None:
    """A plan that samples costs no more than one that does not."""
    whole, sampled = plan(1.0, 4.0, 5), plan(0.2, 4.0, 5)
    for first in (whole, sampled):
        parts = [
            used([first, other], 3.0, DELTA) - used([first], 3.0, DELTA)
            for other in (sampled, whole)
        ]
        assert 0 < parts[0] < parts[1]


def test_no_noise_uses_more_than_there_is_and_nothing_uses_nothing() -> None:
    assert used([plan(0.1, 0.0, 1)], 1e6, DELTA) == math.inf
    assert used([], 1.0, DELTA) == 0 and left([], 1.5, DELTA) == 1.5


def test_a_simulations_lifetime_has_room() -> None:
    assert used([plan(0.05, 0.5, 4000)] * 3, 1e6, 0.5) < 1


def test_deltas_are_those_of_the_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    event = plan(0.05, 1.0, 200)
    points = np.array([0.0, epsilon([event], 1e-3), epsilon([event], 1e-5), 50.0])
    found = deltas(event, points)
    assert (np.diff(found) <= 0).all() and 0 < found[0] < 1
    np.testing.assert_allclose(found[1:3], [1e-3, 1e-5], rtol=1e-3)
    assert found[1] >= 1e-3 * (1 - 1e-9) and found[2] >= 1e-5 * (1 - 1e-6)
    monkeypatch.setattr(accounting, "_ROUNDING_A_STEP", 1.0)
    by_rdp = deltas(event, points)
    assert (by_rdp >= found - 1e-12).all() and by_rdp[2] < 1e-3 and by_rdp[3] < 1e-6
