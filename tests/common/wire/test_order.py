"""An order is signed word by word: whatever is changed in the message is refused."""

import math
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FederationError
from common.identity import signing_public_pem
from common.identity.keys import make_signing_key
from common.wire.messages import Task
from common.wire.order import CLOCK_SECONDS, Order
from common.wire.vector_codec import encode
from tests.client.lab import first_model, message, study

KEY = make_signing_key()
PUBLIC = signing_public_pem(KEY)
OTHERS: dict[str, object] = {
    "receiver": "rome",
    "run": 2,
    "kind": "evaluate",
    "study": "0" * 64,
    "round": 2,
    "attempt": 1,
    "split": "test",
    "head": "1" * 64,
    "agreement": "3" * 64,
    "arrays": {"model.values": "2" * 64},
    "term": 4e9,
}


def order() -> Order:
    return Order.of(message(study()), "paris")


def test_a_signed_order_is_accepted_until_its_term_and_the_clocks_difference() -> None:
    one = order()
    signature = one.sign(KEY)
    one.check(PUBLIC, signature, one.term - 1)
    one.check(PUBLIC, signature, one.term + CLOCK_SECONDS)
    with pytest.raises(FederationError, match="its term was over 601 s ago"):
        one.check(PUBLIC, signature, one.term + CLOCK_SECONDS + 1)


@pytest.mark.parametrize("name", [field.name for field in fields(Order)])
def test_no_word_of_an_order_can_be_changed(name: str) -> None:
    one = order()
    other = replace(one, **{name: OTHERS[name]})
    assert other != one
    with pytest.raises(FederationError, match="the signature does not fit"):
        other.check(PUBLIC, one.sign(KEY), 0.0)


def test_a_message_without_an_order_is_said_to_have_none() -> None:
    with pytest.raises(FederationError, match="no order came with it"):
        order().check(PUBLIC, "", 0.0)


@pytest.mark.parametrize("term", [math.nan, math.inf])
def test_a_term_that_is_no_time_is_refused(term: float) -> None:
    with pytest.raises(FederationError, match="is no time"):
        replace(order(), term=term).check(PUBLIC, "0" * 128, 0.0)


def retyped(asked: Message) -> None:
    asked.content.array_records["model"]["values"] = encode(first_model(study()), "float16")


def added(asked: Message) -> None:
    asked.content.array_records["model"]["more"] = encode(first_model(study()))


def restudied(asked: Message) -> None:
    other = study().model_copy(update={"seed": study().seed + 1})
    asked.content = RecordDict({**asked.content, "task": Task(other, 1).content()["task"]})


@pytest.mark.parametrize("change", [retyped, added, restudied])
def test_an_order_is_of_this_study_and_this_model(change: Callable[[Message], None]) -> None:
    asked = message(study())
    before = Order.of(asked, "paris")
    change(asked)
    assert Order.of(asked, "paris") != before


@given(place=st.integers(0, len(first_model(study())) - 1))
def test_an_order_is_of_the_whole_vector(place: int) -> None:
    asked = message(study())
    before = Order.of(asked, "paris")
    model = first_model(study()).copy()
    model[place] = np.nextafter(model[place], np.float32(np.inf))
    asked.content.array_records["model"]["values"] = encode(model)
    assert Order.of(asked, "paris").arrays != before.arrays


def test_whatever_a_message_holds_it_asks_something() -> None:
    asked = Message(RecordDict({"task": ConfigRecord({"round": b"x", "study": [1]})}), 2, "train")
    assert Order.of(asked, "paris").study == "not a study"
    bare = Order.of(Message(RecordDict(), 2, "query"), "paris")
    assert (bare.study, bare.round, bare.attempt) == ("", -1, -1)


def test_an_orders_term_is_when_its_message_loses_its_worth() -> None:
    asked = message(study())
    asked.metadata.ttl = 90.0
    assert Order.of(asked, "paris").term == asked.metadata.created_at + 90.0
