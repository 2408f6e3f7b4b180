"""The fleet API's calls: Flower's own, each in the name of the key that signed it."""

import errno
import os
import sqlite3
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

from common.wire.flower_objects import SMALL_BYTES, identifiers, take_apart
from common.wire.reply_status import QUESTION_LOST
from common.wire.vector_codec import encode
from server.fleet_api import handlers
from server.fleet_api.handlers import Fleet
from server.flower.link_state import database
from server.rounds.messaging import exchange
from tests.server.nodes import Setting


@pytest.fixture
def calls(setting: Setting, tmp_path: Path) -> Fleet:
    return Fleet(setting.state, database(tmp_path), setting.log)


def ask(calls: Fleet, setting: Setting, name: str, request: Any) -> tuple[HTTPStatus, bytes]:
    """A call signed by paris."""
    key = setting.keys["paris"]
    status, spans = calls.answer(f"/v1/fleet/{name}", key, request.SerializeToString())
    return status, b"".join(spans)


def test_the_calls_are_flowers_but_for_those_that_no_site_needs() -> None:
    theirs = {path: kind for (_, path), kind in PROTOBUF_REQUEST_TYPES.items() if "fleet" in path}
    ours = {path: kind for path, (kind, _) in handlers._CALLS.items()}
    assert ours.items() <= theirs.items()
    unserved = {path.rpartition("/")[2] for path in theirs.keys() - ours.keys()}
    assert unserved == {"register-node", "unregister-node", "get-fab"}


def test_a_message_is_pulled_with_its_objects(calls: Fleet, setting: Setting) -> None:
    model = np.zeros(SMALL_BYTES, np.float32)
    (sent,) = setting.grid.push_messages([setting.message("paris", model)])
    mine = Node(node_id=setting.nodes["paris"])
    status, body = ask(calls, setting, "pull-messages", PullMessagesRequest(node=mine))
    assert status == HTTPStatus.OK
    (tree,) = PullMessagesResponse.FromString(body).message_object_trees
    assert tree.object_id == sent
    assert len(identifiers(tree)) == 2, "the message and the model"
    run = setting.grid.run.run_id
    for part in identifiers(tree):
        request = PullObjectRequest(node=mine, run_id=run, object_id=part)
        status, body = ask(calls, setting, "pull-object", request)
        assert status == HTTPStatus.OK
        assert PullObjectResponse.FromString(body).object_available
    status, body = ask(calls, setting, "get-run", GetRunRequest(node=mine, run_id=run))
    assert GetRunResponse.FromString(body).run.run_id == run


def test_a_piece_that_no_room_is_left_for_is_taken_when_there_is_some(
    calls: Fleet, setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The site hears that the server cannot, and tries again; the reply is not lost."""
    (sent,) = setting.grid.push_messages([setting.message("paris")])
    vector = encode(np.ones(SMALL_BYTES, np.float32))
    content = RecordDict({"u": ArrayRecord({"values": vector})})
    parts = take_apart(Message(content, reply_to=setting.taken("paris")))
    mine, run = Node(node_id=setting.nodes["paris"]), setting.grid.run.run_id
    announced = PushMessagesRequest(
        node=mine,
        messages_list=[message_to_proto(parts.head)],
        message_object_trees=[parts.tree],
    )
    status, body = ask(calls, setting, "push-messages", announced)
    said = PushMessagesResponse.FromString(body)
    assert status == HTTPStatus.OK

    def push(identifier: str) -> tuple[HTTPStatus, bytes]:
        request = PushObjectRequest(
            node=mine,
            run_id=run,
            object_id=identifier,
            object_content=parts.content(identifier),
            session_id=said.session_id,
        )
        return ask(calls, setting, "push-object", request)

    piece, own = identifiers(parts.tree)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        assert push(piece) == (HTTPStatus.INTERNAL_SERVER_ERROR, b"")
    assert not any((tmp_path / "state" / "bodies").iterdir())
    assert [push(name)[0] for name in (piece, own)] == [HTTPStatus.OK] * 2
    (reply,) = setting.grid.pull_messages([sent])
    assert reply.content.array_records["u"]["values"].data == vector.data


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("whose", ["rome", "nobody"])
def test_a_site_speaks_for_its_own_node_alone(calls: Fleet, setting: Setting, whose: str) -> None:
    number = setting.nodes.get(whose, 17)
    node, run = Node(node_id=number), setting.grid.run.run_id
    requests = {
        "pull-messages": PullMessagesRequest(node=node),
        "push-object": PushObjectRequest(node=node, run_id=run, object_id="x"),
        "send-node-heartbeat": SendNodeHeartbeatRequest(node=node, heartbeat_interval=15),
        "deactivate-node": DeactivateNodeRequest(node_id=number),
        "activate-node": ActivateNodeRequest(
            public_key=setting.keys.get(whose, b"?"), heartbeat_interval=15
        ),
        "get-run": GetRunRequest(run_id=run),  # of no node
    }
    list(setting.grid.push_messages([setting.message("rome")]))
    for name, request in requests.items():
        assert ask(calls, setting, name, request) == (HTTPStatus.UNAUTHORIZED, b""), name
    assert setting.taken("rome"), "its message is still there"


def test_a_site_becomes_its_keys_node(calls: Fleet, setting: Setting) -> None:
    request = ActivateNodeRequest(public_key=setting.keys["paris"], heartbeat_interval=15)
    gone = DeactivateNodeRequest(node_id=setting.nodes["paris"])
    assert ask(calls, setting, "deactivate-node", gone)[0] == HTTPStatus.OK
    status, body = ask(calls, setting, "activate-node", request)
    assert status == HTTPStatus.OK
    assert ActivateNodeResponse.FromString(body).node_id == setting.nodes["paris"]
    # By this code a site tells that the server knows its key (client/fleet_api/fleet_client.py).
    request.heartbeat_interval = 0
    assert ask(calls, setting, "activate-node", request) == (HTTPStatus.BAD_REQUEST, b"")


def test_a_run_that_is_over_takes_nothing_more(
    calls: Fleet, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "_FRESH_SECONDS", 0.0)
    run = setting.grid.run
    request = PushObjectRequest(
        node=Node(node_id=setting.nodes["paris"]),
        run_id=run.run_id,
        session_id="a session that is over",
        object_id="0" * 64,
        object_content=b"Message  0\x00",
    )
    assert ask(calls, setting, "push-object", request)[0] == HTTPStatus.OK
    setting.state.stop_run(run.run_id)
    status, body = ask(calls, setting, "push-object", request)
    assert 400 <= status < 500 and body == b""


def test_whether_a_run_goes_on_is_not_asked_at_every_call(
    calls: Fleet, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "_FRESH_SECONDS", 60.0)
    asked: list[set[int]] = []
    real = setting.state.get_run_status

    def counted(run_ids: set[int]) -> Any:
        asked.append(run_ids)
        return real(run_ids)

    monkeypatch.setattr(setting.state, "get_run_status", counted)
    run = setting.grid.run.run_id
    node = Node(node_id=setting.nodes["paris"])
    for part in "abc":
        ask(calls, setting, "pull-object", PullObjectRequest(node=node, run_id=run, object_id=part))
    assert asked == [{run}]


def test_what_cannot_be_answered_says_no_more_than_a_code(
    calls: Fleet, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/v1/fleet/pull-messages"
    assert calls.answer(path, setting.keys["paris"], b"\xff") == (HTTPStatus.BAD_REQUEST, ())
    mine = Node(node_id=setting.nodes["paris"])
    status, body = ask(calls, setting, "get-run", GetRunRequest(node=mine, run_id=17))
    assert 400 <= status < 500 and body == b""

    def breaks(*_: object) -> None:
        raise OSError("a secret of the server")

    monkeypatch.setitem(handlers._CALLS, path, (PullMessagesRequest, breaks))
    status, body = ask(calls, setting, "pull-messages", PullMessagesRequest(node=mine))
    assert (status, body) == (HTTPStatus.INTERNAL_SERVER_ERROR, b"")


LOSSES = {
    "the question's object": "DELETE FROM objects WHERE object_id = :asked",
    "the model": "DELETE FROM objects WHERE object_id != :asked",
    "all": "DELETE FROM objects",
    "the model's file": "",
    "the order, a circle": "UPDATE object_children SET child_id = :asked WHERE parent_id = :asked",
}


@pytest.mark.parametrize("statement", LOSSES.values(), ids=LOSSES.keys())
def test_a_question_that_the_database_lost_fails_once_and_is_asked_no_more(
    calls: Fleet, setting: Setting, tmp_path: Path, statement: str
) -> None:
    """The rounds know at once, and the fault is not the site's; the next question gets through."""
    message = setting.message("paris", np.zeros(SMALL_BYTES, np.float32))
    said = []
    exchanged = exchange(setting.grid, {"paris": message}, 5.0)

    def lose_and_pull() -> None:
        with closing(sqlite3.connect(database(tmp_path))) as connection:
            (asked,) = connection.execute("SELECT message_id FROM message_ins").fetchone()
            connection.execute(statement or "SELECT :asked", {"asked": asked})
            connection.commit()
        if not statement:
            (file,) = (tmp_path / "state" / "bodies").iterdir()
            file.unlink()
        mine = PullMessagesRequest(node=Node(node_id=setting.nodes["paris"]))
        for _ in range(3):
            status, body = ask(calls, setting, "pull-messages", mine)
            assert (status, body) == (HTTPStatus.OK, b"")

    real = setting.grid.pull_messages

    def pull(message_ids: Any) -> Any:
        if not said:
            said.append("asked")
            lose_and_pull()
        return real(message_ids)

    setting.grid.pull_messages = pull  # type: ignore[method-assign]
    lost = QUESTION_LOST
    assert list(exchanged) == [("paris", lost)]
    (line,) = setting.lines("question_lost")
    assert line == {"site": "paris", "kind": "train", "round": "1"}
    setting.grid.push_messages([setting.message("paris")])
    mine = PullMessagesRequest(node=Node(node_id=setting.nodes["paris"]))
    _, body = ask(calls, setting, "pull-messages", mine)
    assert len(PullMessagesResponse.FromString(body).messages_list) == 1
