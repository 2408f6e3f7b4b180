"""The sampler's comparison, to the last of its 88 bits: u < p(x) or not, whatever the words are."""

from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.privacy import discrete_gaussian as sampler

SIGMA, SHARE, WORD = 1000.0, 500, 2**64


class Words:
    """A source that gives one word, and zeros where more bits are asked for."""

    def __init__(self, word: int) -> None:
        self.left = [word]

    def words(self, count: int) -> np.ndarray[Any, Any]:
        given_, self.left = self.left[:count], []
        return np.array(given_ + [0] * (count - len(given_)), np.uint64)


def bound(x: int) -> Decimal:
    """p(x) in units of 2^-88."""
    table = sampler._table(SIGMA)
    with localcontext() as context:
        context.prec = 120
        p = (-((Decimal(x) / Decimal(SIGMA)) ** 2) / 2).exp() * Decimal(table.scale) / SHARE
        return p * 2**88


def accepted(x: int, numerator: int) -> bool:
    first, more = divmod(numerator, WORD)
    found = sampler._compare(
        sampler._table(SIGMA),
        np.array([x]),
        np.array([SHARE], np.int32),
        np.array([first], np.int32),
        Words(more),  # type: ignore[arg-type]
    )
    return bool(found[0])


@given(st.integers(-3000, 3000), st.sampled_from([0, 8, 30, 50, 60, 63, 66]), st.integers(1, 255))
@settings(max_examples=200)
def test_a_number_below_is_accepted_and_one_above_is_not(x: int, power: int, times: int) -> None:
    """At distances from the last bit to more than the first word's: by floats, or by decimals."""
    with localcontext() as context:
        context.prec = 120
        p = bound(x)
        below, above = int(p) - times * 2**power, int(p) + 1 + times * 2**power
    if below >= 0:
        assert accepted(x, below)
    if above < 2**88:
        assert not accepted(x, above)


@pytest.mark.parametrize("x", [0, 1, -1, 700, -2500])
def test_the_first_bits_alone_do_not_decide(x: int) -> None:
    """With the same 24 bits first, what follows decides."""
    first = int(bound(x)) // WORD
    rest = int(bound(x)) % WORD
    assert accepted(x, first * WORD + rest // 2)
    assert not accepted(x, first * WORD + rest + (WORD - rest) // 2)
