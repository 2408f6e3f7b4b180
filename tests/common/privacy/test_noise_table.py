"""The discrete Gaussian's table and its draws, word by word, against the law in exact numbers."""

from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import PrivacyError
from common.privacy import discrete_gaussian as sampler
from common.privacy.discrete_gaussian import MAX_SIGMA, MIN_SIGMA, REACH, discrete_gaussian
from common.privacy.noise_source import WORDS_A_CALL, NoiseSource

SIGMAS = [MIN_SIGMA, 0.3, 1.0, 2.7, 63.9, 64.0, 127.0, 128.0, 200.0, 12_345.6, 2.0**20, MAX_SIGMA]
MARGIN = 2.0**-40


class Words:
    """A source that gives these words, then zeros, and counts what it was asked for."""

    def __init__(self, words: list[int]) -> None:
        self.left, self.asked = words, []

    def words(self, count: int) -> np.ndarray[Any, Any]:
        self.asked.append(count)
        given_, self.left = self.left[:count], self.left[count:]
        return np.array(given_ + [0] * (count - len(given_)), np.uint64)


def law(x: np.ndarray[Any, Any], sigma: float) -> np.ndarray[Any, Any]:
    return np.exp(-np.square(x / sigma) / 2)


def buckets(
    sigma: float,
) -> tuple[sampler.SamplingTable, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The table, each bucket's first entry, and its first integer."""
    table = sampler._table(sigma)
    first = np.flatnonzero(np.diff(table.bucket, prepend=table.bucket[0] - 1))
    return table, first, table.bucket[first].astype(np.int64) << table.shift


@pytest.mark.parametrize("sigma", SIGMAS)
def test_buckets_are_a_64th_of_sigma_wide_and_reach_13_sigma(sigma: float) -> None:
    table, _, low = buckets(sigma)
    width = 2**table.shift
    assert width == 1 or 64 * width <= sigma < 128 * width
    assert width > 1 or sigma < 128
    assert np.array_equal(np.diff(low), np.full(len(low) - 1, width))
    assert -REACH * sigma - width < low[0] <= -REACH * sigma
    assert REACH * sigma <= low[-1] + width < REACH * sigma + width
    assert low[0] == -(low[-1] + width)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_entries_are_as_the_largest_of_a_bucket_and_the_bound_is_as_high_as_it_may_be(
    sigma: float,
) -> None:
    table, first, low = buckets(sigma)
    last = low + (1 << table.shift) - 1
    share = table.share[first].astype(float)
    counted = np.diff(first, append=len(table.bucket))
    assert np.array_equal(share, counted) and len(table.bucket) == 2**16 == counted.sum()
    for part in (table.share, table.quick):
        assert np.array_equal(part, np.repeat(part[first], counted))
    inside = np.where((low <= 0) & (last >= 0), 0, np.minimum(np.abs(low), np.abs(last)))
    outside = np.maximum(np.abs(low), np.abs(last))
    p_most = law(inside, sigma) * table.scale / share
    p_least = law(outside, sigma) * table.scale / share
    assert 1 - 3 * MARGIN <= p_most.max() < 1
    assert (table.quick[first] * 2.0**-24 <= p_least).all()
    assert (table.quick[first] * 2.0**-24 >= p_least * (1 - 3 * MARGIN) - 2.0**-24).all()
    others = np.arange(len(low)) != law(inside, sigma).argmax()
    peak, more = law(inside, sigma)[others], share[others] > 1
    # n_b is peak * L, rounded up, for one L; what is left over goes to the largest.
    least = (share[others] / peak).min()
    assert (share[others] >= 1).all() and share.min() >= 1
    if more.any():
        most = ((share[others] - 1) / peak)[more].max()
        assert most <= least * (1 + 1e-9)
        assert most <= share[~others][0] <= least + len(low)


def expected(table: sampler.SamplingTable, word: int, more: int) -> int | None:
    """What a proposal becomes, in exact numbers; None: it is refused."""
    entry, first, place = word >> 48, (word >> 24) % 2**24, word % 2**table.shift
    x = (int(table.bucket[entry]) << table.shift) + place
    with localcontext() as context:
        context.prec = 120
        p = (-((Decimal(x) / Decimal(table.sigma)) ** 2) / 2).exp() * Decimal(table.scale)
        return x if (first << 64) + more < p / int(table.share[entry]) * 2**88 else None


@given(
    st.sampled_from([0.3, 2.7, 64.0, 200.0, 12_345.6, 2.0**20, MAX_SIGMA]),
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20),
    st.lists(st.integers(0, 2**64 - 1), min_size=20, max_size=20),
)
def test_a_draw_takes_its_words_apart_as_it_says(
    sigma: float, words: list[int], more: list[int]
) -> None:
    """The first 16 bits for the entry, the last 24 for the place, between them for the comparison;
    more for those that the first comparison leaves open, in their order."""
    table = sampler._table(sigma)
    still_open = [word for word in words if (word >> 24) % 2**24 >= int(table.quick[word >> 48])]
    follow = dict(zip(range(len(still_open)), more, strict=False))
    source = Words([*words, *more[: len(still_open)]])
    drawn = sampler._draw(table, len(words), source)  # type: ignore[arg-type]
    wanted, at = [], 0
    for word in words:
        if (word >> 24) % 2**24 < int(table.quick[word >> 48]):
            wanted.append(expected(table, word, 2**64 - 1))
        else:
            wanted.append(expected(table, word, follow[at]))
            at += 1
    assert drawn.tolist() == [x for x in wanted if x is not None]
    assert source.asked[:2] == [len(words), len(still_open)]


@pytest.mark.parametrize("sigma", [0.3, 64.0, 12_345.6, MAX_SIGMA])
def test_words_at_the_edge_of_the_quick_comparison_are_told_apart(sigma: float) -> None:
    """And many others: each is taken or refused by its own 88 bits."""
    table, draws = sampler._table(sigma), np.random.default_rng(7)
    words = [int(word) for word in draws.integers(0, 2**64, 2000, np.uint64)]
    for entry in range(0, 2**16, 97):
        for first in (int(table.quick[entry]) - 1, int(table.quick[entry])):
            if 0 <= first < 2**24:
                words.append((entry << 48) + (first << 24) + entry % 2**24)
    quick = [(word >> 24) % 2**24 < int(table.quick[word >> 48]) for word in words]
    more = [int(word) for word in draws.integers(0, 2**64, quick.count(False), np.uint64)]
    source, follow = Words([*words, *more]), iter(more)
    drawn = sampler._draw(table, len(words), source)  # type: ignore[arg-type]
    wanted = []
    for word, taken in zip(words, quick, strict=True):
        x = (int(table.bucket[word >> 48]) << table.shift) + word % 2**table.shift
        wanted.append(x if taken else expected(table, word, next(follow)))
    assert drawn.tolist() == [x for x in wanted if x is not None]
    assert source.asked[:2] == [len(words), len(more)]


@pytest.mark.parametrize("n", [0, 1, 2, 31, 4000, 29_500, 100_001])
@pytest.mark.parametrize("sigma", [1 / 16, 0.5, 50.0, 1e6])
def test_any_number_is_drawn_and_little_is_thrown_away(n: int, sigma: float) -> None:
    source = NoiseSource.seeded(b"noise")
    asked: list[int] = []
    words = source.words

    def counted(count: int) -> np.ndarray[Any, Any]:
        asked.append(count)
        return words(count)

    source.words = counted  # type: ignore[method-assign]
    drawn = discrete_gaussian(n, sigma, source)
    assert drawn.shape == (n,) and drawn.dtype == np.int64
    assert len(np.unique(drawn)) >= min(n, 100) / 2 or sigma < 50
    assert sum(asked) <= 1.3 * n + 100 and max(asked, default=0) <= WORDS_A_CALL
    assert np.abs(drawn).max(initial=0) <= 7 * sigma


@pytest.mark.parametrize("sigma", [0.5, 2.7, 64.0, 300.0])
def test_the_law_is_met_at_every_integer(sigma: float) -> None:
    n = 100_000
    drawn = discrete_gaussian(n, sigma, NoiseSource.seeded(b"law"))
    x = np.arange(-int(4 * sigma) - 1, int(4 * sigma) + 2)
    chance = law(x, sigma) / law(np.arange(-20_000, 20_001), sigma).sum()
    counts = (
        (drawn[:, None] == x).sum(axis=0)
        if len(x) < 20
        else np.bincount(drawn[np.abs(drawn) <= x[-1]] + x[-1], minlength=len(x))
    )
    assert (np.abs(counts - n * chance) <= 6 * np.sqrt(n * chance) + 6).all()


@pytest.mark.parametrize(
    ("n", "sigma"),
    [
        (-1, 1.0),
        (1, 0.0),
        (1, -1.0),
        (1, float("nan")),
        (1, MIN_SIGMA * 0.999),
        (1, MAX_SIGMA * 1.001),
    ],
)
def test_what_cannot_be_drawn_is_refused(n: int, sigma: float) -> None:
    with pytest.raises(PrivacyError, match="expected n >= 0 and 1/16 <= sigma"):
        discrete_gaussian(n, sigma, NoiseSource.seeded(b"noise"))


@pytest.mark.parametrize("x", [0, 1, 700, -2500])
@pytest.mark.parametrize("bits", [0, 1, 2])
def test_a_tie_is_settled_by_as_many_bits_as_it_takes(x: int, bits: int) -> None:
    """The words are p's own digits; the last one is one below or above."""
    table, share = sampler._table(1000.0), 500
    with localcontext() as context:
        context.prec = 200
        p = (-((Decimal(x) / 1000) ** 2) / 2).exp() * Decimal(table.scale) / share
        digits = int(p * 2 ** (88 + 64 * bits))
    for off, accepted in ((-2, True), (2, False)):
        number = digits + off
        words = [number >> 64 * at & (2**64 - 1) for at in reversed(range(bits))]
        source = Words(words)
        settled = sampler._settle(table, x, share, number >> 64 * bits, source)  # type: ignore[arg-type]
        assert settled is accepted and source.asked == [1] * bits


def test_the_least_and_the_largest_sigma_are_drawn() -> None:
    for sigma in (MIN_SIGMA, MAX_SIGMA):
        drawn = discrete_gaussian(1000, sigma, NoiseSource.seeded(b"edge"))
        assert np.abs(drawn).max() <= 6 * sigma


@pytest.mark.parametrize(("word", "taken"), [(0, True), (2**63, False), (2**64 - 1, False)])
def test_a_chance_below_the_bits_of_a_comparison_is_settled_by_more(word: int, taken: bool) -> None:
    """12.5 sigma from zero, where 88 zeros are not enough to accept."""
    table, source = sampler._table(1000.0), Words([0, word])
    found = sampler._compare(
        table,
        np.array([12_500]),
        np.array([1], np.int32),
        np.array([0], np.int32),
        source,  # type: ignore[arg-type]
    )
    assert found.tolist() == [taken] and source.asked == [1, 1]


def test_the_guarantee_in_numbers() -> None:
    """What the proofs elsewhere count on."""
    assert (REACH, MIN_SIGMA, MAX_SIGMA) == (13, 1 / 16, 2**30)
    assert 2 * np.exp(-(13**2) / 2) / (1 - np.exp(-13)) <= sampler.TAIL < 1e-35
