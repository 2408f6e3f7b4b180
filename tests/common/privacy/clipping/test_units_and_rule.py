"""Units stay whole in chunks, and a factor never lifts a norm above the bound."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.privacy.clipping import ClipRule
from common.privacy.clipping.rule import LARGEST_NORM
from common.privacy.clipping.units import PADDING, chunks


@settings(max_examples=60, deadline=None)
@given(groups=st.lists(st.integers(-3, 8), max_size=40), limit=st.integers(1, 12))
def test_chunks_hold_each_row_once_and_each_unit_whole(groups: list[int], limit: int) -> None:
    units = torch.tensor(groups, dtype=torch.int64)
    seen: dict[int, list[int]] = {}
    for chunk in chunks(units, len(groups), limit):
        assert chunk.weights is not None
        assert chunk.units == 1 or chunk.rows.numel() <= limit
        assert chunk.rows.numel() > 1, "a lone row would be multiplied by another kernel"
        assert chunk.rows.numel() <= max(2, PADDING * int((chunk.weights > 0).sum()))
        for rows, weights in zip(chunk.rows, chunk.weights, strict=True):
            assert float(weights.sum()) == pytest.approx(1)
            unit = groups[int(rows[0])]
            assert unit not in seen
            assert all(groups[int(row)] == unit for row in rows)
            seen[unit] = sorted(rows[weights > 0].tolist())
    assert seen == {
        unit: [row for row, other in enumerate(groups) if other == unit] for unit in set(groups)
    }


@given(batch=st.integers(0, 30), limit=st.integers(1, 12))
def test_rows_that_are_units_stay_in_order(batch: int, limit: int) -> None:
    found = list(chunks(None, batch, limit))
    assert [row for chunk in found for row in chunk.rows[:, 0].tolist()] == list(range(batch))
    assert all(chunk.units <= limit for chunk in found)


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
