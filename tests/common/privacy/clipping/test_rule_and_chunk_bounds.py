"""Clipping at its edges: which bounds are taken, which norms count, how units are packed."""

import math

import pytest
import torch

from common.errors import PrivacyError
from common.privacy.clipping import ClipRule
from common.privacy.clipping.chunking import chunks


def factor(norm: float, **rule: object) -> float:
    return float(ClipRule(**rule).factors(torch.tensor([norm], dtype=torch.float64)))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["max_grad_norm", "gamma"])
def test_a_bound_must_be_positive_and_finite(name: str, value: float) -> None:
    with pytest.raises(PrivacyError, match=f"{name}={value} to be positive and finite"):
        ClipRule(**({"max_grad_norm": 1.0} | {name: value}))


def test_a_bound_that_float32_cannot_keep_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"max_grad_norm=0.00099 >= 0.001"):
        ClipRule(0.00099)
    assert ClipRule(0.001).max_grad_norm == 0.001


def test_another_rule_is_refused() -> None:
    with pytest.raises(PrivacyError, match="Unknown clipping='soft'"):
        ClipRule(1.0, "soft")  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", [2.0, 1e6, 2.0**61])
@pytest.mark.parametrize("bound", [1e-3, 0.7, 1.0])
def test_a_clipped_unit_is_shorter_than_the_bound_by_what_float32_may_lose(
    norm: float, bound: float
) -> None:
    """1.5e-5 of it, as the documents say; less would not be enough, more would cost accuracy."""
    assert 1.5e-5 < 1 - factor(norm, max_grad_norm=bound) * norm / bound < 1.6e-5


def test_the_automatic_rule_is_the_papers() -> None:
    """C / (norm + gamma), with gamma 0.01 if none is given."""
    for norm, gamma, expected in ((0.99, None, 1.0), (0.0, None, 100.0), (3.0, 1.0, 0.25)):
        given = {} if gamma is None else {"gamma": gamma}
        found = factor(norm, max_grad_norm=1.0, kind="automatic", **given)
        assert found == pytest.approx(expected, rel=2e-5)


def test_a_norm_counts_up_to_2_to_the_62_and_no_further() -> None:
    norms = [2.0**62, math.nextafter(2.0**62, math.inf), 2.0**63, math.inf, math.nan]
    for kind in ("flat", "automatic"):
        factors = ClipRule(1.0, kind).factors(torch.tensor(norms, dtype=torch.float64))
        assert factors[0] > 0 and not factors[1:].any()
    assert ClipRule.usable(torch.tensor(norms)).tolist()[0]


def packed(sizes: list[int], limit: int) -> list[list[int]]:
    """The true sizes of the units that are in each chunk."""
    units = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    found = []
    for chunk in chunks(units, len(units), limit):
        assert chunk.weights.dtype == torch.float64
        found.append((chunk.weights > 0).sum(1).tolist()[: chunk.units])
    return found


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [
        ([2] * 5, 8, [[2] * 4, [2]]),  # as many as the limit holds
        ([4, 4], 8, [[4, 4]]),
        ([4, 4], 7, [[4], [4]]),
        ([5, 8, 6], 100, [[5, 8, 6]]),  # up to the same power of two
        ([4, 5], 100, [[4], [5]]),
        ([2, 4, 3, 1], 100, [[1], [2], [4, 3]]),
        ([9], 4, [[9]]),  # no unit is ever split
    ],
)
def test_units_of_like_size_share_a_chunk(
    sizes: list[int], limit: int, expected: list[list[int]]
) -> None:
    assert packed(sizes, limit) == expected


def test_an_empty_batch_has_no_chunk() -> None:
    assert list(chunks(None, 0, 4)) == []
    assert list(chunks(torch.zeros(0, dtype=torch.int64), 0, 4)) == []


@pytest.mark.parametrize("limit", [0, -1])
def test_a_chunk_holds_one_row_at_least(limit: int) -> None:
    with pytest.raises(PrivacyError, match=f"Expected chunk={limit} >= 1 rows"):
        list(chunks(None, 3, limit))
    assert len(list(chunks(None, 3, 1))) == 3


@pytest.mark.parametrize(
    "units",
    [torch.zeros(3, dtype=torch.int32), torch.zeros(3), torch.zeros(2, dtype=torch.int64)],
)
def test_units_that_do_not_fit_the_batch_are_refused(units: torch.Tensor) -> None:
    with pytest.raises(PrivacyError, match=r"int64 of shape \(3,\), one unit a row"):
        list(chunks(units, 3, 4))


def test_a_units_rows_come_in_their_order() -> None:
    units = torch.tensor([1, 0, 1, 0, 1, 0] * 40)
    (chunk,) = chunks(units, len(units), 1000)
    for rows, weights in zip(chunk.rows[:2], chunk.weights[:2], strict=True):
        assert (rows[weights > 0].diff() > 0).all() and (weights > 0).sum() == 120


@pytest.mark.parametrize(
    ("size", "views", "limit", "shape"),
    [
        (1, 1, 50, (50, 1)),
        (3, 1, 50, (12, 4)),
        (4, 1, 50, (12, 4)),
        (5, 1, 50, (6, 8)),
        (4, 3, 50, (8, 6)),
        (7, 3, 50, (4, 12)),
        (3, 1, 4, (1, 4)),
        (3, 1, 3, (1, 3)),  # no chunk has room for its width: its own rows and no others
    ],
)
def test_a_chunks_shape_is_what_its_units_width_and_the_limit_say(
    size: int, views: int, limit: int, shape: tuple[int, int]
) -> None:
    (chunk,) = chunks(torch.zeros(size, dtype=torch.int64), size, limit, views)
    assert chunk.rows.shape == chunk.weights.shape == shape
