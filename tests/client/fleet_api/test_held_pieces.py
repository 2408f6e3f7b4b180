"""A model that a site has is not sent to it again, and what is not the model is not kept."""

from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError

from client.fleet_api import fleet_client
from client.fleet_api.fleet_client import FleetLink, NoMessageError
from common.config.study import Study
from common.identity.keys import make_node_key
from common.wire.flower_internals import (
    PullMessagesResponse,
    PullObjectRequest,
    PullObjectResponse,
    message_to_proto,
)
from common.wire.flower_objects import PIECE_BYTES, SMALL_BYTES, identifiers, take_apart
from common.wire.messages import Task
from common.wire.vector_codec import Vector, encode


class Server:
    """The objects that are there, and which were asked for."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []

    def pull_object(self, request: PullObjectRequest) -> tuple[PullObjectResponse, memoryview]:
        self.asked.append(request.object_id)
        content = self.objects[request.object_id]
        return PullObjectResponse(object_found=True, object_available=True), memoryview(content)

    def sends(self, kind: str, model: Vector | None) -> PullMessagesResponse:
        """A message that is there to be fetched; what was asked for before is forgotten."""
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        content = Task(Study(name="s"), 1).content(None if model is None else encode(model))
        parts = take_apart(Message(content, dst_node_id=7, message_type=kind, ttl=60))
        self.objects |= {name: parts.content(name) for name in identifiers(parts.tree)}
        self.asked = []
        return PullMessagesResponse(
            messages_list=[message_to_proto(parts.head)], message_object_trees=[parts.tree]
        )


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def link(server: Server, monkeypatch: pytest.MonkeyPatch) -> FleetLink:
    monkeypatch.setattr(fleet_client, "FleetCalls", lambda *_: server)
    return FleetLink("127.0.0.1:1", Path("ca.crt"), make_node_key(), Event())


def model_of(message: Message) -> np.ndarray[Any, Any]:
    return np.frombuffer(message.content.array_records["model"]["values"].data, np.float32)


def taken(link: FleetLink, pulled: PullMessagesResponse) -> Message:
    """The message, which the server ordered."""
    message = link.fetch(pulled)
    link.keep()
    return message


TWO = PIECE_BYTES // 4 + 1
"""Values of a vector in two pieces."""


def test_the_model_of_the_last_message_is_not_asked_for_again(
    server: Server, link: FleetLink
) -> None:
    model = np.arange(TWO, dtype=np.float32)
    assert np.array_equal(model_of(taken(link, server.sends("evaluate", model))), model)
    assert len(server.asked) == 3
    taken(link, server.sends("query.prepare", None))
    pulled = server.sends("train", model)
    assert np.array_equal(model_of(taken(link, pulled)), model)
    assert server.asked == [pulled.message_object_trees[0].object_id]


def test_of_a_model_that_changed_in_part_only_that_is_asked_for(
    server: Server, link: FleetLink
) -> None:
    model = np.arange(TWO, dtype=np.float32)
    taken(link, server.sends("train", model))
    model[-1] = 0
    assert np.array_equal(model_of(taken(link, server.sends("train", model))), model)
    assert len(server.asked) == 2


def test_no_more_than_one_model_is_held(server: Server, link: FleetLink) -> None:
    first, second = (np.full(SMALL_BYTES, value, np.float32) for value in (1, 2))
    for model in (first, second):
        taken(link, server.sends("train", model))
    assert len(link._held) == 1
    taken(link, server.sends("train", first))
    assert len(server.asked) == 2


def test_a_link_that_was_made_anew_asks_for_all(
    server: Server, link: FleetLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = np.ones(SMALL_BYTES, np.float32)
    taken(link, server.sends("evaluate", model))
    monkeypatch.setattr(fleet_client, "FleetCalls", lambda *_: server)
    again = FleetLink("127.0.0.1:1", Path("ca.crt"), make_node_key(), Event())
    taken(again, server.sends("train", model))
    assert len(server.asked) == 2


def test_a_piece_that_is_not_its_names_is_not_held(server: Server, link: FleetLink) -> None:
    """Else whoever stands in the server's place once would spoil the model that comes next."""
    model = np.ones(SMALL_BYTES, np.float32)
    pulled = server.sends("train", model)
    (piece,) = (name for name in server.objects if name != pulled.message_object_trees[0].object_id)
    true = server.objects[piece]
    server.objects[piece] = true[:-4] + np.float32(666).tobytes()
    assert model_of(taken(link, pulled))[-1] == 666, "the order's digest finds that out"
    server.objects[piece] = true
    assert np.array_equal(model_of(taken(link, server.sends("train", model))), model)
    assert piece in server.asked


def test_what_is_no_message_leaves_the_held_model_as_it_was(
    server: Server, link: FleetLink
) -> None:
    model = np.ones(SMALL_BYTES, np.float32)
    taken(link, server.sends("evaluate", model))
    broken = server.sends("train", np.zeros(SMALL_BYTES, np.float32))
    server.objects[broken.message_object_trees[0].object_id] = b"Message  3\x00abc"
    with pytest.raises(NoMessageError):
        link.fetch(broken)
    taken(link, server.sends("train", model))
    assert len(server.asked) == 1


def test_nothing_is_kept_of_a_message_that_nobody_ordered(server: Server, link: FleetLink) -> None:
    model = np.ones(SMALL_BYTES, np.float32)
    link.fetch(server.sends("train", model))
    assert link._held == {}
    taken(link, server.sends("query.prepare", None))
    assert link._held == {}


def test_an_answer_of_garbage_is_waited_out(
    link: FleetLink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fleet_client, "_PAUSES", (0.0, 0.0))
    answers: list[Exception | str] = [DecodeError(), ValueError(), "well"]

    def call(request: PullObjectRequest) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert link._ask(call, PullObjectRequest()) == "well"
    assert "its answer cannot be read (DecodeError)" in caplog.text


def test_a_message_without_end_is_not_fetched_to_it(
    server: Server, link: FleetLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_client, "_MOST", 2 * PIECE_BYTES)
    pulled = server.sends("train", np.ones(TWO + PIECE_BYTES // 4, np.float32))
    with pytest.raises(NoMessageError, match="more than 33,554,432 bytes"):
        link.fetch(pulled)
    assert len(server.asked) == 2 and link._held == {}, "of three pieces and the message"
