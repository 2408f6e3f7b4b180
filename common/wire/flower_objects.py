"""A message as the objects that Flower stores and sends one by one: as few as can be.

A request costs much the same whatever it carries, and Flower makes an object of each record, array
and piece of an array. Here the message is one object, with all that is small in it. A large vector
lies beside it in pieces, which are stored once, however many sites they go to.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, Message, RecordDict

from common.wire.flower_internals import (
    HEAD_BODY_DIVIDER,
    ArrayChunk,
    ObjectTree,
    ProtoMessage,
    iterate_object_tree,
    make_message,
    message_from_proto,
    message_to_proto,
    remove_content_from_message,
)

PIECE_BYTES = 16 * 2**20
"""Of a vector, at most. Either side holds some copies of a piece for each request under way."""
SMALL_BYTES = 2**18
"""A vector of no more goes with its message: stored for each site it costs less than a request."""

MESSAGE_BYTES = 2**20
"""Of a site's message with all that is small in it, at most: one such vector, a tally, its words.
The server's may bring a registry."""

_HEAD_BYTES = 64
"""Before the body of a piece, at most."""
_NUMBER_BYTES = 4
"""Each piece begins with its number, so that no two of a vector are one object."""
_ID_BYTES = 32
_IN_PIECES = "in pieces: "
"""Before the serialisation type of an array whose data are the ids of its pieces."""


@dataclass(frozen=True)
class Parts:
    """A message taken apart; pieces are cut when they are asked for."""

    head: Message
    """The message without its content."""
    tree: ObjectTree
    """The message's object and its pieces, by their ids: the SHA-256 (hex) of their bytes."""
    _message: bytes
    _pieces: Mapping[str, "_Piece"]

    def content(self, identifier: str) -> bytes:
        """The bytes of an object of the tree."""
        if identifier == self.tree.object_id:
            return self._message
        return self._pieces[identifier].content()


@dataclass(frozen=True)
class _Piece:
    number: int
    data: memoryview

    def content(self) -> bytes:
        return _object(ArrayChunk, [], self.number.to_bytes(_NUMBER_BYTES, "big") + self.data)


def take_apart(message: Message) -> Parts:
    """The message's parts; its id becomes its object's.

    An array is hashed once, however many messages it goes into: it keeps its pieces with their ids.
    """
    pieces: dict[str, _Piece] = {}
    thin = message
    if message.has_content():
        content, pieces = _thinned(message.content)
        thin = make_message(message.metadata, content)
    proto = message_to_proto(thin)
    proto.metadata.message_id = ""
    data = _object(Message, list(pieces), proto.SerializeToString())
    identifier = hashlib.sha256(data).hexdigest()
    message.metadata.__dict__["_message_id"] = identifier
    children = [ObjectTree(object_id=piece) for piece in pieces]
    tree = ObjectTree(object_id=identifier, children=children)
    return Parts(remove_content_from_message(message), tree, data, pieces)


def identifiers(tree: ObjectTree) -> list[str]:
    """The tree's ids; the message's is the last."""
    return [part.object_id for part in iterate_object_tree(tree)]


def may_be_object(content: bytes) -> bool:
    """Whether a site's message may have this object: a message or a piece, within its bounds."""
    kind = content[:_HEAD_BYTES].partition(b" ")[0]
    most = {b"Message": MESSAGE_BYTES, b"ArrayChunk": PIECE_BYTES + _NUMBER_BYTES + _HEAD_BYTES}
    return len(content) <= most.get(kind, -1)


def put_together(identifier: str, contents: Mapping[str, bytes]) -> Message:
    """The message of that id, from the bytes of all its objects.

    Raises ValueError, or what protobuf and Flower raise, for what `take_apart` did not make. Each
    piece counts once: what comes out is not larger than what came in.
    """
    if not contents[identifier].startswith(b"Message "):
        raise ValueError("an object of another kind in place of the message")
    message = message_from_proto(ProtoMessage.FromString(_body(contents[identifier])))
    pieces = {name: content for name, content in contents.items() if name != identifier}
    if message.has_content():
        for record in message.content.array_records.values():
            for name, array in record.items():
                if array.stype.startswith(_IN_PIECES):
                    record[name] = _filled(array, pieces)
    if pieces:
        raise ValueError(f"{len(pieces)} objects that belong to no array of the message")
    message.metadata.__dict__["_message_id"] = identifier
    return message


def _thinned(content: RecordDict) -> tuple[RecordDict, dict[str, _Piece]]:
    """The content with ids in place of what is large, and the pieces by their ids."""
    thin, pieces = RecordDict(dict(content)), dict[str, _Piece]()
    for name, record in content.array_records.items():
        thin[name] = filling = ArrayRecord()
        for key, array in record.items():
            filling[key] = array
            if len(array.data) > SMALL_BYTES:
                cut = _cut(array)
                ids = b"".join(bytes.fromhex(piece) for piece in cut)
                filling[key] = Array(array.dtype, array.shape, _IN_PIECES + array.stype, ids)
                pieces |= cut
    return thin, pieces


def _cut(array: Array) -> dict[str, _Piece]:
    """The array's pieces by their ids, in their order; kept with the array."""
    kept: dict[str, _Piece] | None = vars(array).get("_hemofed_pieces")
    if kept is None:
        data, kept = memoryview(array.data), {}
        for number, start in enumerate(range(0, len(data), PIECE_BYTES)):
            piece = _Piece(number, data[start : start + PIECE_BYTES])
            kept[hashlib.sha256(piece.content()).hexdigest()] = piece
        vars(array)["_hemofed_pieces"] = kept
    return kept


def _filled(array: Array, pieces: dict[str, bytes]) -> Array:
    """The array with its data, from the pieces that it names, which are taken."""
    ids = [array.data[at : at + _ID_BYTES].hex() for at in range(0, len(array.data), _ID_BYTES)]
    data = []
    for number, name in enumerate(ids):
        body = _body(pieces.pop(name, b""))
        if body[:_NUMBER_BYTES] != number.to_bytes(_NUMBER_BYTES, "big"):
            raise ValueError(f"piece {number} of an array is not there, or is another one")
        data.append(body[_NUMBER_BYTES:])
    stype = array.stype.removeprefix(_IN_PIECES)
    return Array(array.dtype, array.shape, stype, b"".join(data))


def _object(kind: type, children: list[str], body: bytes) -> bytes:
    """In Flower's form, which its store insists on."""
    head = f"{kind.__name__} {','.join(children)} {len(body)}"
    return head.encode() + HEAD_BODY_DIVIDER + body


def _body(content: bytes) -> memoryview:
    """Of an object in Flower's form."""
    return memoryview(content)[content.find(HEAD_BODY_DIVIDER) + 1 :]
