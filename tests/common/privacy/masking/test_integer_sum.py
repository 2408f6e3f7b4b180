"""A sum in integers: it fits, it does not wrap, and it is the sum."""

import dataclasses
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import poisson

from common.errors import PrivacyError
from common.privacy import noise
from common.privacy.discrete_gaussian import largest
from common.privacy.masking.integer_sum import IntegerSum, integer_sum
from common.privacy.masking.masks import add_mask
from common.privacy.noise import NoiseSource, add_noise, grid_for, share_sigma
from common.wire.packed_integers import pack, unpack

SITES = st.lists(st.tuples(st.floats(0, 500), st.integers(1, 20)), min_size=2, max_size=40)


def constants(
    size: int = 50,
    clip: float = 1.0,
    multiplier: float = 1.0,
    shares: int = 2,
    units: tuple[float, ...] = (10.0, 20.0, 30.0),
    weights: tuple[int, ...] = (1, 1, 1),
) -> IntegerSum:
    return integer_sum(size, clip, multiplier, shares, units, weights)


def limit(one: IntegerSum, expected: float) -> int:
    """B_i as the module's text has it."""
    return math.ceil(one.max_grad_norm * one.grid * (expected + 12 * math.sqrt(expected) + 12))


def together(one: IntegerSum, units: tuple[float, ...], weights: tuple[int, ...]) -> int:
    """U as the module's text has it."""
    mean = 1.25 * sum(weight * mu for weight, mu in zip(weights, units, strict=True))
    square = 1.25 * sum(weight**2 * mu for weight, mu in zip(weights, units, strict=True))
    return math.ceil(
        one.max_grad_norm * one.grid * (mean + 12 * math.sqrt(square) + 12 * max(weights))
    )


def most(one: IntegerSum, units: tuple[float, ...], weights: tuple[int, ...]) -> int:
    """T as the module's text has it."""
    bounds = [weight * limit(one, mu) for weight, mu in zip(weights, units, strict=True)]
    noises = len(weights) * largest(one.sigma)
    return min(sum(bounds), together(one, units, weights)) + sum(weights) + noises


@given(
    sites=SITES,
    size=st.integers(1, 10**7),
    clip=st.floats(1e-3, 1e3),
    multiplier=st.floats(0.3, 2),
)
@settings(max_examples=200)
def test_nothing_can_wrap_and_a_bit_less_could(
    sites: list[tuple[float, int]], size: int, clip: float, multiplier: float
) -> None:
    units, weights = zip(*sites, strict=True)
    one = integer_sum(size, clip, multiplier, len(sites) - 1, units, weights)
    assert 2 ** (one.bits - 2) <= most(one, units, weights) < 2 ** (one.bits - 1)
    assert one.bound == max(weight * limit(one, expected) for expected, weight in sites)
    shares = len(sites) - 1
    assert one.sigma == share_sigma(size, clip, multiplier, one.grid, shares, max(weights))
    assert one.dtype == (np.uint32 if one.bits <= 32 else np.uint64)
    noise_norm = one.sigma * math.sqrt(len(sites)) * (math.sqrt(size) + 13)
    norm = together(one, units, weights) + sum(weights) * math.sqrt(size) / 2 + noise_norm
    assert one.norm == pytest.approx(norm / one.grid)


def test_there_is_room_for_the_roundings_too() -> None:
    """The largest clipping norm with which the sum fits in 32 bits at a grid."""
    units, weights = (3.0,) * 40, (1_000,) * 40
    small, large = 1.0, 2.0

    def at(clip: float) -> IntegerSum:
        return integer_sum(1, clip, 1e-4, 40, units, weights)

    grid = at(small).grid
    assert at(large).grid < grid
    while math.nextafter(small, large) < large:
        middle = (small + large) / 2
        small, large = (middle, large) if at(middle).grid == grid else (small, middle)
    assert 2**31 - sum(weights) < most(at(small), units, weights) < 2**31


@given(sites=SITES, size=st.integers(1, 10**8), clip=st.floats(1e-3, 1e3))
@settings(max_examples=200)
def test_the_grid_is_the_finest_that_fits_32_bits_at_one_per_cent(
    sites: list[tuple[float, int]], size: int, clip: float
) -> None:
    units, weights = zip(*sites, strict=True)
    one = integer_sum(size, clip, 1.0, 2, units, weights)
    coarsest, grid = grid_for(size, clip, noise.SHARED_ROUNDING), 2 * one.grid
    assert one.grid >= coarsest and math.sqrt(size) <= 0.01 * clip * one.grid
    if one.bits > 32:
        assert one.grid == coarsest
    else:
        sigma = share_sigma(size, clip, 1.0, grid, 2, max(weights))
        finer = dataclasses.replace(one, grid=grid, sigma=sigma)
        assert most(finer, units, weights) >= 2**31, "twice as fine would not have fitted"


@pytest.mark.parametrize("size", [6_000, 11_200_000])
@pytest.mark.parametrize("sites", [3, 5, 10, 30, 100, 1_000])
def test_512_units_a_round_fit_32_bits_however_many_sites_share_them(size: int, sites: int) -> None:
    """A head on features, and a ResNet-18."""
    units, weights = (512 / sites,) * sites, (1,) * sites
    one = constants(size=size, shares=sites - 1, units=units, weights=weights)
    assert (one.bits, one.dtype) == (32, np.uint32)


def test_a_sum_that_no_grid_fits_into_32_bits_takes_the_coarsest() -> None:
    one = constants(size=11_200_000, units=(64.0,) * 3, weights=(200, 1, 1))
    coarsest = grid_for(11_200_000, 1.0, noise.SHARED_ROUNDING)
    assert (one.grid, one.bits, one.dtype) == (coarsest, 36, np.uint64)


@pytest.mark.parametrize(
    ("units", "weights"),
    [
        ((0.01,), (1,)),
        ((2.5,), (1,)),
        ((4.0,), (3,)),
        ((1e4,), (1,)),
        ((0.5,) * 40, (1,) * 40),
        ((0.1, 2.0, 4.0), (1, 3, 7)),
        ((30.0, 0.01, 3.0), (1, 20, 2)),
    ],
)
def test_more_units_than_there_is_room_for_come_once_in_1e24_rounds(
    units: tuple[float, ...], weights: tuple[int, ...]
) -> None:
    """Each site has 1.25 times what it declares; all gradients lie in one number."""
    one = constants(shares=1, units=units, weights=weights)
    room = together(one, units, weights) / one.grid
    whole = math.floor(room) + 1
    chances = np.array([1.0])
    for mu, weight in zip(units, weights, strict=True):
        drawn = np.zeros(10 * whole)
        drawn[::weight] = poisson.pmf(np.arange(len(drawn[::weight])), 1.25 * mu)
        chances = np.convolve(chances, drawn)[: 10 * whole]
    assert 0 < chances[whole:].sum() < 1e-24
    assert chances[round(0.4 * room) :].sum() > 1e-24, "not for want of any units"


@pytest.mark.parametrize("size", [5, 6_000])
@pytest.mark.parametrize("many", [1.0, 1e7])
@given(sites=SITES, clip=st.floats(1e-3, 1e3), seed=st.integers(0, 99), order=st.randoms())
@settings(max_examples=12, deadline=None)
def test_the_decoded_sum_is_the_plain_integer_sum(
    size: int,
    many: float,
    sites: list[tuple[float, int]],
    clip: float,
    seed: int,
    order: random.Random,
) -> None:
    """From each site's clipped sum to the server, with noise, masks, packing, in any order."""
    sites = [(many * (1 + expected), weight) for expected, weight in sites]
    units, weights = zip(*sites, strict=True)
    one = integer_sum(size, clip, 0.5, len(sites) - 1, units, weights)
    assert many == 1 or one.dtype == np.uint64
    rng = np.random.default_rng(seed)
    plain, uploads = np.zeros(size, np.int64), []
    for number, (expected, weight) in enumerate(sites):
        total = torch.from_numpy(rng.normal(0, clip, size) * min(expected, 1e4))
        values = one.encode(total, weight, expected)
        add_noise(values, one.sigma, NoiseSource.seeded(b"%d" % number))
        plain += values
        words = one.wrap(values)
        keys = (bytes([place % len(sites)]) * 32 for place in (number, number + 1))
        add_mask(words, zip(keys, (1, -1), strict=True))
        uploads.append(pack(words, one.bits))
    order.shuffle(uploads)
    total_words = np.zeros(size, one.dtype)
    for upload in uploads:
        total_words += unpack(upload, size, one.bits)
    assert np.array_equal(one.decode(total_words), (plain / one.grid).astype(np.float32))


@pytest.mark.parametrize("bits", [29, 32, 33, 37, 63, 64])
def test_the_ends_of_the_range_come_back(bits: int) -> None:
    one = dataclasses.replace(constants(), bits=bits, grid=2.0**-3)
    half = 2 ** (bits - 1)
    values = np.array([-half, -half + 1, -1, 0, 1, half - 1], np.int64)
    words = one.wrap(values)
    assert words.dtype == one.dtype and int(words.max()) < 2**bits
    assert np.array_equal(one.decode(words), (values * 8.0).astype(np.float32))
    junk = one.dtype(2 ** (8 * words.itemsize) - 2**bits)
    assert np.array_equal(one.decode(words | junk), one.decode(words)), "bits above do not count"


@pytest.mark.parametrize(("clip", "units"), [(1.0, 10.0), (1.0, 1e7), (100.0, 300.0)])
@pytest.mark.parametrize("alike", [1, 40])
def test_all_units_in_one_number_under_the_largest_noise_do_not_wrap(
    clip: float, units: float, alike: int
) -> None:
    weights = (1, 3, 7, 7) * alike
    one = constants(4, clip, 2.0, 3, (units,) * len(weights), weights)
    bounds = sum(weights) * limit(one, units)
    room = min(bounds, together(one, (units,) * len(weights), weights))
    each = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    each *= room / sum(weights) / one.grid
    total, plain = np.zeros(4, one.dtype), np.zeros(4, np.int64)
    for weight in weights:
        values = one.encode(each, weight, units)
        values += np.sign(values) * largest(one.sigma)
        plain += values
        total += one.wrap(values)
    assert np.abs(plain).min() < 2 ** (one.bits - 1)
    assert np.abs(plain).min() >= room - sum(weights)
    assert np.array_equal(one.decode(total), (plain / one.grid).astype(np.float32))


@pytest.mark.parametrize("spread", [1.0, -1.0])
def test_a_site_beyond_its_bound_is_clamped_to_it(spread: float) -> None:
    one = constants(weights=(1, 3, 7))
    huge = torch.full((50,), spread * 2.0**51 / one.grid, dtype=torch.float64)
    for weight, units in ((1, 10.0), (3, 20.0), (7, 30.0)):
        assert np.all(one.encode(huge, weight, units) == spread * weight * limit(one, units))


@given(
    size=st.integers(1, 60),
    clip=st.floats(1e-2, 1e2),
    expected=st.floats(0, 30),
    weight=st.integers(1, 9),
    spread=st.floats(0.1, 100),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=80)
def test_clamping_keeps_the_sensitivity(
    size: int, clip: float, expected: float, weight: int, spread: float, seed: int
) -> None:
    """However far beyond the bound the sums are, one unit moves what is sent by at most W D."""
    one = integer_sum(size, clip, 1.0, 1, (expected,), (weight,))
    rng = np.random.default_rng(seed)
    less = rng.normal(0, spread * clip * (1 + expected), size)
    unit = rng.standard_normal(size)
    more = less + unit * clip / np.linalg.norm(unit)
    one_unit = [one.encode(torch.from_numpy(total), weight, expected) for total in (less, more)]
    distance = float(np.linalg.norm(one_unit[1] - one_unit[0]))
    assert distance <= math.sqrt(one.sigma**2 - noise.SMOOTHING**2)
    assert np.abs(one_unit).max() <= weight * limit(one, expected)


def test_a_sum_within_the_bound_is_rounded_and_nothing_else() -> None:
    one = constants()
    total = torch.linspace(-40, 40, 50)
    weighted = constants(weights=(5, 1, 1))
    for of, weight in ((one, 1), (weighted, 5)):
        expected = np.rint(total.numpy().astype(np.float64) * of.grid) * weight
        assert np.array_equal(of.encode(total, weight, 10.0), expected)


@pytest.mark.parametrize(("weight", "expected"), [(2, 30.0), (1, 30.1), (0, 10.0), (-1, 10.0)])
def test_a_site_that_the_constants_have_no_room_for_is_refused(
    weight: int, expected: float
) -> None:
    with pytest.raises(PrivacyError, match=f"weight {weight} that expects {expected:g} units"):
        constants().encode(torch.zeros(50), weight, expected)


def test_another_length_and_what_is_not_finite_are_refused() -> None:
    with pytest.raises(PrivacyError, match="has 49 numbers; expected 50"):
        constants().encode(torch.zeros(49), 1, 10.0)
    with pytest.raises(PrivacyError, match="nothing was released"):
        constants().encode(torch.full((50,), math.nan), 1, 10.0)


@pytest.mark.parametrize(
    ("given_", "match"),
    [
        ({"shares": 0}, "0 shares of 3 weights"),
        ({"shares": 4}, "4 shares of 3 weights"),
        ({"weights": (1, 1)}, "2 weights and 3 expected"),
        ({"weights": (1, 0, 1)}, "whole numbers of at least 1"),
        ({"units": (1.0, -1.0, 1.0)}, "finite numbers of at least 0"),
        ({"units": (1.0, math.nan, 1.0)}, "finite numbers of at least 0"),
        ({"units": (1.0, math.inf, 1.0)}, "finite numbers of at least 0"),
        ({"clip": 0.0}, "max_grad_norm=0.0"),
        ({"multiplier": math.nan}, "noise_multiplier=nan"),
        ({"units": (1e17, 1.0, 1.0)}, "needs [67][0-9] bits, and 64 is the most"),
    ],
)
def test_constants_that_make_no_sum_are_refused(given_: dict[str, object], match: str) -> None:
    with pytest.raises(PrivacyError, match=match):
        constants(**given_)
