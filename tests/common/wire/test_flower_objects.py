"""A message taken apart comes together as it was, and nothing else comes together."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import make_message
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from common.config.study import Study
from common.wire import flower_objects
from common.wire.flower_objects import (
    PIECE_BYTES,
    SMALL_BYTES,
    identifiers,
    put_together,
    take_apart,
)
from common.wire.messages import Task, absence_content
from common.wire.reasons import Reason
from common.wire.vector_codec import encode

PIECE = PIECE_BYTES // 4
"""float32 numbers in a piece."""
SIZES = [0, 1, SMALL_BYTES // 4, SMALL_BYTES // 4 + 1, PIECE, PIECE + 1, 2 * PIECE]


@pytest.fixture(autouse=True)
def _sender() -> None:
    """Flower's Message reads its sender from this process-wide place."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


def message(vector: Array) -> Message:
    content = RecordDict({"m": ArrayRecord({"v": vector}), "t": ConfigRecord({"t": "a"})})
    return Message(content, dst_node_id=7, message_type="train")


def contents(sent: Message) -> tuple[str, dict[str, bytes]]:
    """The message's id, and its objects in the order in which they are sent."""
    parts = take_apart(sent)
    return parts.tree.object_id, {name: parts.content(name) for name in identifiers(parts.tree)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", [0.0, None])
def test_a_message_comes_together_as_it_was(size: int, value: float | None) -> None:
    vector = np.arange(size, dtype=np.float32) if value is None else np.zeros(size, np.float32)
    sent = message(encode(vector))
    identifier, parts = contents(sent)
    assert len(parts) == 1 + (-(-size // PIECE) if 4 * size > SMALL_BYTES else 0)
    assert sent.metadata.message_id == identifier == list(parts)[-1]
    for name, data in parts.items():
        assert name == hashlib.sha256(data).hexdigest()
        assert len(data) < PIECE_BYTES + 1000
        validate_object_content(data)  # by Flower's store
    again = put_together(identifier, parts)
    assert again.metadata.__dict__ == sent.metadata.__dict__
    assert again.content["t"] == sent.content["t"]
    array = again.content.array_records["m"]["v"]
    assert array.data == vector.tobytes()
    assert (array.dtype, array.shape, array.stype) == ("float32", (size,), "hemofed.float32")
    assert sent.content.array_records["m"]["v"].data == vector.tobytes()


def test_what_has_no_vector_is_one_object() -> None:
    sent = Message(absence_content(Reason.PAUSED), dst_node_id=7, message_type="train")
    identifier, parts = contents(sent)
    assert list(parts) == [identifier]
    assert put_together(identifier, parts).content == sent.content


def test_two_messages_have_two_ids_and_one_vector() -> None:
    vector = encode(np.ones(SMALL_BYTES, np.float32))
    (one, first), (other, second) = contents(message(vector)), contents(message(vector))
    assert one != other
    assert list(first)[:-1] == list(second)[:-1]


def test_a_vector_that_goes_to_many_is_cut_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cut: list[int] = []
    original = flower_objects._Piece.identifier

    def count(piece: flower_objects._Piece) -> str:
        cut.append(len(piece.data))
        return original(piece)

    monkeypatch.setattr(flower_objects._Piece, "identifier", count)
    study, vector = Study(name="s"), encode(np.ones(100_000, np.float32))
    for head in ("a", "b", "c"):
        content = Task(study, 1, head=head).content(vector)
        take_apart(Message(content, dst_node_id=7, message_type="train"))
    assert cut == [400_000]


def _names_a_piece_twice(ids: bytes) -> bytes:
    return ids[:32] + ids[:32]


def _names_none(ids: bytes) -> bytes:
    return b""


def _swaps(ids: bytes) -> bytes:
    return ids[32:] + ids[:32]


def _names_what_is_not_there(ids: bytes) -> bytes:
    return ids + bytes(32)


def _breaks_off(ids: bytes) -> bytes:
    return ids[:-1]


@pytest.mark.parametrize(
    "lie", [_names_a_piece_twice, _names_none, _swaps, _names_what_is_not_there, _breaks_off]
)
def test_pieces_that_do_not_fit_make_no_message(lie: Callable[[bytes], bytes]) -> None:
    """Named twice, a piece of 16 MiB would be as many gigabytes as a message has room for ids."""
    thin, pieces = flower_objects._thinned(message(encode(np.ones(2 * PIECE, np.float32))).content)
    array = thin.array_records["m"]["v"]
    thin.array_records["m"]["v"] = Array(array.dtype, array.shape, array.stype, lie(array.data))
    hostile = Message(thin, dst_node_id=7, message_type="train")
    identifier, parts = contents(hostile)
    parts |= {name: piece.head + piece.data for name, piece in pieces.items()}
    with pytest.raises(ValueError, match=r"piece \d of an array|belong to no array"):
        put_together(identifier, parts)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    try:
        made = put_together("x", {"x": data})
    except Exception as error:
        assert not isinstance(error, MemoryError | RecursionError)
    else:
        assert make_message(made.metadata, made.content if made.has_content() else None)
