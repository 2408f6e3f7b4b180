"""Units stay whole in chunks, and a factor never lifts a norm above the bound."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import poisson

from common.errors import PrivacyError
from common.privacy.clipping import ClipRule
from common.privacy.clipping.chunking import Chunk, _chunks_expected, chunk_rows, chunks
from common.privacy.clipping.clip_rule import LARGEST_NORM

many_groups = st.lists(st.integers(-3, 8), max_size=40)


@settings(max_examples=60)
@given(groups=many_groups, limit=st.integers(1, 12), views=st.integers(1, 3))
def test_chunks_hold_each_row_once_and_each_unit_whole(
    groups: list[int], limit: int, views: int
) -> None:
    units = torch.tensor(groups, dtype=torch.int64)
    seen: dict[int, list[int]] = {}
    for chunk in chunks(units, len(groups), limit, views):
        assert chunk.units == 1 or chunk.rows.numel() <= limit
        assert not chunk.weights[chunk.units :].any()
        rectangle = zip(chunk.rows, chunk.weights, range(chunk.units), strict=False)
        for rows, weights, _ in rectangle:
            assert float(weights.sum()) == pytest.approx(1)
            unit = groups[int(rows[0])]
            assert unit not in seen
            assert all(groups[int(row)] == unit for row in rows)
            seen[unit] = sorted(rows[weights > 0].tolist())
    assert seen == {
        unit: [row for row, other in enumerate(groups) if other == unit] for unit in set(groups)
    }


def chunk_of(unit: int, groups: list[int], limit: int, views: int) -> Chunk:
    """The one that the unit is in."""
    found = [
        chunk
        for chunk in chunks(torch.tensor(groups), len(groups), limit, views)
        if any(groups[int(row)] == unit for row in chunk.rows[: chunk.units, 0])
    ]
    assert len(found) == 1
    return found[0]


@settings(max_examples=100)
@given(
    own=st.integers(1, 12),
    company=many_groups,
    others=many_groups,
    limit=st.integers(1, 12),
    views=st.integers(1, 3),
)
def test_the_shape_a_unit_is_computed_in_is_its_own(
    own: int, company: list[int], others: list[int], limit: int, views: int
) -> None:
    unit = 99
    one = chunk_of(unit, [*company, *[unit] * own], limit, views)
    two = chunk_of(unit, [*[unit] * own, *others], limit, views)
    assert one.rows.shape == two.rows.shape
    assert one.weights.shape == two.weights.shape
    if own <= views <= limit:
        assert one.rows.shape[1] == views, "all views of an image, and no more"


@given(batch=st.integers(0, 30), limit=st.integers(1, 12))
def test_rows_that_are_units_stay_in_order(batch: int, limit: int) -> None:
    found = list(chunks(None, batch, limit))
    there = [row for chunk in found for row in chunk.rows[: chunk.units, 0].tolist()]
    assert there == list(range(batch))
    assert {len(chunk.rows) for chunk in found} <= {limit}
    upwards = chunks(3 * torch.arange(batch), batch, limit)
    downwards = chunks(torch.arange(batch).flip(0), batch, limit)
    for chunk, up, down in zip(found, upwards, downwards, strict=True):
        assert torch.equal(chunk.rows, up.rows) and torch.equal(chunk.rows, batch - 1 - down.rows)
        assert torch.equal(chunk.weights, up.weights) and torch.equal(chunk.weights, down.weights)
        assert chunk.units == up.units == down.units
        if chunk.run is not None:
            assert chunk.rows.flatten().tolist() == list(range(batch))[chunk.run]


@pytest.mark.parametrize(("limit", "views"), [(0, 1), (4, 0)])
def test_no_chunk_is_without_rows(limit: int, views: int) -> None:
    with pytest.raises(PrivacyError, match=rf"chunk={limit} >= 1 rows and views={views} >= 1"):
        list(chunks(None, 3, limit, views))


@given(expected=st.floats(0, 5000) | st.just(1e18), most=st.sampled_from([1, 3, 16, 32, 1024]))
def test_a_chunk_suits_the_batch_that_is_expected(expected: float, most: int) -> None:
    rows = chunk_rows(expected, most)
    assert 1 <= rows <= most
    assert most < 8 or rows % (most // 8) == 0
    if expected + 4 * math.sqrt(expected) < most / 8 and most >= 8:
        assert rows == most // 8, "no larger than it must be"
    if expected > 100 * most:
        assert rows == most


@pytest.mark.parametrize("expected", [20.0, 33.0, 100.0, 640.0])
@pytest.mark.parametrize("rows", [1, 4, 30, 90, 128])
def test_chunks_are_counted_as_a_poisson_batch_has_them(expected: float, rows: int) -> None:
    counts = range(int(expected + 12 * math.sqrt(expected)))
    mean = sum(-(-count // rows) * poisson.pmf(count, expected) for count in counts)
    assert _chunks_expected(expected, rows) == pytest.approx(mean, rel=1e-3, abs=0.025)


def test_a_chunk_costs_beside_its_rows() -> None:
    """A few chunks of middling size take less time than mostly two of 32, or about nine of 4."""
    assert 8 <= chunk_rows(33.0, 32) <= 20


bounds = st.floats(1e-3, 1e6)
norms = st.floats(min_value=0, allow_infinity=True) | st.just(math.nan)


@given(bound=bounds, norm=norms, gamma=st.floats(1e-6, 10))
def test_factor_times_norm_is_within_the_bound(bound: float, norm: float, gamma: float) -> None:
    for kind in ("flat", "automatic"):
        rule = ClipRule(bound, kind, gamma)
        factor = float(rule.factors(torch.tensor([norm], dtype=torch.float64)))
        assert math.isfinite(factor)
        assert factor >= 0
        if norm <= LARGEST_NORM:
            assert factor * norm <= bound
        else:
            assert factor == 0


def test_flat_clipping_leaves_short_gradients_almost_as_they_are() -> None:
    factors = ClipRule(1.0).factors(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert (1 - factors < 2e-5).all()
