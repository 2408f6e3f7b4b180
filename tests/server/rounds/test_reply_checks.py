"""What a member may send: the answer to what it was asked, once, and within bounds."""

import math
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.task_identity import TaskIdentity

from common.wire.flower_objects import MESSAGE_BYTES, PIECE_BYTES, SMALL_BYTES, take_apart
from common.wire.reply_status import Kind, ReplyStatus
from common.wire.vector_codec import encode
from server.fleet_api.handlers import Fleet
from server.flower.link_state import database
from server.rounds.messaging import exchange
from server.rounds.reply_checks import RefusedError, check_answers
from tests.server.nodes import Setting, connected

PUSH, PUSH_OBJECT = "/v1/fleet/push-messages", "/v1/fleet/push-object"
ID = "ab" * 32


class Wire:
    """Three sites that speak to the fleet API, and the run that asks them."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.setting = setting
        self.calls = Fleet(setting.state, database(folder), setting.log)

    def asked(self, site: str, model: int = 0) -> Message:
        """A message that the site has taken, with a model of so many numbers."""
        vector = np.zeros(model, np.float32) if model else None
        (identifier,) = self.setting.grid.push_messages([self.setting.message(site, vector)])
        self.setting.taken(site)
        return self.setting.kept(identifier)

    def request(self, site: str, to: Message, size: int = 5) -> PushMessagesRequest:
        """What an honest site announces."""
        return announced(self.setting.nodes[site], reply(to, size))

    def push(self, site: str, request: PushMessagesRequest) -> tuple[HTTPStatus, str | None]:
        """How it is answered, and what the audit log says of it."""
        try:
            body = request.SerializeToString()
            status, _ = self.calls.answer(PUSH, self.setting.keys[site], body)
        except RefusedError as refused:
            return refused.status, refused.reason
        return status, None

    def send(self, site: str, answer: Message) -> list[HTTPStatus]:
        """A whole reply, object by object, as an honest site sends it."""
        key = self.setting.keys[site]
        announce = announced(self.setting.nodes[site], answer).SerializeToString()
        status, (body,) = self.calls.answer(PUSH, key, announce)
        response, parts = PushMessagesResponse.FromString(body), take_apart(answer)
        return [status] + [
            self.calls.answer(
                PUSH_OBJECT,
                key,
                PushObjectRequest(
                    node=Node(node_id=self.setting.nodes[site]),
                    run_id=self.setting.grid.run.run_id,
                    object_id=identifier,
                    object_content=parts.content(identifier),
                    session_id=response.session_id,
                ).SerializeToString(),
            )[0]
            for identifier in response.objects_to_push
        ]

    def stored(self) -> dict[str, int]:
        """Rows of what the server keeps for readers."""
        store = self.setting.state.object_store
        assert isinstance(store, SqlObjectStore)
        tables = ("message_ins", "message_res", "objects", "object_push_sessions")
        return {
            table: int(store.query(f"SELECT COUNT(*) AS n FROM {table}")[0]["n"])
            for table in tables
        }


def reply(to: Message, size: int = 5) -> Message:
    vector = encode(np.ones(size, np.float32))
    return Message(RecordDict({"u": ArrayRecord({"values": vector})}), reply_to=to)


def announced(node: int, answer: Message) -> PushMessagesRequest:
    parts = take_apart(answer)
    return PushMessagesRequest(
        node=Node(node_id=node),
        messages_list=[message_to_proto(parts.head)],
        message_object_trees=[parts.tree],
        clientapp_runtime_list=[0.0],
    )


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    folder = tmp_path_factory.mktemp("wire")
    with connected(folder) as setting:
        yield Wire(setting, folder)


@pytest.fixture
def wire(three: Wire) -> Iterator[Wire]:
    """The three, online, of whom nothing is asked yet."""
    setting = three.setting
    TaskIdentity.run_id = setting.grid.run.run_id  # other tests have runs of their own
    for node in setting.nodes.values():
        setting.state.acknowledge_node_heartbeat(node, 30)
    yield three
    setting.grid.withdraw(setting.state.get_message_ids_from_run_id(setting.grid.run.run_id))


@pytest.mark.parametrize("size", [5, SMALL_BYTES, PIECE_BYTES // 4 + 1])
def test_an_honest_reply_is_taken_and_taken_again(wire: Wire, size: int) -> None:
    asked = wire.asked("paris", size)
    answer = reply(asked, size)
    for _ in range(2):
        request = announced(wire.setting.nodes["paris"], answer)
        assert wire.push("paris", request) == (HTTPStatus.OK, None)
    assert set(wire.send("paris", answer)) == {HTTPStatus.OK}
    (came,) = wire.setting.grid.pull_messages([asked.metadata.message_id])
    assert came.content.array_records["u"]["values"].shape == (size,)
    assert wire.stored()["message_ins"] == wire.stored()["message_res"] == 0
    assert wire.stored()["objects"] == 0, "neither the question nor the reply is kept"


def test_an_error_is_a_reply(wire: Wire) -> None:
    asked = wire.asked("paris")
    error = Message(Error(3, "x"), reply_to=asked)
    request = announced(wire.setting.nodes["paris"], error)
    assert wire.push("paris", request) == (HTTPStatus.OK, None)
    (came,) = wire.setting.grid.pull_messages([asked.metadata.message_id])
    assert came.error.code == 3
    assert wire.stored()["objects"] == 0


NUMBERS = [math.inf, -math.inf, -1.0, 0.0, 1e300, -1e300]
"""Of a time, in seconds: none is one."""


def set_metadata(name: str, value: object) -> Callable[[PushMessagesRequest], None]:
    return lambda request: setattr(request.messages_list[0].metadata, name, value)


def set_error(code: int, reason: str = "") -> Callable[[PushMessagesRequest], None]:
    def change(request: PushMessagesRequest) -> None:
        request.messages_list[0].ClearField("content")
        request.messages_list[0].error.code = code
        request.messages_list[0].error.reason = reason

    return change


def set_runtime(*values: float) -> Callable[[PushMessagesRequest], None]:
    return lambda request: (
        request.ClearField("clientapp_runtime_list")
        or request.clientapp_runtime_list.extend(values)
    )


def set_tree(*children: ObjectTree, root: str | None = None) -> Callable[..., None]:
    def change(request: PushMessagesRequest) -> None:
        tree = request.message_object_trees[0]
        tree.children.extend(children)
        tree.object_id = root or tree.object_id

    return change


def add_content(request: PushMessagesRequest) -> None:
    content = message_to_proto(reply_like()).content
    request.messages_list[0].content.CopyFrom(content)


def reply_like() -> Message:
    return Message(RecordDict({"u": ArrayRecord()}), 2, "train")


def piece(number: int, *children: ObjectTree) -> ObjectTree:
    return ObjectTree(object_id=f"{number:064x}", children=children)


OUT_OF_BOUNDS = {
    **{f"created {n}": set_metadata("created_at", n) for n in NUMBERS},
    **{f"ttl {n}": set_metadata("ttl", n) for n in NUMBERS},
    **{f"runtime {n}": set_runtime(n) for n in NUMBERS if n != 0},
    "two runtimes": set_runtime(0.0, 0.0),
    "another kind": set_metadata("message_type", "evaluate"),
    "a kind of its own": set_metadata("message_type", "x" * 10_000),
    "another round": set_metadata("group_id", "2"),
    "no id": set_metadata("message_id", ""),
    "an id that is none": set_metadata("message_id", "x" * 64),
    "another id": set_metadata("message_id", ID),
    "an error code below": set_error(-(2**63)),
    "an error code beyond": set_error(2**63 - 1),
    "an error of many words": set_error(3, "x" * 100_000),
    "content beside its object": add_content,
    "a tree of another": set_tree(root=ID),
    "two pieces": set_tree(piece(1), piece(2)),
    "a piece twice": set_tree(piece(1), piece(1)),
    "a piece that is none": set_tree(ObjectTree(object_id="x")),
    "a deep tree": set_tree(piece(1, piece(2))),
    "many pieces": set_tree(*(piece(number) for number in range(500))),
}


@pytest.mark.parametrize("how", OUT_OF_BOUNDS)
def test_a_reply_out_of_bounds_costs_that_site_its_reply(wire: Wire, how: str) -> None:
    asked = {site: wire.setting.message(site) for site in ("paris", "rome")}
    found = exchange(wire.setting.grid, asked, 5.0)
    before = {}

    def answered() -> None:
        before.update(wire.stored())
        wire.setting.taken("paris"), wire.setting.taken("rome")
        request = wire.request("paris", asked["paris"])
        OUT_OF_BOUNDS[how](request)
        reason = "a reply out of bounds"
        assert wire.push("paris", request) == (HTTPStatus.BAD_REQUEST, reason)
        assert wire.stored() == before | {"message_res": 1}, "an error in its place"
        assert wire.send("rome", reply(asked["rome"])) == [HTTPStatus.OK] * 2

    pull, calls = wire.setting.grid.pull_messages, [answered]

    def pulled(identifiers: list[str]) -> list[Message]:
        while calls:
            calls.pop()()
        return list(pull(identifiers))

    wire.setting.grid.pull_messages = pulled  # type: ignore[method-assign, assignment]
    replies = dict(found)
    assert replies["paris"] == ReplyStatus(Kind.LEFT_OUT, "the reply cannot be read")
    assert isinstance(replies["rome"], Message)
    late = wire.request("paris", asked["paris"])
    assert wire.push("paris", late) == (HTTPStatus.GONE, None), "it has had its reply"


def set_field(name: str, value: object) -> Callable[[PushMessagesRequest, Wire], None]:
    return lambda request, _: setattr(request.messages_list[0].metadata, name, value)


def to_rome(request: PushMessagesRequest, wire: Wire) -> None:
    said = request.messages_list[0].metadata
    said.dst_node_id, said.reply_to_message_id = wire.setting.nodes["rome"], ""


def to_romes(request: PushMessagesRequest, wire: Wire) -> None:
    said = request.messages_list[0].metadata
    said.reply_to_message_id = wire.asked("rome").metadata.message_id


def not_taken(request: PushMessagesRequest, wire: Wire) -> None:
    (identifier,) = wire.setting.grid.push_messages([wire.setting.message("paris")])
    request.messages_list[0].metadata.reply_to_message_id = identifier


def twice(request: PushMessagesRequest, _: Wire) -> None:
    request.messages_list.append(request.messages_list[0])


def nothing(request: PushMessagesRequest, _: Wire) -> None:
    request.ClearField("messages_list")
    request.ClearField("message_object_trees")


NO_REPLY = {
    "a message to another site": to_rome,
    "a message of no reply": set_field("reply_to_message_id", ""),
    "in the server's name": set_field("src_node_id", 1),
    "to another than the server": set_field("dst_node_id", 2),
    "to what another was asked": to_romes,
    "to no message's id": set_field("reply_to_message_id", "x" * 10_000),
    "of another run": set_field("run_id", 7),
    "two at once": twice,
    "none at all": nothing,
}


@pytest.mark.parametrize("how", NO_REPLY)
def test_what_is_no_reply_of_its_own_is_not_taken(wire: Wire, how: str) -> None:
    asked = wire.asked("paris")
    request = wire.request("paris", asked)
    NO_REPLY[how](request, wire)
    before = wire.stored()
    reason = "no reply to what it was asked"
    assert wire.push("paris", request) == (HTTPStatus.BAD_REQUEST, reason)
    assert wire.stored() == before
    assert wire.setting.state.get_message_ins(wire.setting.nodes["rome"], limit=1) == []
    assert wire.send("paris", reply(asked)) == [HTTPStatus.OK] * 2, "its reply is still waited for"


@pytest.mark.parametrize("how", ["not taken yet", "unknown", "too late", "withdrawn"])
def test_a_reply_that_nobody_waits_for_is_not_kept(wire: Wire, how: str) -> None:
    asked = wire.asked("paris")
    request = wire.request("paris", asked)
    if how == "not taken yet":
        not_taken(request, wire)
    elif how == "unknown":
        request.messages_list[0].metadata.reply_to_message_id = ID
    elif how == "withdrawn":
        wire.setting.grid.withdraw([asked.metadata.message_id])
    else:
        question = wire.calls._questions.find(asked.metadata.message_id)
        assert question is not None
        with pytest.raises(RefusedError, match="410"):
            check_answers(request, question, wire.setting.nodes["paris"], question.end)
        return
    before = wire.stored()
    assert wire.push("paris", request) == (HTTPStatus.GONE, None)
    assert wire.stored() == before


def test_a_second_reply_is_not_taken_and_the_first_stands(wire: Wire) -> None:
    asked = wire.asked("paris")
    assert wire.send("paris", reply(asked)) == [HTTPStatus.OK] * 2
    before = wire.stored()
    second = wire.request("paris", asked, 6)
    assert wire.push("paris", second) == (HTTPStatus.CONFLICT, "a second reply")
    OUT_OF_BOUNDS["ttl -1.0"](second)
    assert wire.push("paris", second) == (HTTPStatus.CONFLICT, "a second reply")
    assert wire.stored() == before
    (came,) = wire.setting.grid.pull_messages([asked.metadata.message_id])
    assert came.content.array_records["u"]["values"].shape == (5,)


def test_a_run_that_is_over_leaves_nothing(tmp_path: Path) -> None:
    with connected(tmp_path) as setting:
        check_that_a_run_that_is_over_leaves_nothing(Wire(setting, tmp_path))


def check_that_a_run_that_is_over_leaves_nothing(wire: Wire) -> None:
    asked = wire.asked("paris", SMALL_BYTES)
    wire.push("paris", wire.request("paris", asked, SMALL_BYTES))
    wire.setting.state.stop_run(wire.setting.grid.run.run_id)
    assert wire.push("paris", wire.request("paris", asked)) == (HTTPStatus.GONE, None)
    assert set(wire.stored().values()) == {0}


def test_what_is_withdrawn_half_way_is_not_kept(wire: Wire) -> None:
    asked = wire.asked("paris", SMALL_BYTES)
    identifier = asked.metadata.message_id
    wire.push("paris", wire.request("paris", asked, SMALL_BYTES))
    assert list(wire.setting.grid.pull_messages([identifier])) == []
    assert wire.stored()["objects"] > 0
    wire.setting.grid.withdraw([identifier])
    rows = wire.stored()
    assert (rows["message_ins"], rows["message_res"], rows["objects"]) == (0, 0, 0)


def of_object(**changes: object) -> PushObjectRequest:
    fields = {"object_id": ID, "object_content": b"Message  0\x00", "session_id": "x"} | changes
    return PushObjectRequest(**fields)  # type: ignore[arg-type]


OBJECTS = {
    "of no session": (of_object(session_id=""), "an object of no reply"),
    "of no id": (of_object(object_id="x" * 10_000), "an object of no reply"),
    "of another kind": (of_object(object_content=b"Array  0\x00"), "an object out of bounds"),
    "of no kind": (of_object(object_content=b"x" * 1000), "an object out of bounds"),
    "a large message": (
        of_object(object_content=b"Message ".ljust(MESSAGE_BYTES + 1)),
        "an object out of bounds",
    ),
    "a large piece": (
        of_object(object_content=b"ArrayChunk ".ljust(PIECE_BYTES + 1000)),
        "an object out of bounds",
    ),
}


@pytest.mark.parametrize("how", OBJECTS)
def test_an_object_out_of_bounds_is_not_taken(wire: Wire, how: str) -> None:
    request, reason = OBJECTS[how]
    request.node.node_id = wire.setting.nodes["paris"]
    request.run_id = wire.setting.grid.run.run_id
    with pytest.raises(RefusedError) as refused:
        wire.calls.answer(PUSH_OBJECT, wire.setting.keys["paris"], request.SerializeToString())
    assert refused.value.reason == reason


@pytest.mark.parametrize("more", [b"\xf8\x07\x01", b"\x2a\x01a"])
def test_a_request_of_other_fields_is_not_taken(wire: Wire, more: bytes) -> None:
    asked = wire.asked("paris")
    body = wire.request("paris", asked).SerializeToString()
    for sent in (body + more, body + body[: body.index(b"\x12")]):
        answer = wire.calls.answer(PUSH, wire.setting.keys["paris"], sent)
        assert answer == (HTTPStatus.BAD_REQUEST, ())
