"""A message as the objects that Flower stores and sends one by one: as few as possible.

A request costs about the same whatever it carries, and Flower makes an object of each record, array
and piece of an array. Here the message is one object, which holds everything small. A large vector
lies beside it in pieces, which are stored once, however many sites they go to.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
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
"""Largest piece of a vector. Each side holds some copies of a piece for each running request."""
SMALL_BYTES = 2**18
"""A vector up to this size goes with its message: storing it for each site costs less than a
request."""

MESSAGE_BYTES = 2**20
"""Largest message object of a site, with everything small in it: a small vector, a tally, texts.
The server's may hold a registry and be larger."""

Buffer = bytes | memoryview
"""Bytes that another owner may hold: a vector, say, of which they are a part."""

_IDENTIFIER = re.compile(r"[0-9a-f]{64}")
_HEAD_BYTES = 64
"""Most bytes before the body of a piece."""
_NUMBER_BYTES = 4
"""Bytes of a piece's number, with which it begins: no two pieces of a vector are equal objects."""
_ID_BYTES = 32
_IN_PIECES = "in pieces: "
"""Prefix of the serialisation type of an array whose data are the ids of its pieces."""


@dataclass(frozen=True)
class Parts:
    """A message taken apart; its pieces are views of the vectors."""

    head: Message
    """The message without its content."""
    tree: ObjectTree
    """The message's object and its pieces, by their ids: the SHA-256 (hex) of their bytes."""
    _message: bytes
    _pieces: Mapping[str, "_Piece"]

    def spans(self, identifier: str) -> tuple[Buffer, ...]:
        """The bytes of an object of the tree as spans in order; a vector's bytes are not copied."""
        if identifier == self.tree.object_id:
            return (self._message,)
        piece = self._pieces[identifier]
        return piece.head, piece.data

    def content(self, identifier: str) -> bytes:
        """The bytes of an object of the tree."""
        return b"".join(self.spans(identifier))


@dataclass(frozen=True)
class _Piece:
    number: int
    data: memoryview

    @property
    def head(self) -> bytes:
        """The bytes before the data."""
        head = _head(ArrayChunk, [], _NUMBER_BYTES + len(self.data))
        return head + self.number.to_bytes(_NUMBER_BYTES, "big")

    def identifier(self) -> str:
        digest = hashlib.sha256(self.head)
        digest.update(self.data)
        return digest.hexdigest()


def take_apart(message: Message) -> Parts:
    """The message's parts; sets the message's id to that of its object.

    An array is hashed once, however many messages it goes into: it keeps its pieces with their ids.
    """
    pieces: dict[str, _Piece] = {}
    thin = message
    if message.has_content():
        content, pieces = _thinned(message.content)
        thin = make_message(message.metadata, content)
    proto = message_to_proto(thin)
    proto.metadata.message_id = ""
    body = proto.SerializeToString()
    data = _head(Message, list(pieces), len(body)) + body
    identifier = hashlib.sha256(data).hexdigest()
    message.metadata.__dict__["_message_id"] = identifier
    children = [ObjectTree(object_id=piece) for piece in pieces]
    tree = ObjectTree(object_id=identifier, children=children)
    return Parts(remove_content_from_message(message), tree, data, pieces)


def identifiers(tree: ObjectTree) -> list[str]:
    """The ids of the tree's objects; the message's is the last."""
    return [part.object_id for part in iterate_object_tree(tree)]


def is_identifier(text: str) -> bool:
    """Return whether `text` is the id of an object: a SHA-256 in lower-case hex."""
    return _IDENTIFIER.fullmatch(text) is not None


def may_be_object(content: Buffer) -> bool:
    """Whether a site may send this object: a message or a piece that is not too large."""
    kind = bytes(content[:_HEAD_BYTES]).partition(b" ")[0]
    most = {b"Message": MESSAGE_BYTES, b"ArrayChunk": PIECE_BYTES + _NUMBER_BYTES + _HEAD_BYTES}
    return len(content) <= most.get(kind, -1)


def is_piece(content: Buffer) -> bool:
    """Whether the object is a whole piece of a vector in Flower's form."""
    head, found, _ = bytes(content[:_HEAD_BYTES]).partition(HEAD_BODY_DIVIDER)
    return bool(found) and head + found == _head(ArrayChunk, [], len(content) - len(head) - 1)


def put_together(identifier: str, contents: Mapping[str, Buffer]) -> Message:
    """The message with the id `identifier`, from the bytes of all its objects by their ids.

    Raises ValueError, or what protobuf and Flower raise, for objects that `take_apart` did not
    make. Each piece is used once, so the result is not larger than the objects.
    """
    own = bytes(contents[identifier])  # a piece stays where it lies
    if not own.startswith(b"Message "):
        raise ValueError("an object of another kind in place of the message")
    message = message_from_proto(ProtoMessage.FromString(_body(own)))
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
    """The content with the ids of pieces in place of large data, and the pieces by their ids."""
    thin, pieces = RecordDict(dict(content)), dict[str, _Piece]()
    for name, record in content.array_records.items():
        thin[name] = filling = ArrayRecord()
        for key, array in record.items():
            if len(array.data) <= SMALL_BYTES:
                filling[key] = Array(array.dtype, array.shape, array.stype, bytes(array.data))
            else:
                cut = _cut(array)
                ids = b"".join(bytes.fromhex(piece) for piece in cut)
                filling[key] = Array(array.dtype, array.shape, _IN_PIECES + array.stype, ids)
                pieces |= cut
    return thin, pieces


def _cut(array: Array) -> dict[str, _Piece]:
    """The array's pieces by their ids, in order; they are kept with the array."""
    kept: dict[str, _Piece] | None = vars(array).get("_hemofed_pieces")
    if kept is None:
        data, kept = memoryview(array.data), {}
        for number, start in enumerate(range(0, len(data), PIECE_BYTES)):
            piece = _Piece(number, data[start : start + PIECE_BYTES])
            kept[piece.identifier()] = piece
        vars(array)["_hemofed_pieces"] = kept
    return kept


def _filled(array: Array, pieces: dict[str, Buffer]) -> Array:
    """The array with its data from the pieces that it names; removes them from `pieces`."""
    ids = [array.data[at : at + _ID_BYTES].hex() for at in range(0, len(array.data), _ID_BYTES)]
    data = []
    for number, name in enumerate(ids):
        body = _body(pieces.pop(name, b""))
        if body[:_NUMBER_BYTES] != number.to_bytes(_NUMBER_BYTES, "big"):
            raise ValueError(f"piece {number} of an array is not there, or is another one")
        data.append(body[_NUMBER_BYTES:])
    filled = Array(array.dtype, array.shape, array.stype.removeprefix(_IN_PIECES), b"")
    filled.data = cast(bytes, _joined(data))  # any buffer will do, but for Flower's own protobuf
    return filled


def _joined(parts: Sequence[memoryview]) -> memoryview:
    """The parts as one.

    numpy allocates it in huge pages, unlike a large `bytes`: to fill small pages takes four times
    as long as to copy.
    """
    whole, at = np.empty(sum(map(len, parts)), np.uint8), 0
    for part in parts:
        whole[at : at + len(part)] = np.frombuffer(part, np.uint8)
        at += len(part)
    return whole.data.toreadonly()


def _head(kind: type, children: list[str], length: int) -> bytes:
    """The head of an object with a body of `length` bytes, in the form that its store needs."""
    return f"{kind.__name__} {','.join(children)} {length}".encode() + HEAD_BODY_DIVIDER


def _body(content: Buffer) -> memoryview:
    """An object's body. Only a message, which is `bytes`, may have a long head before it."""
    head = content if isinstance(content, bytes) else bytes(content[:_HEAD_BYTES])
    return memoryview(content)[head.find(HEAD_BODY_DIVIDER) + 1 :]
