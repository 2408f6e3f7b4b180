"""Who joins a sample, decided by single words of the stream."""

from typing import Any

import numpy as np
import pytest

from client.training.inputs import poisson, seed_of


class Words:
    """A source that gives these words."""

    def __init__(self, *values: int) -> None:
        self.values = list(values)

    def words(self, count: int) -> np.ndarray[Any, Any]:
        given, self.values = self.values[:count], self.values[count:]
        return np.array(given + [0] * (count - len(given)), np.uint64)


def joined(rate: float, *words: int) -> list[int]:
    """Which of the units joins, each with the word of its place."""
    rows = np.arange(len(words))
    return poisson(rows, rows, rate, 1, Words(*words)).rows.tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize(("rate", "bound"), [(0.25, 2**62), (0.5, 2**63), (0.75, 3 * 2**62)])
def test_a_word_below_the_rate_joins_and_one_at_it_does_not(rate: float, bound: int) -> None:
    """So that the probability is the rate to the last bit, and never above it."""
    assert joined(rate, 0, bound - 1, bound, 2**64 - 1) == [0, 1]


def test_at_rate_one_the_last_word_joins_too() -> None:
    assert joined(1.0, 0, 2**64 - 1, 2**64 - 2) == [0, 1, 2]


def test_just_below_one_the_last_words_do_not_join() -> None:
    rate = float(np.nextafter(1.0, 0.0))
    assert joined(rate, int(rate * 2**64) - 1, int(rate * 2**64), 2**64 - 1) == [0]


def test_units_have_words_of_their_own_in_the_order_of_their_numbers() -> None:
    rows, units = np.array([10, 11, 12, 13]), np.array([7, 3, 7, 5])
    drawn = poisson(rows, units, 0.5, 9, Words(0, 2**63, 0))  # type: ignore[arg-type]
    assert sorted(drawn.rows.tolist()) == [10, 11, 12]
    assert dict(zip(drawn.rows.tolist(), drawn.units.tolist(), strict=True)) == {
        11: 3,
        10: 7,
        12: 7,
    }


def test_of_too_many_cells_those_with_the_lowest_words_are_taken() -> None:
    rows, units = np.arange(4), np.zeros(4, np.int64)
    drawn = poisson(rows, units, 1.0, 2, Words(0, 9, 4, 7, 5))  # type: ignore[arg-type]
    assert sorted(drawn.rows.tolist()) == [1, 3]


def test_seeds_fill_63_bits() -> None:
    seeds = [seed_of("purpose", number) for number in range(300)]
    assert len(set(seeds)) == 300 and min(seeds) >= 0
    assert 2**62 < max(seeds) < 2**63
