"""The mechanism at its edges, held against what the proof and the documents say, not the code."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import PrivacyError
from common.privacy import noise
from common.privacy.noise import NoiseSource, count_sigma, grid_for, grid_sigma, privatise


def seeded() -> NoiseSource:
    return NoiseSource.seeded(b"bounds")


def covered(size: int, clip: float, grid: float) -> float:
    """The L2 distance, in grid steps, that noise of multiplier 1 is wide enough for."""
    return math.sqrt(grid_sigma(size, clip, 1.0, grid) ** 2 - noise.SMOOTHING**2)


@given(st.sampled_from([1, 4, 64, 1024]), st.integers(2000, 5000), st.sampled_from([-3, 0, 5]))
def test_the_worst_that_sums_and_roundings_can_do_together_is_covered(
    size: int, steps: int, power: int
) -> None:
    """Every number of the one sum is rounded down by a half and of the other up, and the sums lie
    as far apart as the proof lets them."""
    grid = 2.0 ** (power + 12)
    clip = steps * math.sqrt(size) / grid
    assert grid_for(size, clip) <= grid
    apart = clip * (1 + noise.SLACK) / math.sqrt(size)
    down = torch.full((size,), 0.4999 / grid, dtype=torch.float64)
    # The other sum is moved on to the next half, where it is rounded up.
    up = down + (math.floor(apart * grid) + 0.0002) / grid
    distance = noise.quantise(up, grid) - noise.quantise(down, grid)
    reach = math.sqrt(float((distance**2).sum()))
    assert reach > clip * grid, "roundings do add up"
    assert reach <= covered(size, clip, grid)
    assert covered(size, clip, grid) == pytest.approx(
        clip * grid * (1 + noise.SLACK) + math.sqrt(size), rel=1e-9
    )


def test_the_smoothing_is_as_wide_as_the_proof_counts_on() -> None:
    assert 2.01 * math.exp(-2 * math.pi**2 * noise.SMOOTHING**2) < 1e-76


def test_what_it_all_costs_in_accuracy_is_what_the_documents_say() -> None:
    for size, clip in ((1, 1.0), (5_000, 0.1), (11_200_000, 1.0)):
        grid = grid_for(size, clip)
        assert 1 < grid_sigma(size, clip, 1.0, grid) / (grid * clip) <= 1.0015 + 1e-5


@pytest.mark.parametrize("clip", [1.0, 0.37, 1e-3])
def test_the_grid_is_the_coarsest_that_rounding_allows(clip: float) -> None:
    grid = grid_for(300, clip)
    assert math.sqrt(300) / grid <= 5e-4 * clip < math.sqrt(300) / (grid / 2)
    grid_sigma(300, clip, 1.0, grid)
    with pytest.raises(PrivacyError, match=f"power of two of at least {grid}"):
        grid_sigma(300, clip, 1.0, grid / 2)


def test_a_grid_at_the_bound_to_the_last_bit_is_taken() -> None:
    assert grid_for(1, 2000 / 2048) == 2048
    grid_sigma(1, 2000 / 2048, 1.0, 2048.0)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf])
def test_no_grid_is_there_for_a_norm_that_bounds_nothing(clip: float) -> None:
    with pytest.raises(PrivacyError, match="max_grad_norm=.*: expected a finite number above 0"):
        grid_for(10, clip)


@pytest.mark.parametrize("grid", [0.0, -2.0, math.nan, math.inf, 3 * 2.0**20])
def test_a_grid_that_is_no_power_of_two_is_refused(grid: float) -> None:
    with pytest.raises(PrivacyError, match="grid="):
        grid_sigma(10, 1.0, 1.0, grid)


def test_numbers_count_up_to_where_the_grid_is_no_longer_exact() -> None:
    """2^52 grid steps: beyond that a float64 has no half to round."""
    kept = {"max_grad_norm": 1.0, "noise_multiplier": 1.0, "grid": 2.0**15}
    last = (2.0**52 - 1) / 2**15
    for sign in (-1, 1):
        within = torch.full((4,), sign * last, dtype=torch.float64)
        found = privatise(within, source=seeded(), **kept)
        assert torch.allclose(found, within.float())
        beyond = torch.full((4,), sign * 2.0**52 / 2**15, dtype=torch.float64)
        with pytest.raises(PrivacyError, match=r"a number beyond 1\.37e\+11; nothing was released"):
            privatise(beyond, source=seeded(), **kept)


def test_a_float64_sum_is_rounded_once_and_comes_back_as_float32() -> None:
    total = torch.tensor([1 + 2.0**-30, -3.25, 0.0], dtype=torch.float64)
    grid = 2.0**40
    noisy = privatise(total, max_grad_norm=1e-3, noise_multiplier=1e-9, source=seeded(), grid=grid)
    assert noisy.dtype == torch.float32
    assert torch.allclose(noisy.double(), total, atol=1e-7)


def test_the_noise_of_counts_grows_with_what_one_unit_adds_and_with_the_multiplier() -> None:
    for cells, multiplier in ((1.0, 0.5), (8.0, 0.5), (8.0, 30.0), (100.0, 2.0)):
        sigma = count_sigma(cells, multiplier)
        assert sigma**2 == pytest.approx((cells * multiplier) ** 2 + noise.SMOOTHING**2)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_counts_without_a_bound_or_a_multiplier_get_no_noise_that_means_nothing(
    value: float,
) -> None:
    with pytest.raises(PrivacyError, match=f"sensitivity={value}: expected a finite number"):
        count_sigma(value, 1.0)
    with pytest.raises(PrivacyError, match=f"noise_multiplier={value}: expected a finite number"):
        count_sigma(1.0, value)
