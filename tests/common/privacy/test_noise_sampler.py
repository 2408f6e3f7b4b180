"""The discrete Gaussian: its law, its edges, and the comparison that makes it exact."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from common.errors import PrivacyError
from common.privacy import discrete_gaussian as sampler
from common.privacy.discrete_gaussian import MAX_SIGMA, MIN_SIGMA, REACH, discrete_gaussian
from common.privacy.noise_source import NoiseSource

SIGMAS = st.floats(MIN_SIGMA, 2.0**26)


def source(name: str = "noise") -> NoiseSource:
    return NoiseSource.seeded(name.encode())


def pmf(sigma: float, reach: int) -> np.ndarray:
    """N_Z(0, sigma^2) on -reach..reach, normalised over all of Z."""
    x = np.arange(-20 * max(1, int(sigma)) - reach, 20 * max(1, int(sigma)) + reach + 1)
    weight = np.exp(-np.square(x / sigma) / 2)
    return weight[np.abs(x) <= reach] / weight.sum()


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0, 2.7, 10.0, 63.9, 64.0, 128.0, 200.0])
def test_goodness_of_fit_at_every_integer(sigma: float) -> None:
    n = 400_000
    drawn = discrete_gaussian(n, sigma, source(f"fit {sigma}"))
    reach = int(5 * sigma) + 1
    expected = n * pmf(sigma, reach)
    counts = np.bincount(drawn[np.abs(drawn) <= reach] + reach, minlength=2 * reach + 1)
    often = expected >= 10
    counts, expected = counts[often], expected[often]
    statistic = np.sum(np.square(counts - expected) / expected)
    assert stats.chi2.sf(statistic, len(counts)) > 1e-6


def test_a_narrow_draw_is_all_but_always_zero() -> None:
    assert not discrete_gaussian(100_000, MIN_SIGMA, source()).any()


@pytest.mark.parametrize("sigma", [1000.0, 2.0**20 * 1.99, 6.6e7, MAX_SIGMA])
def test_large_sigma_has_the_moments_and_tails_of_the_gaussian(sigma: float) -> None:
    n = 2_000_000
    x = discrete_gaussian(n, sigma, source(f"moments {sigma}")) / sigma
    moments = [x.mean(), np.mean(x**2), np.mean(x**3), np.mean(x**4)]
    for value, expected, variance in zip(moments, (0, 1, 0, 3), (1, 2, 15, 96), strict=True):
        assert value == pytest.approx(expected, abs=5 * np.sqrt(variance / n))
    for k in (0.5, 1, 2, 3, 4):
        share = 2 * stats.norm.sf(k)
        assert np.mean(np.abs(x) > k) == pytest.approx(share, abs=5 * np.sqrt(share / n) + 1e-6)
    assert stats.kstest(x[:500_000], "norm").pvalue > 1e-6


def test_the_low_bits_of_a_wide_draw_are_uniform() -> None:
    drawn = discrete_gaussian(500_000, 2.0**20, source("low bits"))
    for modulus in (2, 3, 256):
        assert stats.chisquare(np.bincount(drawn % modulus, minlength=modulus)).pvalue > 1e-6


def test_draws_are_independent_within_a_call_and_across_calls() -> None:
    n = 1_000_000
    one = NoiseSource.secure()
    a, b = discrete_gaussian(n, 1e6, one) / 1e6, discrete_gaussian(n, 1e6, one) / 1e6
    c = discrete_gaussian(n, 1e6, NoiseSource.secure()) / 1e6
    for left, right in [(a, b), (a, c), (a[1:], a[:-1]), (a**2 - 1, np.roll(a, 7) ** 2 - 1)]:
        assert abs(np.mean(left * right)) < 12 / np.sqrt(n)


@given(sigma=SIGMAS)
@settings(max_examples=40)
def test_the_table_never_accepts_too_early(sigma: float) -> None:
    """At each end of each bucket: quick bound <= p <= 1, and p * n_b is K times the law."""
    table = sampler._table(sigma)
    first = np.flatnonzero(np.diff(table.bucket, prepend=table.bucket[0] - 1))
    assert table.share[first].sum() == len(table.bucket) == 1 << 16
    bucket = table.bucket[first].astype(np.int64)
    assert bucket[0] << table.shift <= -REACH * sigma
    assert (bucket[-1] + 1) << table.shift >= REACH * sigma
    assert np.array_equal(np.diff(bucket), np.ones(len(bucket) - 1))
    for x in (bucket << table.shift, ((bucket + 1) << table.shift) - 1):
        p = np.exp(-np.square(x / sigma) / 2) * table.scale / table.share[first]
        assert np.all(p <= 1)
        assert np.all(table.quick[first] * 2.0**-24 <= p)


@given(sigma=SIGMAS, place=st.floats(-4, 4), offset=st.sampled_from([-1, 1]))
@settings(max_examples=40)
def test_settling_a_close_comparison_is_exact(sigma: float, place: float, offset: int) -> None:
    table = sampler._table(sigma)
    x, share = round(place * sigma), 3
    with localcontext() as context:
        context.prec = 120
        p = (-((Decimal(x) / Decimal(sigma)) ** 2) / 2).exp() * Decimal(table.scale) / share
        numerator = int(p * 2**88)
    assert sampler._settle(table, x, share, numerator + offset, source()) is (offset < 0)


def test_settling_a_tie_draws_more_bits_with_the_right_odds() -> None:
    table, bits = sampler._table(1000.0), source("ties")
    with localcontext() as context:
        context.prec = 120
        p = (-((Decimal(777) / 1000) ** 2) / 2).exp() * Decimal(table.scale) / 500
        numerator = int(p * 2**88)
        odds = float(p * 2**88 - numerator)
    accepted = [sampler._settle(table, 777, 500, numerator, bits) for _ in range(2000)]
    assert np.mean(accepted) == pytest.approx(odds, abs=5 * np.sqrt(0.25 / 2000))


def test_float_and_decimal_comparisons_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = discrete_gaussian(20_000, 12_345.6, source())
    monkeypatch.setattr(sampler, "_MARGIN", 2.0**60)
    assert np.array_equal(discrete_gaussian(20_000, 12_345.6, source()), usual)


@pytest.mark.parametrize("n", [0, 1, 2, 31, 32_768, 100_001])
def test_any_number_of_values(n: int) -> None:
    drawn = discrete_gaussian(n, 50.0, NoiseSource.secure())
    assert drawn.shape == (n,) and drawn.dtype == np.int64


@pytest.mark.parametrize(
    ("n", "sigma"), [(-1, 1.0), (1, 0.0), (1, -1.0), (1, float("nan")), (1, 2 * MAX_SIGMA)]
)
def test_bounds_are_named(n: int, sigma: float) -> None:
    with pytest.raises(PrivacyError, match="expected n >= 0"):
        discrete_gaussian(n, sigma, source())
