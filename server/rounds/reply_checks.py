"""Checks what a site sends: only the answer to its question is taken, once, and within bounds.

Flower's handlers store a site's metadata unchecked and read it in the rounds' process, where a
number out of range raises an error. They also accept a message that is not a reply, and deliver it
to another site. These checks therefore run before Flower's handlers see the message.
"""

import sqlite3
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

from flwr.app import Error, Message

from common.wire.flower_internals import (
    SUPERLINK_NODE_ID,
    Metadata,
    ObjectTree,
    ProtoMessage,
    PushMessagesRequest,
    int64_to_uint64,
    make_message,
)
from common.wire.flower_objects import Buffer, is_identifier, may_be_object
from server.fleet_api.rejection_log import Reason

_CLOCK_SECONDS = 86_400.0
"""How far, in seconds, the date of a reply may lie outside its question's life. Requests whose
signature is not recent are refused before they reach these checks."""
_LONGEST_RUNTIME = 1e9
"""The longest time that a client may say it computed, in seconds."""
_LARGEST_CODE, _LONGEST_REASON = 999, 1000
"""The largest code, and the longest reason in characters, of an error sent in place of a reply.
Flower's own codes are below 100."""
_QUESTION = """
    SELECT ins.run_id, ins.dst_node_id, ins.message_type, ins.group_id, ins.created_at, ins.ttl,
        COALESCE(res.message_id, ''),
        (SELECT COUNT(*) FROM object_children WHERE parent_id = ins.message_id)
    FROM message_ins AS ins
    LEFT JOIN message_res AS res ON res.reply_to_message_id = ins.message_id
    WHERE ins.message_id = ? AND ins.delivered_at != ''
"""


class RefusedError(Exception):
    """A member's message is refused: the HTTP answer, and the reason for the audit log."""

    def __init__(self, status: HTTPStatus, reason: Reason | None = None) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason
        """Why, for the audit log; None if it also happens to honest sites and is not logged."""


@dataclass(frozen=True)
class Question:
    """A message that a site has fetched, as the SuperLink keeps it."""

    identifier: str
    """The message's id, 64 hexadecimal digits."""
    run: int
    node: int
    """The id of the node that fetched it."""
    kind: str
    """The message type, such as "train"."""
    group: str
    """The message's group: within a round, the round's number."""
    created: float
    """In seconds of Unix time."""
    ttl: float
    """How long a reply is of use, in seconds."""
    reply: str
    """The id of the reply that came; "" if none has."""
    pieces: int
    """The number of objects besides the message's own."""

    @property
    def end(self) -> float:
        """The time at which a reply is no longer of use, in seconds of Unix time."""
        return self.created + self.ttl


class Questions:
    """Finds the messages that sites have fetched in the SuperLink's database."""

    def __init__(self, database: Path) -> None:
        # Read only: in WAL mode no writer waits for it.
        address = f"{database.absolute().as_uri()}?mode=ro"
        self._connection = sqlite3.connect(address, uri=True, check_same_thread=False)

    def find(self, identifier: str) -> Question | None:
        """Return the question of this message id, or None if it is unknown or already deleted."""
        row = self._connection.execute(_QUESTION, (identifier,)).fetchone()
        if row is None:
            return None
        run, node, *others = row
        return Question(identifier, int64_to_uint64(run), int64_to_uint64(node), *others)


def check_answers(
    request: PushMessagesRequest, question: Question | None, node: int, now: float
) -> None:
    """Check that the request holds the node's own, first reply to the question.

    The same reply is accepted a second time: the site did not learn that the first had arrived.

    Args:
        request: what the site sends.
        question: the question that the reply's `reply_to_message_id` names, or None.
        node: the id of the node whose key signed the request.
        now: in seconds of Unix time.

    Raises:
        RefusedError: it is no such reply, or it comes too late.
    """
    if not is_one_reply(request, node):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "no reply to what it was asked")
    said = request.messages_list[0].metadata
    if question is None or now >= question.end:  # too late, as it happens to a slow site
        raise RefusedError(HTTPStatus.GONE)
    if question.node != node or question.run != said.run_id:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "no reply to what it was asked")
    if question.reply not in ("", said.message_id):
        raise RefusedError(HTTPStatus.CONFLICT, "a second reply")


def is_one_reply(request: PushMessagesRequest, node: int) -> bool:
    """Return whether the request holds exactly one message, marked as a reply of this node."""
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        return False
    said = request.messages_list[0].metadata
    parties = said.src_node_id, said.dst_node_id
    return parties == (node, SUPERLINK_NODE_ID) and is_identifier(said.reply_to_message_id)


def is_within_bounds(request: PushMessagesRequest, question: Question) -> bool:
    """Return whether the rest of the reply is what an honest site sends to this question.

    The request has passed `check_answers`. This checks its type, round, dates, run times, error
    and objects.
    """
    (reply,), (tree,) = request.messages_list, request.message_object_trees
    said = reply.metadata
    return (
        is_identifier(said.message_id)
        and (said.group_id, said.message_type) == (question.group, question.kind)
        and abs(said.created_at - question.created) <= question.ttl + _CLOCK_SECONDS
        and 0 < said.ttl <= question.ttl + _CLOCK_SECONDS
        and all(0 <= seconds <= _LONGEST_RUNTIME for seconds in request.clientapp_runtime_list)
        and len(request.clientapp_runtime_list) <= 1
        and _is_thin(reply)
        and tree.object_id == said.message_id
        and _is_flat(tree, most=2 * question.pieces + 1)
    )


class BringsObject(Protocol):
    """A request that carries an object: Flower's own type, or one with the object left in place."""

    @property
    def session_id(self) -> str: ...
    @property
    def object_id(self) -> str: ...
    @property
    def object_content(self) -> Buffer: ...


def check_object(request: BringsObject) -> None:
    """Check that the request brings an object of an announced reply, of a permitted size.

    Raises:
        RefusedError: it does not.
    """
    if not request.session_id or not is_identifier(request.object_id):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "an object of no reply")
    if not may_be_object(request.object_content):
        raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "an object out of bounds")


def error_in_place(question: Question, error: Error) -> Message:
    """Return a reply that holds `error`, in the name of the node that was asked the question."""
    metadata = Metadata(
        run_id=question.run,
        message_id="",
        src_node_id=question.node,
        dst_node_id=SUPERLINK_NODE_ID,
        reply_to_message_id=question.identifier,
        group_id=question.group,
        created_at=(now := time.time()),
        ttl=question.end - now,
        message_type=question.kind,
    )
    reply = make_message(metadata, error=error)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    return reply


def _is_thin(reply: ProtoMessage) -> bool:
    """Return whether the message holds either an error within bounds or an empty content.

    The content itself travels as objects.
    """
    if reply.HasField("error"):
        sane = 0 <= reply.error.code <= _LARGEST_CODE
        return sane and len(reply.error.reason) <= _LONGEST_REASON and not reply.HasField("content")
    return reply.HasField("content") and reply.content.ByteSize() == 0


def _is_flat(tree: ObjectTree, most: int) -> bool:
    """Return whether the tree is the message and at most `most` different pieces with no children.

    A site sends back a vector of the length it was sent, in numbers of half or twice the size.
    """
    names = [piece.object_id for piece in tree.children]
    leaves = all(is_identifier(piece.object_id) and not piece.children for piece in tree.children)
    return len(names) <= most and leaves and len({*names, tree.object_id}) == len(names) + 1
