"""One site's share of the noise: what is left of all shares is the noise that was asked for."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from common.errors import PrivacyError
from common.privacy import discrete_gaussian, noise
from common.privacy.noise import (
    NoiseSource,
    add_noise,
    grid_for,
    grid_sigma,
    share_sigma,
)

Law = NDArray[np.longdouble]
REACH = 400
SIZES, WEIGHTS = st.integers(1, 10**8), st.integers(1, 1000)
CLIPS, MULTIPLIERS = st.floats(1e-3, 1e3), st.floats(0.1, 2)


def law(variance: float) -> Law:
    """N_Z(0, variance) on -REACH to REACH."""
    x = np.arange(-REACH, REACH + 1, dtype=np.longdouble)
    weights = np.exp(-x * x / (2 * np.longdouble(variance)))
    return weights / weights.sum()


def law_of_sum(one: Law, shares: int) -> Law:
    total = one
    for _ in range(shares - 1):
        total = np.convolve(total, one)[REACH:-REACH]
    return total


def from_gaussian(variance: float, shares: int) -> float:
    """Total variation between a sum of `shares` of that variance and N_Z of the variances' sum."""
    summed = law_of_sum(law(variance), shares)
    return float(np.abs(summed - law(shares * variance)).sum() / 2)


@given(size=SIZES, clip=CLIPS, multiplier=MULTIPLIERS, shares=st.integers(1, 1000), weight=WEIGHTS)
def test_the_shares_that_must_be_left_have_all_the_noise(
    size: int, clip: float, multiplier: float, shares: int, weight: int
) -> None:
    grid = grid_for(size, clip, noise.SHARED_ROUNDING)
    sigma = share_sigma(size, clip, multiplier, grid, shares, weight)
    sensitivity = weight * (grid * clip * (1 + noise.SLACK) + math.sqrt(size))
    left = shares * (sigma**2 - noise.SMOOTHING**2)
    assert left == pytest.approx((multiplier * sensitivity) ** 2, rel=1e-6)
    assert sigma >= noise.SMOOTHING


@given(size=SIZES, clip=CLIPS, multiplier=MULTIPLIERS)
def test_one_share_of_one_is_the_whole_noise(size: int, clip: float, multiplier: float) -> None:
    grid = grid_for(size, clip)
    alone = grid_sigma(size, clip, multiplier, grid)
    assert share_sigma(size, clip, multiplier, grid, shares=1) == alone


@given(st.sampled_from([1, 4, 64, 1024]), st.integers(200, 500), st.integers(1, 50))
def test_the_worst_that_sums_and_roundings_can_do_together_is_covered(
    size: int, steps: int, weight: int
) -> None:
    """On a coarse grid, with a weight: as in local noise, but for one site's sum among others."""
    grid = 2.0**12
    clip = steps * math.sqrt(size) / grid
    assert grid_for(size, clip, noise.SHARED_ROUNDING) <= grid
    apart = clip * (1 + noise.SLACK) / math.sqrt(size)
    down = torch.full((size,), 0.4999 / grid, dtype=torch.float64)
    up = down + (math.floor(apart * grid) + 0.0002) / grid
    distance = weight * (noise.quantise(up, grid) - noise.quantise(down, grid))
    covered = share_sigma(size, clip, 1.0, grid, 1, weight)
    assert math.sqrt(float((distance**2).sum())) <= math.sqrt(covered**2 - noise.SMOOTHING**2)


def drawn(shares: int, sigma: float, count: int = 300_000) -> NDArray[np.int64]:
    total = np.zeros(count, np.int64)
    for site in range(shares):
        add_noise(total, sigma, NoiseSource.seeded(b"share %d" % site))
    return total


def p_of_variance(values: NDArray[np.int64], variance: float) -> float:
    """Two-sided p-value of the values' mean square, if they were Gaussian of that variance."""
    statistic = float(np.square(values, dtype=np.float64).sum()) / variance
    below = stats.chi2.cdf(statistic, len(values))
    return 2 * min(below, 1 - below)


@pytest.mark.parametrize("multiplier", [0.05, 1.0])
def test_the_sum_has_the_variance_that_was_asked_for_and_shows_a_missing_share(
    multiplier: float,
) -> None:
    """At 0.05 half of each share is smoothing, which the sum has as often as there are shares."""
    sigma = share_sigma(1, 1.0, multiplier, grid=128.0, shares=5, weight=2)
    asked = (multiplier * 2 * (128 * (1 + noise.SLACK) + 1)) ** 2
    expected = asked + 5 * noise.SMOOTHING**2
    assert p_of_variance(drawn(5, sigma), expected) > 1e-4
    assert p_of_variance(drawn(4, sigma), expected) < 1e-9
    assert p_of_variance(drawn(5, sigma), asked / 4 + 5 * noise.SMOOTHING**2) < 1e-9


@pytest.mark.parametrize("shares", [2, 3, 10])
@pytest.mark.parametrize("scale", [0.0, 0.5, 4.0])
def test_a_sum_of_smoothed_shares_is_a_discrete_gaussian(scale: float, shares: int) -> None:
    """`scale` is sigma before the smoothing; 0 is the worst there is."""
    assert from_gaussian(scale**2 + noise.SMOOTHING**2, shares) < 1e-14


@pytest.mark.parametrize("shares", [2, 3, 10])
def test_a_sum_of_shares_without_smoothing_is_none(shares: int) -> None:
    assert from_gaussian(0.5**2, shares) > 0.04
    assert from_gaussian(0.5**2, 2) == pytest.approx(0.08, abs=1e-3)


def test_the_proofs_figures() -> None:
    """The error of one addition, and what 10^8 numbers, 10^6 steps and 10^3 shares make of it."""
    error = 2.01 * math.exp(-2 * math.pi**2 * noise.SMOOTHING**2 / 2)
    assert error < 6e-39
    assert 2 * 3 * error * 1e8 * 1e6 * 1e3 < 1e-20


@pytest.mark.parametrize("error", [1e-3, 0.1, 0.3])
def test_normalising_costs_the_factor_that_the_proof_says(error: float) -> None:
    assert (1 + error) / (1 - error) <= math.exp(3 * error)


@pytest.mark.parametrize("shares", [2, 5])
@pytest.mark.parametrize("multiplier", [0.5, 2.0])
def test_a_sum_of_shares_costs_no_more_than_the_accountant_is_told(
    multiplier: float, shares: int
) -> None:
    """Hockey-stick divergence of two shifted sums is within the Gaussian mechanism's."""
    distance = 12
    sigma = math.hypot(multiplier * distance / math.sqrt(shares), noise.SMOOTHING)
    p = law_of_sum(law(sigma**2), shares)
    q = np.roll(p, distance)
    for epsilon in (0.0, 0.1, 0.5, 1.0, 2.0):
        found = float(np.maximum(p - math.exp(epsilon) * q, 0).sum())
        half, tilt = 1 / (2 * multiplier), epsilon * multiplier
        allowed = stats.norm.cdf(half - tilt) - math.exp(epsilon) * stats.norm.cdf(-half - tilt)
        assert found <= allowed + 1e-12


def test_a_grid_may_be_as_coarse_as_one_per_cent_and_alone_not() -> None:
    coarse = grid_for(10_000, 1.0, noise.SHARED_ROUNDING)
    assert 100 / coarse <= 0.01 < 100 / (coarse / 2)
    share_sigma(10_000, 1.0, 1.0, coarse, shares=3)
    with pytest.raises(PrivacyError, match=r"power of two of at least 16384\.0 "):
        share_sigma(10_000, 1.0, 1.0, coarse / 2, shares=3)
    with pytest.raises(PrivacyError, match=r"power of two of at least 262144\.0 "):
        grid_sigma(10_000, 1.0, 1.0, coarse)


@pytest.mark.parametrize("name", ["shares", "weight"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_share_of_nothing_is_refused(name: str, value: int) -> None:
    with pytest.raises(PrivacyError, match=f"{name}={value}"):
        share_sigma(10, 1.0, 1.0, 2.0**16, **{"shares": 3, "weight": 1, name: value})


@pytest.mark.parametrize("sigma", [1 / 16, 0.7, 3.0, 64.0, 1000.5, 2.0**23 + 1 / 3, 2.0**30])
def test_nothing_larger_than_largest_is_drawn(sigma: float) -> None:
    most = discrete_gaussian.largest(sigma)
    assert 13 * sigma <= most <= 13 * sigma + max(1, sigma / 64)
    table = discrete_gaussian._table(sigma)
    assert int(table.bucket.min()) << table.shift == -most
    assert ((int(table.bucket.max()) + 1) << table.shift) - 1 < most
    assert np.abs(drawn(1, sigma, 10_000)).max() <= most
