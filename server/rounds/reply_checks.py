"""What a site may send: the answer to what it was asked, once, and within bounds.

Flower's handlers store what a site says of itself as it is, and read it in the rounds' process,
where a number out of range ends whatever reads it. They take a message that is no reply, too, and
hand it to another site. So a site's message is looked at here, before they see it.
"""

import re
import sqlite3
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from flwr.app import Error, Message

from common.wire.flower_internals import (
    SUPERLINK_NODE_ID,
    Metadata,
    ObjectTree,
    ProtoMessage,
    PushMessagesRequest,
    PushObjectRequest,
    int64_to_uint64,
    make_message,
)
from common.wire.flower_objects import may_be_object
from server.fleet_api.rejection_log import Reason

_CLOCK_SECONDS = 86_400.0
"""How far a reply may be dated outside its question's life; what is signed at another time than
now does not come here at all."""
_LONGEST_RUNTIME = 1e9
_LARGEST_CODE, _LONGEST_REASON = 999, 1000
"""Of an error in place of a reply; Flower's codes are below 100."""
_ID = re.compile(r"[0-9a-f]{64}")
_QUESTION = """
    SELECT ins.run_id, ins.dst_node_id, ins.message_type, ins.group_id, ins.created_at, ins.ttl,
        COALESCE(res.message_id, ''),
        (SELECT COUNT(*) FROM object_children WHERE parent_id = ins.message_id)
    FROM message_ins AS ins
    LEFT JOIN message_res AS res ON res.reply_to_message_id = ins.message_id
    WHERE ins.message_id = ? AND ins.delivered_at != ''
"""


class RefusedError(Exception):
    """What a member sent is not taken: how it is answered, and what the audit log says of it."""

    def __init__(self, status: HTTPStatus, reason: Reason | None = None) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason
        """None: it happens to an honest site too."""


@dataclass(frozen=True)
class Question:
    """A message that a site has taken, as the SuperLink keeps it."""

    identifier: str
    run: int
    node: int
    kind: str
    group: str
    created: float
    ttl: float
    reply: str
    """The id of the reply that came; "" while there is none."""
    pieces: int
    """Objects beside the message's own."""

    @property
    def end(self) -> float:
        """Until when a reply is of use, in seconds of Unix time."""
        return self.created + self.ttl


class Questions:
    """The messages that sites have taken, by their ids, from the SuperLink's database."""

    def __init__(self, database: Path) -> None:
        # Read only: in WAL mode no writer waits for it.
        address = f"{database.absolute().as_uri()}?mode=ro"
        self._connection = sqlite3.connect(address, uri=True, check_same_thread=False)

    def find(self, identifier: str) -> Question | None:
        """The question; None when there is none, any more or at all."""
        row = self._connection.execute(_QUESTION, (identifier,)).fetchone()
        if row is None:
            return None
        run, node, *others = row
        return Question(identifier, int64_to_uint64(run), int64_to_uint64(node), *others)


def check_answers(
    request: PushMessagesRequest, question: Question | None, node: int, now: float
) -> None:
    """Raise RefusedError unless the request is the node's own, first reply to the question.

    The same reply once more is let through: the site did not hear that the first had come.
    question: of the reply's `reply_to_message_id`.
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
    """Whether the request holds one message, which says that it is this node's reply."""
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        return False
    said = request.messages_list[0].metadata
    parties = said.src_node_id, said.dst_node_id
    return parties == (node, SUPERLINK_NODE_ID) and _is_id(said.reply_to_message_id)


def is_within_bounds(request: PushMessagesRequest, question: Question) -> bool:
    """Whether all else that the reply says is what a site says that answers this question."""
    (reply,), (tree,) = request.messages_list, request.message_object_trees
    said = reply.metadata
    return (
        _is_id(said.message_id)
        and (said.group_id, said.message_type) == (question.group, question.kind)
        and abs(said.created_at - question.created) <= question.ttl + _CLOCK_SECONDS
        and 0 < said.ttl <= question.ttl + _CLOCK_SECONDS
        and all(0 <= seconds <= _LONGEST_RUNTIME for seconds in request.clientapp_runtime_list)
        and len(request.clientapp_runtime_list) <= 1
        and _is_thin(reply)
        and tree.object_id == said.message_id
        and _is_flat(tree, most=2 * question.pieces + 1)
    )


def check_object(request: PushObjectRequest) -> None:
    """Raise RefusedError unless this is an object of a reply that was announced, in its bounds."""
    if not request.session_id or not _is_id(request.object_id):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "an object of no reply")
    if not may_be_object(request.object_content):
        raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "an object out of bounds")


def error_in_place(question: Question, error: Error) -> Message:
    """What stands in the place of a reply, in the name of the site that was asked."""
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


def _is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def _is_thin(reply: ProtoMessage) -> bool:
    """Whether either an error, or nothing, stands where the content was; that is an object."""
    if reply.HasField("error"):
        sane = 0 <= reply.error.code <= _LARGEST_CODE
        return sane and len(reply.error.reason) <= _LONGEST_REASON and not reply.HasField("content")
    return reply.HasField("content") and reply.content.ByteSize() == 0


def _is_flat(tree: ObjectTree, most: int) -> bool:
    """Whether pieces, each once and `most` in all, lie beside the message, and nothing below.

    A site sends what it was sent, in numbers of half or of twice the size.
    """
    names = [piece.object_id for piece in tree.children]
    leaves = all(_is_id(piece.object_id) and not piece.children for piece in tree.children)
    return len(names) <= most and leaves and len({*names, tree.object_id}) == len(names) + 1
