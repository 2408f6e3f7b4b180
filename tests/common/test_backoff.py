"""Waits grow to their bound, and begin anew."""

from hypothesis import given
from hypothesis import strategies as st

from common.backoff import Backoff


@given(first=st.floats(0, 10), longest=st.floats(10, 100), tries=st.integers(1, 30))
def test_waits_double_up_to_the_longest_and_begin_anew_after_a_success(
    first: float, longest: float, tries: int
) -> None:
    pause = Backoff(first, longest)
    waits = [pause.next() for _ in range(tries)]
    assert waits == [min(first * 2**at, longest) for at in range(tries)]
    pause.reset()
    assert pause.next() == first
