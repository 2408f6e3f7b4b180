"""The lifetime's yardstick and the search for a plan's share, against closed forms; quick."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import norm

from common.privacy import lifetime
from common.privacy.accounting import Event, Floats
from common.privacy.lifetime import _gaussian, _make, _Yardstick, left, used

DELTA = 1e-5
YARDSTICK = _Yardstick(leak=1e-6, mu=0.5, negligible=1e-10)
EPSILONS = np.linspace(0, 8, 4096)


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    """What is kept rests on the `deltas` that a test puts in."""
    yield
    for asked in (lifetime._yardstick, lifetime._share, lifetime._profile):
        asked.cache_clear()


def plan(sample_rate: float = 1.0, noise: float = 10.0, steps: int = 1) -> Event:
    return Event(
        mechanism="poisson_discrete_gaussian",
        sample_rate=sample_rate,
        noise_multiplier=noise,
        steps=steps,
        unit="patient",
    )


@pytest.mark.parametrize("mu", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0])
def test_a_gaussians_delta_is_the_integral_of_what_exceeds(mu: float, epsilon: float) -> None:
    x = np.linspace(-20, 20, 400_001)
    over = np.maximum(norm.pdf(x, mu) - math.exp(epsilon) * norm.pdf(x), 0)
    (found,) = _gaussian(mu, np.array([epsilon]))
    assert found == pytest.approx(np.trapezoid(over, x), rel=1e-6, abs=1e-15)


def test_far_out_a_gaussians_delta_is_none_and_never_less() -> None:
    found = _gaussian(0.01, np.array([0.0, 1.0, 700.0]))
    assert found[0] == pytest.approx(2 * norm.cdf(0.005) - 1) and (found[1:] == 0).all()
    assert (_gaussian(0.02876, np.linspace(1.05, 1.1, 1000)) >= 0).all(), "rounded below 0 before"


@given(st.floats(0, 1), st.floats(0, 1))
def test_two_shares_together_are_their_sum(one: float, other: float) -> None:
    parts = [1 - YARDSTICK.told(share) for share in (one, other, one + other)]
    assert parts[0] * parts[1] == pytest.approx(parts[2], rel=1e-14)
    assert YARDSTICK.told(0) == 0 and YARDSTICK.told(1) == pytest.approx(1e-6, rel=1e-9)


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_a_share_tells_all_or_is_a_gaussian(share: float) -> None:
    told = YARDSTICK.told(share)
    gaussian = _gaussian(0.5 * math.sqrt(share), EPSILONS)
    assert_allclose(YARDSTICK.delta(share, EPSILONS), told + (1 - told) * gaussian, rtol=1e-15)
    assert YARDSTICK.delta(share, np.array([500.0]))[0] == told


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_a_share_covers_a_smaller_one_and_not_a_larger(share: float) -> None:
    found = YARDSTICK.delta(share, EPSILONS)
    assert YARDSTICK.covers(1.001 * share, EPSILONS, found)
    assert not YARDSTICK.covers(0.999 * share, EPSILONS, found)


@pytest.mark.parametrize("at", [0, 1, 2000, 4094, 4095])
def test_a_plan_above_the_share_at_one_point_is_not_covered(at: int) -> None:
    found = YARDSTICK.delta(0.3, EPSILONS)
    found[at] = YARDSTICK.delta(0.31, EPSILONS)[at]
    assert not YARDSTICK.covers(0.302, EPSILONS, found)
    assert YARDSTICK.covers(0.3101, EPSILONS, found)


def test_between_its_points_the_chord_has_to_be_covered() -> None:
    """A plan that is as the share at each of few points lies above it in between."""
    few = np.linspace(0, 8, 9)
    assert not YARDSTICK.covers(0.3001, few, YARDSTICK.delta(0.3, few))
    assert YARDSTICK.covers(0.3001, EPSILONS, YARDSTICK.delta(0.3, EPSILONS))


@pytest.mark.parametrize("wide", ["before", "behind"])
def test_both_ends_of_a_wide_chord_have_to_be_covered(wide: str) -> None:
    """The plan is nothing at one end of it, and as the share at the other."""
    if wide == "before":
        points = np.concatenate([[0.8], np.linspace(1, 8, 4096)])
    else:
        points = np.concatenate([np.linspace(0, 1, 4096), [1.1]])
    found = YARDSTICK.delta(0.3, points)
    found[0 if wide == "before" else -1] = 0
    assert not YARDSTICK.covers(0.3003, points, found)
    assert YARDSTICK.covers(0.9, points, found)


def test_what_is_told_lowers_the_slope() -> None:
    """Of a share that tells much, and is covered by itself and hardly more."""
    telling = _Yardstick(leak=0.3, mu=2.0, negligible=1e-10)
    points = np.linspace(0, 30, 4096)
    found = telling.delta(0.9, points)
    assert telling.covers(0.9003, points, found)
    assert not telling.covers(0.8997, points, found)


def test_after_the_last_point_only_what_is_told_counts() -> None:
    """The share is as near its end as one likes, yet the plan may stay where it is."""
    told, flat = YARDSTICK.told(0.3), np.array([1.0, 1.1])
    assert YARDSTICK.covers(0.3, flat, np.array([told, told]))
    assert not YARDSTICK.covers(0.3, flat, np.array([told, told * (1 + 1e-12)]))


@pytest.mark.parametrize("part", lifetime._LEAKS)
@pytest.mark.parametrize(("epsilon", "delta"), [(0.2, 1e-8), (1.0, 1e-5), (8.0, 1e-5), (1e6, 0.5)])
def test_the_whole_yardstick_is_the_lifetimes_epsilon_and_delta(
    epsilon: float, delta: float, part: float
) -> None:
    made = _make(epsilon, delta, part)
    assert made.leak == part * delta and made.negligible == 1e-5 * delta
    (whole,) = made.delta(1.0, np.array([epsilon]))
    assert delta * (1 - 1e-4) < whole <= delta
    assert norm.cdf(-epsilon / made.mu + made.mu / 2) > 0


@pytest.mark.parametrize("epsilon", [0.2, 1.0, 8.0])
def test_the_first_part_of_delta_that_does_is_the_leak(epsilon: float) -> None:
    """A Gaussian that uses a smaller leak's whole mu does not fit by a larger one."""
    assert all(0 < part < 1 for part in lifetime._LEAKS)
    made = [_make(epsilon, DELTA, part) for part in lifetime._LEAKS]
    usual = plan(noise=1.001 / made[0].mu)
    assert lifetime._yardstick(epsilon, DELTA, usual) == made[0]
    for scarce, expected in ((made[2], 2), (made[4], 4), (made[5], 5)):
        tight = plan(noise=1.000001 / scarce.mu)
        assert lifetime._yardstick(epsilon, DELTA, tight) == made[expected]
    large = plan(noise=0.5 / made[0].mu)
    assert lifetime._yardstick(epsilon, DELTA, large) == made[5], "the nearest"
    assert used([large], epsilon, DELTA) == pytest.approx(4 * (made[0].mu / made[5].mu) ** 2)


def test_the_first_plan_chooses_the_yardstick_for_all() -> None:
    made = [_make(2.0, DELTA, part) for part in lifetime._LEAKS]
    usual, tight = plan(noise=2 / made[0].mu), plan(noise=1.000001 / made[2].mu)
    for first, other, chosen in ((usual, tight, made[0]), (tight, usual, made[2])):
        each = [1 / (one.noise_multiplier * chosen.mu) ** 2 for one in (first, other)]
        assert used([first, other], 2.0, DELTA) == pytest.approx(sum(each), rel=1e-12)
    nearly, small = plan(noise=0.999999 / made[0].mu), plan(noise=20 / made[2].mu)
    for first, other, chosen in ((usual, small, made[0]), (nearly, small, made[2])):
        epsilon = left([first, other], 2.0, DELTA)
        rest = 1 - used([first, other], 2.0, DELTA)
        assert epsilon > 0
        assert chosen.delta(rest, np.array([epsilon]))[0] == pytest.approx(DELTA, rel=1e-9)


def test_plans_without_sampling_add_up_as_their_squares() -> None:
    mu = _make(2.0, DELTA, 0.1).mu
    plans = [plan(noise=20.0, steps=3), plan(noise=50.0, steps=7)]
    parts = [3 / (20 * mu) ** 2, 7 / (50 * mu) ** 2]
    assert used(plans[:1], 2.0, DELTA) == pytest.approx(parts[0], rel=1e-12)
    assert used(plans, 2.0, DELTA) == pytest.approx(sum(parts), rel=1e-12)
    assert used([], 2.0, DELTA) == 0 and used([*plans, plan(noise=0.0)], 2.0, DELTA) == math.inf


def test_what_is_left_is_the_epsilon_of_the_rest() -> None:
    made = _make(2.0, DELTA, 0.1)
    half = plan(noise=math.sqrt(2) / made.mu)
    epsilon = left([half], 2.0, DELTA)
    assert 0 < epsilon < 2
    assert made.delta(0.5, np.array([epsilon]))[0] == pytest.approx(DELTA, rel=1e-9)
    assert left([], 2.0, DELTA) == 2.0
    assert left([half, half], 2.0, DELTA) == left([half] * 3, 2.0, DELTA) == 0
    nearly = plan(noise=math.sqrt(1 / (1 - 1e-13)) / made.mu)
    assert used([nearly], 2.0, DELTA) < 1 and left([nearly], 2.0, DELTA) == 0


def test_little_is_left_after_much_and_nothing_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _make(2.0, DELTA, 0.1)
    most = plan(noise=math.sqrt(1 / 0.9) / made.mu)
    epsilon = left([most], 2.0, DELTA)
    assert 0 < epsilon < 0.9
    assert made.delta(0.1, np.array([epsilon]))[0] == pytest.approx(DELTA, rel=1e-9)
    monkeypatch.setattr(lifetime, "used", lambda *_: 1.0)
    assert left([most], 2.0, DELTA) == 0


def of_a_gaussian(mu: float, monkeypatch: pytest.MonkeyPatch, least: float = 0.0) -> None:
    """Every plan's deltas are those of a Gaussian, but not less than `least`."""

    def deltas(event: Event, epsilons: Floats) -> Floats:
        return np.maximum(_gaussian(mu, epsilons), least)

    monkeypatch.setattr(lifetime, "deltas", deltas)


@pytest.mark.parametrize("share", [0.002, 0.11, 1.0, 1.9, 40.0])
def test_a_sampled_plans_share_is_the_smallest_that_covers_it(
    monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """Which is near (mu of the plan / mu of the yardstick)^2, where its deltas are a Gaussian's."""
    made = _make(1.0, DELTA, 0.1)
    of_a_gaussian(math.sqrt(share) * made.mu, monkeypatch)
    event = plan(sample_rate=0.5, noise=0.1, steps=100)
    found = lifetime._share(event, made)
    epsilons, deltas = lifetime._profile(event, made.negligible)
    assert made.covers(found, epsilons, deltas)
    step = 2 ** (1 / 4096)
    assert not made.covers(found / step, epsilons, deltas)
    assert found == pytest.approx(share, rel=0.01 if share > 0.01 else 0.1)
    assert math.log2(found) * 4096 == pytest.approx(round(math.log2(found) * 4096), abs=1e-6)


def test_sampling_never_costs_more_than_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _make(1.0, DELTA, 0.1)
    of_a_gaussian(3 * made.mu, monkeypatch)
    whole = 4 / (8 * made.mu) ** 2
    assert whole > 1e-3
    assert (
        lifetime._share(plan(0.5, 8.0, 4), made)
        == whole
        == lifetime._share(plan(1.0, 8.0, 4), made)
    )


def test_a_plan_that_no_share_covers_costs_what_it_would_without_sampling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = _make(1.0, DELTA, 0.1)
    of_a_gaussian(1000 * made.mu, monkeypatch)
    assert lifetime._share(plan(0.5, 0.001), made) == 1 / (0.001 * made.mu) ** 2


def test_a_small_share_is_not_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _make(1.0, DELTA, 0.1)
    of_a_gaussian(0.01 * made.mu, monkeypatch)
    noise = math.sqrt(1 / (1e-3 * made.mu**2))
    small, larger = plan(0.5, noise * 1.01), plan(0.5, noise * 0.99)
    assert lifetime._share(small, made) == 1 / (small.noise_multiplier * made.mu) ** 2
    assert lifetime._share(larger, made) < 9e-4


@pytest.mark.parametrize(
    ("mu", "least", "end"),
    [(0.1, 0.0, 0.64), (1.0, 0.0, 10.24), (0.001, 0.0, 0.01), (1, 1e-9, 655.36)],
)
def test_a_plan_is_looked_at_to_where_it_is_negligible(
    monkeypatch: pytest.MonkeyPatch, mu: float, least: float, end: float
) -> None:
    of_a_gaussian(mu, monkeypatch, least)
    epsilons, found = lifetime._profile(plan(0.5), 1e-10)
    assert epsilons[0] == 0 and epsilons[-1] == pytest.approx(end) and (np.diff(epsilons) > 0).all()
    assert_allclose(found, np.maximum(_gaussian(mu, epsilons), least))
    assert len(epsilons) > 4000
