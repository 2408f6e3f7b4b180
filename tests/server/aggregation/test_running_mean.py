from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ModelError
from server.aggregation.norms import CHUNK, update_norm
from server.aggregation.running_mean import RunningMean

MAX_NORM = 1e4
STEP = 2.0**-36
"""What a value is rounded to under MAX_NORM, which is below 2^14."""

Updates = dict[str, np.ndarray]
Shares = dict[str, float]

cases = given(
    seed=st.integers(0, 1000),
    sites=st.integers(1, 12),
    size=st.sampled_from([0, 1, 5, 300, CHUNK + 3]),
    scale=st.floats(1e-6, 50),
)


def drawn(seed: int, sites: int, size: int, scale: float) -> tuple[Updates, Shares]:
    draws = np.random.default_rng(seed)
    shares = draws.dirichlet(np.ones(sites))
    updates = {
        f"s{n}": (draws.standard_normal(size) * scale / (1 + size) ** 0.5).astype(np.float32)
        for n in range(sites)
    }
    return updates, dict(zip(updates, map(float, shares), strict=True))


def mean(updates: Updates, shares: Shares, order: list[str]) -> np.ndarray:
    size = len(next(iter(updates.values())))
    total = RunningMean(size, shares, MAX_NORM)
    for site in order:
        assert total.add(site, updates[site]) == update_norm(updates[site])
    return total.result()


@cases
def test_it_is_the_weighted_mean(seed: int, sites: int, size: int, scale: float) -> None:
    updates, shares = drawn(seed, sites, size, scale)
    expected = sum(shares[site] * updates[site].astype(np.float64) for site in updates)
    found = mean(updates, shares, list(updates))
    np.testing.assert_allclose(found, expected, atol=STEP / 2 * sites, rtol=1e-14)


@cases
def test_the_order_of_arrival_changes_no_bit(
    seed: int, sites: int, size: int, scale: float
) -> None:
    updates, shares = drawn(seed, sites, size, scale)
    shuffled = [str(site) for site in np.random.default_rng(seed).permutation(list(updates))]
    first = mean(updates, shares, list(updates))
    for order in (list(reversed(updates)), shuffled):
        assert mean(updates, shares, order).tobytes() == first.tobytes()


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=8))
def test_the_sum_of_what_was_rounded_is_exact(values: list[float]) -> None:
    shares = {str(n): 1 / len(values) for n in range(len(values))}
    total = RunningMean(1, shares, MAX_NORM)
    for site, value in zip(shares, values, strict=True):
        total.add(site, np.array([value], np.float32))
    rounded = [round(Fraction(v * shares["0"]) / Fraction(STEP)) for v in values]
    expected = float(sum(rounded) * Fraction(STEP))
    assert total.result()[0] == pytest.approx(expected, rel=1e-15, abs=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, 2e4])
def test_what_is_not_sound_is_refused_and_leaves_no_bit_behind(value: float) -> None:
    updates, shares = drawn(1, 3, CHUNK + 3, 1.0)
    bad = np.full(CHUNK + 3, 0.25, np.float32)
    bad[[3, CHUNK + 1]] = value
    total = RunningMean(CHUNK + 3, shares, MAX_NORM)
    total.add("s0", updates["s0"])
    with pytest.raises(ModelError, match="not finite|exceeds"):
        total.add("s1", bad)
    total.add("s2", updates["s2"])
    assert total.result().tobytes() == mean(updates, shares, ["s0", "s2"]).tobytes()


def test_sites_left_out_do_not_shrink_the_mean() -> None:
    total = RunningMean(2, {"a": 0.25, "b": 0.75}, MAX_NORM)
    total.add("a", np.array([1, 2], np.float32))
    np.testing.assert_allclose(total.result(), [1, 2])


def test_no_weight_has_no_mean() -> None:
    total = RunningMean(3, {"a": 0.0, "b": 1.0}, MAX_NORM)
    total.add("a", np.ones(3, np.float32))
    with pytest.raises(ModelError, match="positive weight"):
        total.result()


@pytest.mark.parametrize("bound", [2.0**20, 1e4, 1.0, 1e-6])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_updates_that_are_accepted_do_not_overflow(bound: float, sign: int) -> None:
    largest = np.array([sign * bound], np.float32)
    if update_norm(largest) > bound:
        largest = np.nextafter(largest, np.float32(0))
    shares = {str(n): 1 / 8 for n in range(8)}
    total = RunningMean(1, shares, bound)
    for site in shares:
        total.add(site, largest)
    np.testing.assert_allclose(total.result(), largest, rtol=1e-8)


@pytest.mark.parametrize(
    ("max_norm", "step"), [(0.3, 2.0**-49), (1.0, 2.0**-49), (2.0, 2.0**-48), (7.9, 2.0**-47)]
)
def test_a_value_is_rounded_to_what_the_largest_norm_asks_for(max_norm: float, step: float) -> None:
    total = RunningMean(4, {"s": 1.0}, max_norm)
    total.add("s", np.array([step, -3 * step, step / 4, 0], np.float32))
    assert total.result().tolist() == [step, -3 * step, 0, 0]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_named_without_a_warning_though_it_counts_for_nothing(
    value: float,
) -> None:
    total = RunningMean(2, {"s": 0.0, "t": 1.0}, 10.0)
    with pytest.raises(ModelError, match="the update is not finite"):
        total.add("s", np.array([value, 1.0], np.float32))
    total.add("t", np.array([1.0, 2.0], np.float32))
    assert total.result().tolist() == [1.0, 2.0]
