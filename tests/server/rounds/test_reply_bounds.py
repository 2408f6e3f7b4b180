"""What a reply may say, without a server: each bound, to its last number."""

import math
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace

import flwr.app
import pytest
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.error_pb2 import Error
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PushObjectRequest
from flwr.proto.recorddict_pb2 import RecordDict
from flwr.supercore.utils import uint64_to_int64
from hypothesis import given
from hypothesis import strategies as st

from common.wire.flower_objects import MESSAGE_BYTES, PIECE_BYTES, may_be_object
from server.rounds import reply_checks
from server.rounds.reply_checks import (
    Question,
    Questions,
    RefusedError,
    check_answers,
    check_object,
    error_in_place,
    is_one_reply,
    is_within_bounds,
)

ID, OTHER = "ab" * 32, "cd" * 32
RUN, NODE, ASKED, TTL, DAY = 7, 2**63 + 5, 1.8e9, 60.0, 86_400.0
QUESTION = Question(OTHER, RUN, NODE, "train", "1", ASKED, TTL, "", 3)


def piece(number: int, *children: ObjectTree) -> ObjectTree:
    return ObjectTree(object_id=f"{number:064x}", children=children)


def request() -> PushMessagesRequest:
    """What a sound site announces."""
    said = Metadata(
        src_node_id=NODE,
        dst_node_id=SUPERLINK_NODE_ID,
        message_id=ID,
        reply_to_message_id=OTHER,
        run_id=RUN,
        group_id="1",
        message_type="train",
        created_at=ASKED,
        ttl=TTL,
    )
    return PushMessagesRequest(
        messages_list=[Message(metadata=said, content=RecordDict())],
        message_object_trees=[ObjectTree(object_id=ID, children=[piece(1), piece(2)])],
        clientapp_runtime_list=[0.5],
    )


def refusal(
    sent: PushMessagesRequest, question: Question | None, now: float = ASKED
) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        check_answers(sent, question, NODE, now)
    return refused.value


def asked(**changes: object) -> Question:
    return Question(**{**vars(QUESTION), **changes})  # type: ignore[arg-type]


def test_the_nodes_own_first_reply_in_time_answers_its_question() -> None:
    check_answers(request(), QUESTION, NODE, ASKED)
    check_answers(request(), QUESTION, NODE, ASKED + 59.9)
    check_answers(request(), asked(reply=ID), NODE, ASKED)
    assert QUESTION.end == ASKED + TTL


@pytest.mark.parametrize(
    ("question", "now", "status", "reason"),
    [
        (None, ASKED, HTTPStatus.GONE, None),
        (QUESTION, ASKED + TTL, HTTPStatus.GONE, None),
        (asked(node=NODE + 1), ASKED, HTTPStatus.BAD_REQUEST, "no reply to what it was asked"),
        (asked(run=8), ASKED, HTTPStatus.BAD_REQUEST, "no reply to what it was asked"),
        (asked(reply=OTHER), ASKED, HTTPStatus.CONFLICT, "a second reply"),
    ],
)
def test_what_answers_no_question_is_told_apart(
    question: Question | None, now: float, status: HTTPStatus, reason: str | None
) -> None:
    refused = refusal(request(), question, now)
    assert (refused.status, refused.reason) == (status, reason)
    assert str(refused) == f"{status}: {reason}"


def test_what_is_no_reply_is_refused_before_its_question_is_looked_at() -> None:
    sent = request()
    sent.messages_list[0].metadata.src_node_id = 3
    for question in (QUESTION, None):
        refused = refusal(sent, question)
        assert refused.status == HTTPStatus.BAD_REQUEST
        assert refused.reason == "no reply to what it was asked"


def changed(**values: object) -> Callable[[PushMessagesRequest], None]:
    def change(sent: PushMessagesRequest) -> None:
        for name, value in values.items():
            setattr(sent.messages_list[0].metadata, name, value)

    return change


def ran(*seconds: float) -> Callable[[PushMessagesRequest], None]:
    def change(sent: PushMessagesRequest) -> None:
        sent.ClearField("clientapp_runtime_list")
        sent.clientapp_runtime_list.extend(seconds)

    return change


def failed(code: int, reason: str = "", *, content: bool = False) -> Callable[..., None]:
    def change(sent: PushMessagesRequest) -> None:
        if not content:
            sent.messages_list[0].ClearField("content")
        sent.messages_list[0].error.CopyFrom(Error(code=code, reason=reason))

    return change


def full(sent: PushMessagesRequest) -> None:
    sent.messages_list[0].content.items.add()


def empty(sent: PushMessagesRequest) -> None:
    sent.messages_list[0].ClearField("content")


def tree(*pieces: ObjectTree, of: str = ID) -> Callable[[PushMessagesRequest], None]:
    def change(sent: PushMessagesRequest) -> None:
        sent.message_object_trees[0].CopyFrom(ObjectTree(object_id=of, children=pieces))

    return change


WITHIN = {
    "as it is": changed(),
    "dated a day and the question's life early": changed(created_at=ASKED - TTL - DAY),
    "dated a day and the question's life late": changed(created_at=ASKED + TTL + DAY),
    "alive for a moment": changed(ttl=1e-9),
    "alive for a day and the question's life": changed(ttl=TTL + DAY),
    "no runtime": ran(),
    "no time": ran(0.0),
    "thirty years": ran(1e9),
    "the first error": failed(0),
    "the last error": failed(999, "x" * 1000),
    "no piece": tree(),
    "twice the pieces and one": tree(*map(piece, range(7))),
}
BEYOND = {
    "no id": changed(message_id="ab"),
    "another round": changed(group_id="2"),
    "another kind": changed(message_type="evaluate"),
    "dated too early": changed(created_at=ASKED - TTL - DAY - 1),
    "dated too late": changed(created_at=ASKED + TTL + DAY + 1),
    "dead": changed(ttl=0.0),
    "alive too long": changed(ttl=TTL + DAY + 1),
    "less than no time": ran(-1e-9),
    "a longer time": ran(math.nextafter(1e9, math.inf)),
    "two runtimes": ran(0.0, 0.0),
    "an error before the first": failed(-1),
    "an error after the last": failed(1000),
    "an error of too many words": failed(3, "x" * 1001),
    "an error and content": failed(3, content=True),
    "content that is no object": full,
    "neither error nor content": empty,
    "a tree of another": tree(piece(1), of=OTHER),
    "one piece more": tree(*map(piece, range(8))),
    "a piece twice": tree(piece(1), piece(1)),
    "itself for a piece": tree(ObjectTree(object_id=ID)),
    "a piece of no id": tree(piece(1), ObjectTree(object_id="x")),
    "a piece of pieces": tree(piece(1, piece(2))),
}


@pytest.mark.parametrize("how", WITHIN)
def test_what_a_site_says_that_answers_is_within_bounds(how: str) -> None:
    sent = request()
    WITHIN[how](sent)
    assert is_within_bounds(sent, QUESTION) and is_one_reply(sent, NODE)


@pytest.mark.parametrize("how", BEYOND)
def test_what_is_beyond_by_the_least_is_out_of_bounds(how: str) -> None:
    sent = request()
    BEYOND[how](sent)
    assert not is_within_bounds(sent, QUESTION) and is_one_reply(sent, NODE)


@pytest.mark.parametrize(
    ("session", "name", "content", "said"),
    [
        ("", ID, b"Message  0\x00", "an object of no reply"),
        ("x", "x", b"Message  0\x00", "an object of no reply"),
        ("x", ID, b"Array  0\x00", "an object out of bounds"),
        ("x", ID, b"Message  0\x00", ""),
    ],
)
def test_an_object_is_a_replys_and_in_its_bounds(
    session: str, name: str, content: bytes, said: str
) -> None:
    sent = PushObjectRequest(session_id=session, object_id=name, object_content=content)
    if not said:
        return check_object(sent)
    with pytest.raises(RefusedError, match=said) as refused:
        check_object(sent)
    large = said == "an object out of bounds"
    expected = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if large else HTTPStatus.BAD_REQUEST
    assert refused.value.status == expected
    return None


def test_a_question_is_what_a_site_has_taken(tmp_path: Path) -> None:
    """As the SuperLink keeps it: ids of 64 bits with a sign."""
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as state, state:
        state.execute("PRAGMA journal_mode = WAL")
        state.execute("CREATE TABLE object_children (parent_id, child_id)")
        state.execute("CREATE TABLE message_res (message_id, reply_to_message_id)")
        state.execute(
            "CREATE TABLE message_ins (message_id, run_id, dst_node_id, message_type, group_id, "
            "created_at, ttl, delivered_at)"
        )
        for name, taken in (("taken", "at noon"), ("waiting", "")):
            row = (
                name,
                uint64_to_int64(2**64 - 9),
                uint64_to_int64(NODE),
                "train",
                "1",
                ASKED,
                TTL,
            )
            state.execute(f"INSERT INTO message_ins VALUES ({'?, ' * 7}?)", (*row, taken))
        state.executemany("INSERT INTO object_children VALUES ('taken', ?)", [("a",), ("b",)])
    questions = Questions(path)
    expected = asked(identifier="taken", run=2**64 - 9, pieces=2)
    assert questions.find("taken") == expected
    assert questions.find("waiting") is None and questions.find("unknown") is None
    with closing(sqlite3.connect(path)) as state, state:
        state.execute("INSERT INTO message_res VALUES ('answer', 'taken')")
    assert questions.find("taken") == asked(**{**vars(expected), "reply": "answer"})
    with ThreadPoolExecutor(1) as another:
        assert another.submit(questions.find, "unknown").result() is None
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        questions._connection.execute("DELETE FROM message_ins")


def test_an_error_in_place_of_a_reply_is_the_asked_sites_and_lives_as_long_as_its_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reply_checks, "time", SimpleNamespace(time=lambda: ASKED + 12.5))
    error = flwr.app.Error(3, "out of bounds")
    reply = error_in_place(QUESTION, error)
    said = reply.metadata
    assert reply.has_error() and not reply.has_content() and reply.error is error
    assert (said.src_node_id, said.dst_node_id) == (NODE, SUPERLINK_NODE_ID)
    assert (said.run_id, said.reply_to_message_id) == (RUN, OTHER)
    assert (said.message_type, said.group_id) == ("train", "1")
    assert (said.created_at, said.ttl) == (ASKED + 12.5, TTL - 12.5)
    assert said.message_id == reply.object_id


@given(
    source=st.integers(0, 3),
    target=st.integers(0, 3),
    to=st.sampled_from(["", ID, ID[:-1], ID.upper(), ID + " "]),
    messages=st.integers(0, 2),
    trees=st.integers(0, 2),
)
def test_one_reply_is_from_the_node_to_the_server_and_to_a_message(
    source: int, target: int, to: str, messages: int, trees: int
) -> None:
    sent = PushMessagesRequest(message_object_trees=[ObjectTree()] * trees)
    for _ in range(messages):
        said = sent.messages_list.add().metadata
        said.src_node_id, said.dst_node_id, said.reply_to_message_id = source, target, to
    sound = (source, target, to, messages, trees) == (2, 1, ID, 1, 1)
    assert is_one_reply(sent, 2) == sound


FLOATS = st.floats() | st.floats(1.7e9, 1.9e9) | st.just(1.8e9)


@given(
    created=FLOATS,
    ttl=FLOATS | st.floats(-1, 1e5),
    runtimes=st.lists(FLOATS | st.just(0.0), max_size=2),
    pieces=st.integers(0, 12),
)
def test_what_is_within_bounds_is_finite_and_small(
    created: float, ttl: float, runtimes: list[float], pieces: int
) -> None:
    sent = request()
    changes = changed(created_at=created, ttl=ttl), ran(*runtimes), tree(*map(piece, range(pieces)))
    for change in changes:
        change(sent)
    sane = (
        abs(created - 1.8e9) < 1e5
        and 0 < ttl < 1e5
        and len(runtimes) < 2
        and all(0 <= seconds <= 1e9 for seconds in runtimes)
        and pieces <= 2 * QUESTION.pieces + 1
    )
    if is_within_bounds(sent, QUESTION):
        assert sane
    else:
        assert not (sane and created == 1.8e9 and ttl <= 60)


@given(
    kind=st.sampled_from([b"Message", b"ArrayChunk", b"Array", b"RecordDict", b""]),
    size=st.sampled_from([0, 1, MESSAGE_BYTES - 20, MESSAGE_BYTES + 1, PIECE_BYTES + 200]),
)
def test_objects_are_of_two_kinds_and_bounded(kind: bytes, size: int) -> None:
    content = kind + b"  0\x00" + bytes(size)
    most = {b"Message": MESSAGE_BYTES, b"ArrayChunk": PIECE_BYTES + 68}.get(kind, -1)
    assert may_be_object(content) == (len(content) <= most)
