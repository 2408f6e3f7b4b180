"""A message in parts, for another process: its vectors stay where they lie.

In one protobuf message a vector would be copied seven times on its way. Here the first part is the
message with empty arrays, and each array's bytes are a part of their own.
"""

from collections.abc import Iterator
from typing import cast

from flwr.app import Array, ArrayRecord, Message, RecordDict

from common.wire.flower_internals import (
    ProtoMessage,
    make_message,
    message_from_proto,
    message_to_proto,
)

Part = bytes | memoryview


def parts(message: Message) -> list[Part]:
    """The message, which is not changed, in parts that share its arrays' memory."""
    thin = message
    if message.has_content():
        thin = make_message(message.metadata, _emptied(message.content))
    data = message_to_proto(thin).SerializeToString()
    return [data, *(array.data for array in _arrays(message))]


def from_parts(came: Iterator[Part]) -> Message:
    """The message of which `parts` come; takes as many of them as belong to it."""
    message = message_from_proto(ProtoMessage.FromString(bytes(next(came))))
    for array in _arrays(message):
        array.data = cast(bytes, next(came))
    return message


def _arrays(message: Message) -> list[Array]:
    """The message's arrays, in an order that is the same at both ends."""
    if not message.has_content():
        return []
    records = message.content.array_records.values()
    return [array for record in records for array in record.values()]


def _emptied(content: RecordDict) -> RecordDict:
    """A copy of the content whose arrays have no data."""
    thin = RecordDict(dict(content))
    for name, record in content.array_records.items():
        thin[name] = empty = ArrayRecord()
        for key, array in record.items():
            empty[key] = Array(array.dtype, array.shape, array.stype, b"")
    return thin
