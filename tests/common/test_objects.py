"""A message taken apart is what Flower would make of it, and comes together as it was."""

import hashlib

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable import inflatable_object
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from common.config import Study
from common.objects import PIECE_BYTES, identifiers, take_apart
from common.payload import encode
from common.protocol import Task


@pytest.fixture(autouse=True)
def _sender() -> None:
    """Flower's Message reads its sender from this process-wide place."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


def message(vector: Array) -> Message:
    content = RecordDict({"m": ArrayRecord({"v": vector}), "t": ConfigRecord({"t": "a"})})
    return Message(content, dst_node_id=7, message_type="train")


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES // 4, PIECE_BYTES // 4 + 1])
def test_a_message_comes_together_as_it_was(size: int) -> None:
    vector = np.arange(size, dtype=np.float32)
    parts = take_apart(message(encode(vector)))
    contents = {name: item.deflate() for name, item in parts.objects.items()}
    assert all(name == hashlib.sha256(data).hexdigest() for name, data in contents.items())
    assert identifiers(parts.tree) == list(contents)
    assert identifiers(parts.tree)[-1] == parts.head.metadata.message_id
    again = inflate_object_from_contents(parts.tree.object_id, contents)
    assert isinstance(again, Message)
    assert again.content.array_records["m"]["v"].data == vector.tobytes()


def test_the_tree_is_flowers() -> None:
    sent = message(encode(np.ones(5, np.float32)))
    assert take_apart(sent).tree == get_object_tree(sent)


def test_a_vector_that_goes_to_many_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    original = inflatable_object.get_object_id

    def count(content: bytes) -> str:
        hashed.append(len(content))
        return original(content)

    monkeypatch.setattr(inflatable_object, "get_object_id", count)
    study, vector = Study(name="s"), encode(np.ones(100_000, np.float32))
    for head in ("a", "b", "c"):
        content = Task(study, 1, head=head).content(vector)
        take_apart(Message(content, dst_node_id=7, message_type="train"))
    assert sum(size > 4 * 100_000 for size in hashed) == 1
