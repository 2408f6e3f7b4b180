"""The accountant's bounds in closed form, and the search for the least noise, step by step."""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.special import ndtr

from common.config.study import PrivacySpec
from common.errors import PrivacyError
from common.privacy import accounting
from common.privacy.accounting import calibrate, deltas, epsilon, study_event
from common.privacy.events import Event

BASE = Event(
    mechanism="poisson_discrete_gaussian",
    sample_rate=1.0,
    noise_multiplier=10.0,
    steps=4,
    unit="image",
)


def exact(mu: float, point: float) -> float:
    """The Gaussian's delta (Balle, Wang 2018, theorem 8)."""
    return float(ndtr(mu / 2 - point / mu) - math.exp(point) * ndtr(-mu / 2 - point / mu))


@given(st.integers(-500, 500), st.integers(0, 300), st.integers(0, 300))
def test_the_first_number_that_holds_is_found(low: int, below: int, above: int) -> None:
    answer, high = low + below, low + below + above
    assert accounting._first(low, high, lambda k: k >= answer) == answer


@given(st.integers(-6000, 12_000), st.integers(-6000, 12_000))
def test_from_any_start_the_first_that_holds_is_found(start: int, answer: int) -> None:
    asked: list[int] = []

    def holds(k: int) -> bool:
        asked.append(k)
        return k >= answer

    assert accounting._first_below(start, holds) == answer
    assert len(asked) <= 6 + 2 * math.log2(1 + abs(start - answer)), "near it, few are asked"


@pytest.mark.parametrize("away", range(-40, 41))
def test_from_a_start_that_is_near_the_first_that_holds_is_found(away: int) -> None:
    """At either end of each stride."""
    assert accounting._first_below(100, lambda k: k >= 100 + away) == 100 + away


def test_none_is_asked_for_below_the_lowest() -> None:
    asked: list[int] = []

    def holds(k: int) -> bool:
        asked.append(k)
        return True

    lowest = -6 * 1024
    for start in (lowest, lowest + 1, lowest + 700):
        assert accounting._first_below(start, holds) == lowest
    assert min(asked) == lowest
    assert accounting._secant(lowest, lambda k: -1.0 - k * 1e-4) >= lowest


@given(st.integers(-3000, 3000), st.integers(-3000, 3000), st.floats(0.3, 3))
def test_a_secants_three_steps_come_near_the_root(start: int, root: int, steep: float) -> None:
    """Of log(epsilon / target), which falls about as a power of the noise."""
    asked: list[int] = []

    def excess(k: int) -> float:
        asked.append(k)
        return steep * (root - k) * math.log(2) / 1024

    found = accounting._secant(start, excess)
    assert len(asked) <= 4 and all(abs(b - a) <= 1024 for a, b in pairwise(asked))
    assert abs(found - root) <= max(2, abs(start - root) - 1024)


def test_a_secant_that_is_there_asks_once() -> None:
    asked: list[int] = []

    def excess(k: int) -> float:
        asked.append(k)
        return 1e-9

    assert accounting._secant(77, excess) == 77 and asked == [77]


def test_a_secant_begins_with_how_epsilon_falls_on_the_whole() -> None:
    """As the noise to the power of -1.2: then the second number that it asks for is the root."""
    asked: list[int] = []

    def excess(k: int) -> float:
        asked.append(k)
        return 1.2 * (250 - k) * math.log(2) / 1024

    assert accounting._secant(-300, excess) == 250 and asked == [-300, 250]


@given(st.integers(-6 * 1024, 12 * 1024), st.sampled_from([1.0, 1.1]))
@example(0, 1.0).via("a multiplier of 1")
@example(12 * 1024, 1.0).via("the last that there is")
@example(12 * 1024 - 1, 1.1).via("beyond it by rdp")
def test_wherever_the_least_noise_lies_it_is_found_and_few_are_asked(
    answer: int, loose: float
) -> None:
    """Of a made-up cost that falls as epsilon does; "rdp" costs more."""
    asked: Counter[tuple[str, float]] = Counter()

    def cost(k: int, *setting: Any) -> float:
        accountant, coarsening = setting[3], (*setting, 1.0)[4]
        asked[accountant, coarsening] += 1
        more = loose if accountant == "rdp" else loose**0.1 if coarsening > 1 else 1.0
        return float(more * 2.0 ** (-1.2 * k / 1024))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounting, "_steps_cost", cost)
        target = cost(answer, 1e-5, 1.0, 1, "pld")
        if target < cost(12 * 1024, 1e-5, 1.0, 1, "rdp"):
            with pytest.raises(PrivacyError, match="no noise multiplier up to 4096 gives"):
                calibrate.__wrapped__(target, 1e-5, 1.0, 1)
            return
        asked.clear()
        assert calibrate.__wrapped__(target, 1e-5, 1.0, 1) == 2.0 ** (answer / 1024)
    assert asked["rdp", 1.0] <= 10 and asked["pld", 10.0] <= 4 and asked["pld", 1.0] <= 8


@pytest.mark.parametrize(("target", "delta", "steps"), [(3.0, 1e-5, 10), (0.5, 1e-7, 3)])
def test_the_noise_is_the_least_on_its_grid_that_meets_the_target(
    target: float, delta: float, steps: int
) -> None:
    noise = calibrate(target, delta, 1.0, steps)
    k = math.log2(noise) * 1024
    assert k == pytest.approx(round(k), abs=1e-6)
    event = replace(BASE, noise_multiplier=noise, steps=steps)
    assert epsilon([event], delta) <= target
    assert epsilon([replace(event, noise_multiplier=noise * 2 ** (-1 / 1024))], delta) > target
    mu = math.sqrt(steps) / noise
    assert delta * 0.97 <= exact(mu, target) <= delta


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan])
def test_a_target_that_is_none_is_refused(target: float) -> None:
    with pytest.raises(PrivacyError, match="expected a finite number above 0"):
        calibrate(target, 1e-5, 1.0, 1)


def test_noise_that_nobody_can_have_is_refused() -> None:
    with pytest.raises(PrivacyError, match="no noise multiplier up to 4096 gives epsilon=1e-08"):
        calibrate(1e-8, 1e-12, 1.0, 100)
    assert calibrate(1e5, 0.5, 1.0, 1) == 2.0**-6, "nor less than 1/64"


def test_deltas_are_the_gaussians_and_hardly_more() -> None:
    event = replace(BASE, noise_multiplier=2.0)
    points = np.array([0.0, 0.5, 2.0, 4.0, 6.0])
    found = deltas(event, points)
    for point, value in zip(points, found, strict=True):
        assert exact(1.0, point) <= value <= exact(1.0, point) * 1.001 + 1e-12


def test_far_out_the_bound_by_rdp_takes_over() -> None:
    """What float64 may lose is added to the one; the other falls on (proposition 12)."""
    event = replace(BASE, noise_multiplier=2.0)
    (found,) = deltas(event, np.array([9.0]))
    orders = np.arange(2, 2048)
    slack = (orders - 1) * (event.steps * orders / (2 * 2.0**2) - 9.0)
    slack = slack + orders * np.log1p(-1 / orders) - np.log(orders - 1)
    by_rdp = math.exp(slack.min())
    assert exact(1.0, 9.0) <= found <= by_rdp * 1.01
    (far,) = deltas(event, np.array([12.0]))
    assert far < event.steps * 1e-15 and far >= exact(1.0, 12.0)
    assert deltas(replace(BASE, noise_multiplier=0.05), np.array([0.0]))[0] <= 1


def test_what_floats_may_lose_grows_with_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        def get_delta_for_epsilon(self, epsilons: Any) -> Any:
            return np.zeros(len(epsilons))

    monkeypatch.setattr(accounting, "_losses", lambda _: Nothing())
    for steps in (1, 1000):
        event = replace(BASE, noise_multiplier=1.0, steps=steps)
        assert deltas(event, np.array([0.0]))[0] == pytest.approx(1e-15 * steps, abs=0)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize(
    ("noise", "steps", "delta"), [(1.0, 1, 1e-5), (30.0, 9, 1e-8), (0.3, 1, 0.1)]
)
def test_a_gaussians_epsilon_is_never_understated(
    accountant: accounting.Accountant, noise: float, steps: int, delta: float
) -> None:
    event = replace(BASE, noise_multiplier=noise, steps=steps)
    found = epsilon([event], delta, accountant)
    assert exact(math.sqrt(steps) / noise, found) <= delta
    if accountant == "pld":
        assert exact(math.sqrt(steps) / noise, found * 0.999 - 2e-3) >= delta or found == 0


def test_two_settings_are_composed() -> None:
    """Of which the one with less noise costs more, and either more than nothing."""
    one, other = replace(BASE, noise_multiplier=4.0, steps=2), replace(BASE, noise_multiplier=8.0)
    both = epsilon([one, other], 1e-5)
    mu = math.sqrt(2 / 16 + 4 / 64)
    assert exact(mu, both) <= 1e-5 <= exact(mu, both * 0.999 - 1e-3)
    assert epsilon([one], 1e-5) < both and epsilon([other], 1e-5) < epsilon([one], 1e-5)


def test_where_floats_lose_more_than_half_of_delta_rdp_answers() -> None:
    """1e-15 a step is set aside."""
    for steps, same in ((499, False), (501, True)):
        event = replace(BASE, noise_multiplier=300.0, steps=steps)
        by_rdp = epsilon([event], 1e-12, "rdp")
        assert (epsilon([event], 1e-12) == by_rdp) == same
        assert epsilon([event], 1e-12) <= by_rdp


@pytest.mark.parametrize(
    ("rdp", "interval"),
    [(0.0, 1e-4), (0.99, 1e-4), (1, 5e-4), (9.9, 5e-4), (10, 1e-3), (199, 1e-3), (200, 1e-2)],
)
def test_losses_are_cut_more_coarsely_for_a_large_epsilon(rdp: float, interval: float) -> None:
    assert accounting._interval(rdp) == interval


def test_what_is_reported_and_what_noise_is_sought_by_is_cut_as_finely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut: list[float] = []
    real = accounting._step

    def step(sample_rate: float, noise_multiplier: float, interval: float) -> Any:
        cut.append(interval)
        return real(sample_rate, noise_multiplier, interval)

    monkeypatch.setattr(accounting, "_step", step)
    monkeypatch.setattr(accounting, "_interval", lambda _: 0.0123)
    accounting._composed.cache_clear()
    found = epsilon([replace(BASE, noise_multiplier=2.0**3)], 1e-5)
    assert accounting._steps_cost(3 * 1024, 1e-5, 1.0, 4, "pld") == found
    assert accounting._steps_cost(3 * 1024, 1e-5, 1.0, 4, "pld", 10.0) >= found
    accounting._composed.cache_clear()
    assert cut == [0.0123, 0.0123, pytest.approx(0.123)]


def test_an_accountant_that_there_is_not_is_refused() -> None:
    with pytest.raises(PrivacyError, match="accountant='moments': expected one of"):
        epsilon([BASE], 1e-5, "moments")  # type: ignore[arg-type]


def test_a_studys_event_is_of_all_its_rounds_and_the_spare_ones() -> None:
    privacy = PrivacySpec(
        mode="local",
        epsilon=3.0,
        delta=1e-5,
        sample_rate=1.0,
        local_steps=2,
        max_grad_norm=1.0,
        spare_rounds=1,
        unit="image",
    )
    event = study_event(privacy, 4)
    assert event == Event(
        mechanism="poisson_discrete_gaussian",
        sample_rate=1.0,
        noise_multiplier=calibrate(3.0, 1e-5, 1.0, 10),
        steps=10,
        unit="image",
        mode="local",
    )
