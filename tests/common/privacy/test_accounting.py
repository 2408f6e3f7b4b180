"""The accountant: never too low, monotone, and in agreement with exact formulas and with Opacus."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from common.errors import PrivacyError
from common.privacy.accounting import (
    ADJACENCY,
    Accountant,
    Event,
    calibrate,
    epsilon,
    epsilon_at_most,
    merge,
)

BASE = Event(
    mechanism="poisson_discrete_gaussian",
    sample_rate=0.05,
    noise_multiplier=1.0,
    steps=100,
    unit="image",
)
EVENTS = st.builds(
    Event,
    mechanism=st.sampled_from(["poisson_gaussian", "poisson_discrete_gaussian"]),
    sample_rate=st.sampled_from([0.01, 0.1, 1.0]),
    noise_multiplier=st.sampled_from([1.0, 2.0, 4.0]),
    steps=st.integers(1, 50),
    unit=st.just("image"),
)


def exact_gaussian(noise: float, steps: int, delta: float) -> float:
    """Balle and Wang 2018 (arXiv 1805.06530), theorem 8, for steps without sampling.

    Composed Gaussian mechanisms are one with noise multiplier noise / sqrt(steps) (Dong, Roth, Su
    2022, arXiv 1905.02383, corollary 3.3). In logarithms, exact to 1e-9 in epsilon.
    """
    mu = math.sqrt(steps) / noise

    def excess(eps: float) -> float:
        gain = special.log_ndtr(mu / 2 - eps / mu)
        loss = eps + special.log_ndtr(-mu / 2 - eps / mu)
        return float(gain + np.log1p(-np.exp(loss - gain)) - math.log(delta))

    return float(optimize.brentq(excess, 0.0, mu * (mu / 2 + 12), xtol=1e-10))


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-8, 1e-11, 1e-13])
@pytest.mark.parametrize(
    ("noise", "steps"), [(1.0, 1), (0.5, 1), (30.0, 1), (10.0, 100), (20.0, 10_000)]
)
def test_the_gaussian_mechanism_is_never_understated(
    noise: float, steps: int, delta: float, accountant: Accountant
) -> None:
    event = replace(BASE, sample_rate=1.0, noise_multiplier=noise, steps=steps)
    exact = exact_gaussian(noise, steps, delta)
    found = epsilon([event], delta, accountant)
    assert found >= exact - 1e-8
    if accountant == "pld" and delta >= 1e-8:
        assert found <= exact * 1.0001 + 1e-4


def test_one_sampled_step_is_never_understated() -> None:
    """Both directions of add-or-remove, from the hockey-stick divergence in closed form."""
    rate, noise = 0.2, 0.7
    for delta in (1e-3, 1e-5, 1e-7):
        found = epsilon([replace(BASE, sample_rate=rate, noise_multiplier=noise, steps=1)], delta)

        def removed(eps: float) -> float:
            cut = noise * math.log((math.exp(eps) - 1 + rate) / rate) + 1 / (2 * noise)
            kept = (1 - rate - math.exp(eps)) * special.ndtr(-cut)
            return float(kept + rate * special.ndtr(1 / noise - cut))

        exact = optimize.brentq(lambda eps, d=delta: removed(eps) - d, 1e-6, 50.0)
        assert exact - 1e-9 <= found <= exact * 1.001 + 1e-4


@pytest.mark.parametrize(
    ("rate", "noise", "steps"), [(0.05, 1.0, 400), (0.01, 0.8, 2000), (0.3, 4.0, 100)]
)
def test_opacus_prv_agrees_within_its_stated_error(rate: float, noise: float, steps: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from opacus.accountants import PRVAccountant
    reference, error = PRVAccountant(), 0.01
    reference.history = [(noise, rate, steps)]
    upper = reference.get_epsilon(1e-5, eps_error=error)
    event = replace(BASE, sample_rate=rate, noise_multiplier=noise, steps=steps)
    assert upper - 2 * error - 1e-3 <= epsilon([event], 1e-5) <= upper + 1e-3
    assert epsilon([event], 1e-5, "rdp") >= epsilon([event], 1e-5)


@given(
    steps=st.integers(1, 2000),
    noise=st.floats(0.6, 20),
    rate=st.floats(0.001, 1),
    factor=st.floats(1.05, 3),
)
@settings(max_examples=8)
def test_rdp_is_monotone_in_every_argument(
    steps: int, noise: float, rate: float, factor: float
) -> None:
    event = replace(BASE, steps=steps, noise_multiplier=noise, sample_rate=rate)
    cost = epsilon([event], 1e-5, "rdp") - 1e-9
    assert epsilon([replace(event, steps=steps + 1)], 1e-5, "rdp") >= cost
    assert epsilon([replace(event, noise_multiplier=noise / factor)], 1e-5, "rdp") >= cost
    assert epsilon([replace(event, sample_rate=min(1, rate * factor))], 1e-5, "rdp") >= cost
    assert epsilon([event], 1e-5 / factor, "rdp") >= cost
    assert epsilon([event, replace(event, steps=1)], 1e-5, "rdp") >= cost


@pytest.mark.parametrize(
    "dearer",
    [{"steps": 101}, {"noise_multiplier": 0.99}, {"sample_rate": 0.0505}, {"delta": 0.99e-5}],
)
def test_pld_is_monotone_in_every_argument(dearer: dict[str, float]) -> None:
    changed = dict(dearer)
    delta = changed.pop("delta", 1e-5)
    assert epsilon([replace(BASE, **changed)], delta) > epsilon([BASE], 1e-5)


def test_pld_is_monotone_where_its_discretisation_changes() -> None:
    costs = [
        epsilon([replace(BASE, noise_multiplier=noise, sample_rate=1.0, steps=1)], 1e-5)
        for noise in (0.56, 0.54, 0.53, 0.52, 0.5, 0.06, 0.055, 0.05)
    ]
    assert costs == sorted(costs)


@given(events=st.lists(EVENTS, max_size=6), seed=st.randoms(use_true_random=False))
@settings(max_examples=12)
def test_merging_neither_loses_nor_reorders(events: list[Event], seed: object) -> None:
    shuffled = list(events)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    merged = merge(events)
    assert merged == merge(shuffled) == merge(merged)
    assert sum(event.steps for event in merged) == sum(event.steps for event in events)
    assert len({replace(event, steps=1) for event in merged}) == len(merged)
    assert epsilon(events, 1e-5, "rdp") == epsilon(merged, 1e-5, "rdp")


def test_composing_in_parts_costs_what_the_whole_costs() -> None:
    whole = epsilon([BASE], 1e-5)
    assert epsilon([replace(BASE, steps=1)] * 100, 1e-5) == whole
    other = replace(BASE, mechanism="poisson_gaussian", steps=40)
    assert epsilon([other, replace(BASE, steps=60)], 1e-5) == pytest.approx(whole, rel=1e-3)


def test_the_empty_and_the_unprotected() -> None:
    assert epsilon([], 1e-5) == 0.0
    assert epsilon([BASE, replace(BASE, noise_multiplier=0.0)], 1e-5) == math.inf
    with pytest.raises(PrivacyError, match="one epsilon cannot speak of both"):
        epsilon([BASE, replace(BASE, unit="patient")], 1e-5)
    assert all("more" in text for text in ADJACENCY.values())


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_delta_out_of_bounds(delta: float) -> None:
    with pytest.raises(PrivacyError, match="delta="):
        epsilon([BASE], delta)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sample_rate", 0.0),
        ("sample_rate", 1.5),
        ("sample_rate", math.nan),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.inf),
        ("noise_multiplier", math.nan),
        ("steps", 0),
        ("steps", 2.0),
        ("steps", True),
        ("unit", "hospital"),
        ("mode", "none"),
        ("mechanism", "laplace"),
    ],
)
def test_an_event_out_of_bounds_names_the_field(field: str, value: object) -> None:
    with pytest.raises(PrivacyError, match=field):
        replace(BASE, **{field: value})
    with pytest.raises(PrivacyError, match="accountant"):
        epsilon([BASE], 1e-5, "moments")  # type: ignore[arg-type]


def test_an_event_out_of_bounds_is_none_within_them() -> None:
    """Noise of 0 is an event: one that protects nobody."""
    for noise in (0, 0.0, 1e-6, 0.5, 1e6):
        assert replace(BASE, noise_multiplier=noise).noise_multiplier == noise
    for rate in (1e-12, 1.0):
        assert replace(BASE, sample_rate=rate).sample_rate == rate
    assert replace(BASE, steps=1).steps == 1


@pytest.mark.parametrize(
    ("target", "rate", "steps"),
    [(1.0, 0.05, 100), (8.0, 0.01, 50), (3.0, 1.0, 10)],
)
def test_calibration_meets_the_target_and_wastes_little(
    target: float, rate: float, steps: int
) -> None:
    noise = calibrate(target, 1e-5, rate, steps)
    event = replace(BASE, sample_rate=rate, noise_multiplier=noise, steps=steps)
    assert 0.995 * target <= epsilon([event], 1e-5) <= target
    less = replace(event, noise_multiplier=noise * 2 ** (-1 / 1024))
    assert epsilon([less], 1e-5) > target


def test_calibration_is_monotone() -> None:
    noise = calibrate(3.0, 1e-5, 1.0, 20)
    assert calibrate(3.05, 1e-5, 1.0, 20) < noise
    assert calibrate(3.0, 2e-5, 1.0, 20) < noise
    assert calibrate(3.0, 1e-5, 0.95, 20) < noise
    assert calibrate(3.0, 1e-5, 1.0, 21) > noise


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("noise", [0.8, 1.5, 3.0])
@pytest.mark.parametrize("several", [2, 5, 10])
def test_one_large_sample_costs_less_than_several_of_the_same_noise(
    rate: float, noise: float, several: int
) -> None:
    """Why mode distributed has one sum a round: the mean's noise is the same either way."""
    large = replace(
        BASE, sample_rate=several * rate, noise_multiplier=math.sqrt(several) * noise, steps=50
    )
    small = replace(BASE, sample_rate=rate, noise_multiplier=noise, steps=50 * several)
    assert epsilon([large], 1e-5) < epsilon([small], 1e-5)


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan, 1e-12])
def test_calibration_says_what_cannot_be_had(target: float) -> None:
    with pytest.raises(PrivacyError, match="epsilon="):
        calibrate(target, 1e-15, 0.05, 10)


@pytest.mark.parametrize("rate", [0.05, 1.0])
def test_the_quick_bound_is_never_below_and_little_above(rate: float) -> None:
    marks = (301, 330)
    for steps in (1, 7, 20, 21, 40, 99, 150, 299, 301, 302, 330, 331):
        events = [replace(BASE, sample_rate=rate, noise_multiplier=2.0, steps=steps)]
        exact, bound = epsilon(events, 1e-5), epsilon_at_most(events, 1e-5, marks)
        assert exact <= bound <= 1.05 * exact
        if steps <= 20 or steps in marks:
            assert bound == exact


def test_the_quick_bound_asks_few_questions() -> None:
    bounds = {
        epsilon_at_most([replace(BASE, sample_rate=0.1, noise_multiplier=3.0, steps=steps)], 1e-5)
        for steps in range(1, 1001, 3)
    }
    assert len(bounds) < 110


def test_the_quick_bound_adds_up_what_has_equal_settings() -> None:
    one, other = (replace(BASE, noise_multiplier=20.0, steps=steps) for steps in (3, 4))
    assert epsilon_at_most([one, other], 1e-5) == epsilon([one, other], 1e-5)
    assert epsilon_at_most([], 1e-5) == 0
