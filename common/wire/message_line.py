"""Sends a message from one process of a machine to another over a socket, without copying vectors.

In one protobuf message a vector would be copied seven times on its way. Here the message goes ahead
with empty arrays, and each array's bytes follow, from where they lie to where they are read.
"""

import socket
import struct
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict

from common.wire.flower_internals import (
    ProtoMessage,
    make_message,
    message_from_proto,
    message_to_proto,
)

_LENGTH = struct.Struct(">Q")


def send_message(line: socket.socket, message: Message) -> None:
    """Send the message over `line`. Raises OSError when the other end is gone."""
    thin = message
    if message.has_content():
        thin = make_message(message.metadata, _emptied(message.content))
    data = message_to_proto(thin).SerializeToString()
    line.sendall(_LENGTH.pack(len(data)) + data)
    for array in _arrays(message):
        line.sendall(_LENGTH.pack(len(array.data)))
        line.sendall(array.data)


def receive_message(line: socket.socket) -> Message:
    """Receive the next message. Raises EOFError when the other end is gone, even within one."""
    data = bytes(_received(line, _length(line)))
    message = message_from_proto(ProtoMessage.FromString(data))
    for array in _arrays(message):
        array.data = cast(bytes, _received(line, _length(line)))
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


def _length(line: socket.socket) -> int:
    return int(_LENGTH.unpack(_received(line, _LENGTH.size))[0])


def _received(line: socket.socket, length: int) -> memoryview:
    """The next `length` bytes; numpy allocates them, so that many lie in huge pages."""
    whole = np.empty(length, np.uint8).data
    left = whole
    while left:
        count = line.recv_into(left)
        if not count:
            raise EOFError("the other end of the line is gone")
        left = left[count:]
    return whole.toreadonly()
