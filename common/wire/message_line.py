"""Sends messages from one process of a machine to another over a socket, part by part."""

import socket
import struct
from collections.abc import Iterator

import numpy as np
from flwr.app import Message

from common.wire.message_parts import Part, from_parts, parts

_LENGTH = struct.Struct(">Q")


def send_message(line: socket.socket, message: Message) -> None:
    """Send the message over `line`. Raises OSError when the other end is gone."""
    for part in parts(message):
        send_part(line, part)


def receive_message(line: socket.socket) -> Message:
    """Receive the next message. Raises EOFError when the other end is gone, even within one."""
    return from_parts(received_parts(line))


def send_part(line: socket.socket, part: Part) -> None:
    """Send some bytes over `line`. Raises OSError when the other end is gone."""
    line.sendall(_LENGTH.pack(len(part)))
    line.sendall(part)


def received_parts(line: socket.socket) -> Iterator[Part]:
    """Receive a part whenever one is asked for. Raises EOFError when the other end is gone."""
    while True:
        yield _received(line, int(_LENGTH.unpack(_received(line, _LENGTH.size))[0]))


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
