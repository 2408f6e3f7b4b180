"""The closed list of reasons: what the words are, and where they come from."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DataError, HemofedError, PrivacyError, because_of
from common.wire.reasons import Reason

DOCS = Path(__file__).parents[3] / "docs" / "deployment.md"


def test_an_operator_finds_each_word_in_the_documentation() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for reason in Reason:
        kind, _, line = reason.value.partition(": ")
        assert f"`{line}`" in text if line else f"`{kind}`" in text, reason


@given(st.text(max_size=60))
def test_what_is_no_word_of_the_list_is_read_as_the_rest(text: str) -> None:
    words = {reason.value for reason in Reason}
    assert Reason.read(text) == (text if text in words else Reason.INTERNAL)


def test_an_error_has_the_reason_of_the_innermost_place_that_names_one() -> None:
    with pytest.raises(PrivacyError) as named, because_of(Reason.HOME), because_of(Reason.BUDGET):
        raise PrivacyError("x")
    assert named.value.reason is Reason.BUDGET
    with pytest.raises(PrivacyError) as own, because_of(Reason.HOME):
        raise PrivacyError("x", Reason.HOURS)
    assert own.value.reason is Reason.HOURS
    with pytest.raises(ValueError, match="x"), because_of(Reason.HOME):
        raise ValueError("x")


def test_an_error_keeps_its_reason_from_process_to_process() -> None:
    error = DataError("no cache", Reason.NO_CELLS)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.reason) == ("no cache", Reason.NO_CELLS)
    assert HemofedError("x").reason is Reason.INTERNAL
