"""A sum in integers: it fits, it does not wrap, and it is the sum."""

import dataclasses
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
    bounds = [weight * limit(one, expected) for expected, weight in sites]
    most = sum(bounds) + len(sites) * largest(one.sigma)
    assert 2 ** (one.bits - 2) <= most < 2 ** (one.bits - 1)
    assert one.bound == max(bounds)
    shares = len(sites) - 1
    assert one.sigma == share_sigma(size, clip, multiplier, one.grid, shares, max(weights))
    assert one.dtype == (np.uint32 if one.bits <= 32 else np.uint64)


@given(sites=SITES, size=st.integers(1, 10**8), clip=st.floats(1e-3, 1e3))
@settings(max_examples=200)
def test_the_grid_is_the_finest_that_fits_32_bits_at_one_per_cent(
    sites: list[tuple[float, int]], size: int, clip: float
) -> None:
    units, weights = zip(*sites, strict=True)
    one = integer_sum(size, clip, 1.0, 2, units, weights)
    finest, coarsest = grid_for(size, clip), grid_for(size, clip, noise.SHARED_ROUNDING)
    most = sum(weight * limit(one, expected) for expected, weight in sites)
    most += len(sites) * largest(one.sigma)
    assert coarsest <= one.grid <= finest
    assert math.sqrt(size) <= 0.01 * clip * one.grid
    if one.bits > 32:
        assert one.grid == coarsest
    elif one.grid < finest:
        assert 2 * most >= 2**30.9, "twice as fine would not have fitted"


def test_noise_too_large_for_fine_steps_is_drawn_in_coarser_ones() -> None:
    weights = (200, 1, 1)
    found = constants(size=11_200_000, units=(64.0,) * 3, weights=weights, multiplier=1.0)
    assert found.grid < grid_for(11_200_000, 1.0)


def test_the_three_cases_of_the_grid() -> None:
    """A head; a ResNet-18 of ten sites; of a hundred."""
    head = constants(size=6_000, units=(50.0,) * 5, weights=(1,) * 5)
    assert (head.grid, head.dtype) == (grid_for(6_000, 1.0), np.uint32)
    ten = constants(size=11_200_000, units=(64.0,) * 10, weights=(1,) * 10)
    assert (ten.grid, ten.dtype) == (grid_for(11_200_000, 1.0) / 8, np.uint32)
    hundred = constants(size=11_200_000, units=(64.0,) * 100, weights=(1,) * 100)
    assert (hundred.grid, hundred.dtype) == (grid_for(11_200_000, 1.0) / 16, np.uint64)
    assert hundred.bits == 35


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
def test_all_sites_at_their_bounds_do_not_wrap(clip: float, units: float) -> None:
    one = constants(4, clip, 2.0, 3, (units,) * 4, (1, 3, 7, 7))
    huge = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64) * 2.0**51 / one.grid
    total, plain = np.zeros(4, one.dtype), np.zeros(4, np.int64)
    for weight in (1, 3, 7, 7):
        values = one.encode(huge, weight, units)
        assert np.array_equal(np.abs(values), np.full(4, weight * limit(one, units)))
        values += np.sign(values) * largest(one.sigma)
        plain += values
        total += one.wrap(values)
    assert np.abs(plain).min() < 2 ** (one.bits - 1)
    assert np.array_equal(one.decode(total), (plain / one.grid).astype(np.float32))


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
    expected = np.rint(total.numpy().astype(np.float64) * one.grid) * 5
    weighted = constants(weights=(5, 1, 1))
    assert weighted.grid == one.grid
    assert np.array_equal(weighted.encode(total, 5, 10.0), expected)


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
