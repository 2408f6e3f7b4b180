"""A message comes through a socket as it went in, however large, or not at all."""

import socket
from collections.abc import Iterator
from threading import Thread

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from common.wire.flower_objects import SMALL_BYTES, identifiers, put_together, take_apart
from common.wire.message_line import receive_message, send_message
from common.wire.vector_codec import decode, encode


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def message(*sizes: int) -> Message:
    arrays = {str(n): encode(np.arange(size, dtype=np.float32)) for n, size in enumerate(sizes)}
    content = RecordDict({"a": ArrayRecord(arrays), "t": ConfigRecord({"t": b"x"})})
    return Message(content, dst_node_id=7, message_type="train", ttl=60)


def through(line: tuple[socket.socket, socket.socket], *sent: Message) -> list[Message]:
    def send() -> None:
        for one in sent:
            send_message(line[0], one)

    sender = Thread(target=send)
    sender.start()
    came = [receive_message(line[1]) for _ in sent]
    sender.join()
    return came


@pytest.mark.parametrize("sizes", [(), (0,), (5,), (0, 3, 1_000_000), (2_000_000, 7)])
def test_a_message_comes_as_it_went(
    line: tuple[socket.socket, socket.socket], sizes: tuple[int, ...]
) -> None:
    sent = message(*sizes)
    first, second = through(line, sent, sent)
    for came in (first, second):
        assert came.metadata.__dict__ == sent.metadata.__dict__
        assert came.content["t"] == sent.content["t"]
        arrays = came.content.array_records["a"]
        assert list(arrays) == [str(number) for number in range(len(sizes))]
        for array, size in zip(arrays.values(), sizes, strict=True):
            assert np.array_equal(decode(array, size), np.arange(size))
    assert [len(array.data) for array in sent.content.array_records["a"].values()] == [
        4 * size for size in sizes
    ], "what was sent is not changed"


def test_a_message_that_came_can_be_sent_on(line: tuple[socket.socket, socket.socket]) -> None:
    (came,) = through(line, message(300_000))
    (again,) = through(line, came)
    assert again.content.array_records["a"]["0"].data == came.content.array_records["a"]["0"].data


@pytest.mark.parametrize("size", [5, SMALL_BYTES // 4, SMALL_BYTES // 4 + 1])
def test_a_message_that_came_can_be_taken_apart(
    line: tuple[socket.socket, socket.socket], size: int
) -> None:
    (came,) = through(line, message(size))
    parts = take_apart(came)
    contents = {name: parts.content(name) for name in identifiers(parts.tree)}
    again = put_together(parts.tree.object_id, contents).content.array_records["a"]["0"]
    assert np.array_equal(decode(again, size), np.arange(size))


def test_an_error_comes_as_it_went(line: tuple[socket.socket, socket.socket]) -> None:
    sent = Message(Error(17, "away"), reply_to=message())
    (came,) = through(line, sent)
    assert came.has_error() and (came.error.code, came.error.reason) == (17, "away")


def test_an_end_that_goes_away_is_an_end_of_file(
    line: tuple[socket.socket, socket.socket],
) -> None:
    near, far = line
    sender = Thread(target=lambda: send_message(near, message(10_000)))
    sender.start()
    sender.join()
    half, other = socket.socketpair()
    with half, other:
        half.sendall(far.recv(30_000))
        half.close()
        with pytest.raises(EOFError, match="the other end of the line is gone"):
            receive_message(other)
    near.close()
    while far.recv(2**16):
        pass
    with pytest.raises(EOFError):
        receive_message(far)
