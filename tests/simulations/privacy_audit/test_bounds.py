"""The lower bounds themselves: exact where they can be counted, never above the truth."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from common.errors import PrivacyError
from simulations.privacy_audit import one_run, tradeoff
from simulations.privacy_audit.tradeoff import Tradeoff

counts = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60)).map(sorted)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 3.0])
def test_without_delta_the_p_value_is_the_binomial_tail_counted_out(epsilon: float) -> None:
    right, guesses = math.exp(epsilon) / (1 + math.exp(epsilon)), 9
    for correct in range(guesses + 1):
        counted = sum(
            right ** sum(outcome) * (1 - right) ** (guesses - sum(outcome))
            for outcome in itertools.product((0, 1), repeat=guesses)
            if sum(outcome) >= correct
        )
        value = one_run.p_value(20, guesses, correct, epsilon, 0.0)
        assert value == pytest.approx(counted, rel=1e-9)


@settings(max_examples=30)
@given(counts, st.floats(0, 5), st.floats(0, 1e-2))
def test_the_delta_term_is_the_theorems(sizes: list[int], epsilon: float, delta: float) -> None:
    correct, guesses, canaries = sizes
    right = 1 / (1 + math.exp(-epsilon))

    def chance(count: int) -> float:
        return math.comb(guesses, count) * right**count * (1 - right) ** (guesses - count)

    def tail(count: int) -> float:
        return sum(chance(n) for n in range(max(count, 0), guesses + 1))

    slopes = [(tail(correct - i) - tail(correct)) / i for i in range(1, correct + 1)]
    expected = min(1.0, tail(correct) + 2 * canaries * delta * max(slopes, default=0.0))
    value = one_run.p_value(canaries, guesses, correct, epsilon, delta)
    assert value == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30)
@given(counts, st.floats(0, 1e-3))
def test_the_bound_rises_with_right_guesses_and_falls_with_delta_and_confidence(
    sizes: list[int], delta: float
) -> None:
    correct, guesses, canaries = sizes
    bound = one_run.lower_bound(canaries, guesses, correct, delta)
    assert one_run.lower_bound(canaries, guesses, max(0, correct - 1), delta) <= bound + 2e-6
    assert one_run.lower_bound(canaries, guesses, correct, 2 * delta) <= bound + 2e-6
    assert one_run.lower_bound(canaries, guesses, correct, delta, 0.99) <= bound + 2e-6
    assert bound <= one_run.ceiling(canaries, delta) + 2e-6
    if bound > 0:
        assert one_run.p_value(canaries, guesses, correct, bound, delta) <= 0.05


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_randomised_response_is_never_said_to_leak_more_than_it_does(epsilon: float) -> None:
    rng, right = np.random.default_rng(5), 1 / (1 + math.exp(-epsilon))
    bounds = [one_run.lower_bound(500, 500, int(rng.binomial(500, right)), 0.0) for _ in range(200)]
    # At most 5 % may exceed; more than 18 of 200 then has a chance of 0.7 %.
    assert sum(bound > epsilon for bound in bounds) <= 18
    # The mechanism is the theorem's worst case, so the bound is close too.
    assert np.median(bounds) > epsilon - 0.4 or epsilon == 0


def test_a_mechanism_that_uses_its_delta_is_bounded_too() -> None:
    """With probability delta for each canary its coin is published; else randomised response."""
    rng, epsilon, delta, canaries = np.random.default_rng(6), 1.0, 0.02, 300
    right = 1 / (1 + math.exp(-epsilon))
    above = 0
    for _ in range(200):
        published = int(rng.binomial(canaries, delta))
        correct = published + int(rng.binomial(canaries - published, right))
        above += one_run.lower_bound(canaries, canaries, correct, delta) > epsilon
    assert above <= 18


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "epsilon", "delta", "said"),
    [
        (5, 6, 3, 1.0, 0.0, "guesses=6, canaries=5; expected 0 <= correct"),
        (5, 4, 5, 1.0, 0.0, "correct=5, guesses=4"),
        (5, 5, 5, -1.0, 0.0, "epsilon=-1.0"),
        (5, 5, 5, 1.0, 2.0, "delta=2.0; expected >= 0 and in"),
    ],
)
def test_counts_out_of_order_are_refused(
    canaries: int, guesses: int, correct: int, epsilon: float, delta: float, said: str
) -> None:
    with pytest.raises(PrivacyError, match=said):
        one_run.p_value(canaries, guesses, correct, epsilon, delta)


def test_no_confidence_is_refused() -> None:
    with pytest.raises(PrivacyError, match="confidence"):
        one_run.lower_bound(5, 5, 5, 0.0, 1.0)


def gaussian(shift: float) -> Tradeoff:
    """The trade-off of N(0, 1) and N(shift, 1), as pairs (epsilon, delta)."""
    epsilons = np.linspace(0, 12, 400)
    low = norm.cdf(shift / 2 - epsilons / shift)
    high = norm.cdf(-shift / 2 - epsilons / shift)
    return Tradeoff(epsilons, low - np.exp(epsilons) * high)


def test_the_pairs_give_the_gaussians_curve() -> None:
    for chance in (1e-4, 0.01, 0.3, 0.9, 0.999):
        exact = norm.cdf(norm.ppf(chance) - 1.0)
        assert gaussian(1.0).least_elsewhere(chance) == pytest.approx(exact, abs=2e-4)
        assert gaussian(1.0).least_elsewhere(chance) <= exact + 1e-12


def test_the_accountants_curve_is_the_gaussians_without_sampling() -> None:
    claim = tradeoff.claimed(2.0, 1.0, 4)
    exact = gaussian(1.0)
    for chance in (0.01, 0.3, 0.9):
        value = claim.least_elsewhere(chance)
        assert value == pytest.approx(exact.least_elsewhere(chance), abs=1e-3)


def test_an_honest_gaussian_is_not_refuted_and_a_leaky_one_is() -> None:
    rng, canaries, guesses = np.random.default_rng(7), 1000, 300
    claim = gaussian(1.0)
    for shift, refuted in ((1.0, False), (6.0, True)):
        coins = rng.integers(0, 2, canaries)
        order = np.argsort(shift * coins + rng.standard_normal(canaries))
        half = guesses // 2
        correct = int(coins[order[-half:]].sum() + (1 - coins[order[:half]]).sum())
        assert tradeoff.refuted(claim, canaries, guesses, correct, 0.05) == refuted
        value = tradeoff.p_value(claim, canaries, guesses, correct)
        assert (value <= 0.05) == refuted


def test_mechanisms_whose_guesses_all_stand_or_fall_together_keep_the_confidence() -> None:
    """The worst case of one run: with probability 0.1 every coin is published, else nothing."""
    epsilons = np.zeros(1)
    claim = Tradeoff(epsilons, np.full(1, 0.1))
    # All 50 right: happens with probability just over 0.1, so no p-value below that is honest.
    assert tradeoff.p_value(claim, 50, 50, 50) >= 0.1
    assert tradeoff.p_value(claim, 50, 50, 50) < 0.25
