"""A message as the objects that Flower stores and sends one by one.

A request costs much the same whatever it carries, so a vector is cut into few large pieces.
"""

from dataclasses import dataclass

from flwr.app import Message
from flwr.app.message import array, remove_content_from_message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    iterate_object_tree,
    no_object_id_recompute,
)

PIECE_BYTES = 16 * 2**20
"""Either side holds some copies of a piece for each request under way. Flower's own is 5 MiB."""

vars(array)["FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"] = PIECE_BYTES


@dataclass(frozen=True)
class Parts:
    """A message taken apart; its objects are serialised when they are asked for."""

    head: Message
    """The message without its content."""
    tree: ObjectTree
    """Which object holds which, by their ids: the SHA-256 (hex) of what they are as bytes."""
    objects: dict[str, InflatableObject]


def take_apart(message: Message) -> Parts:
    """The message's parts; its id becomes its object's.

    An array is hashed once, however many messages it goes into: it keeps its pieces with their ids.
    """
    objects: dict[str, InflatableObject] = {}
    with no_object_id_recompute():
        identifier = message.object_id
        message.metadata.__dict__["_message_id"] = identifier
        tree = _collect(identifier, message, objects)
    return Parts(remove_content_from_message(message), tree, objects)


def identifiers(tree: ObjectTree) -> list[str]:
    """The tree's ids; what holds others comes after them, and the message last."""
    return [part.object_id for part in iterate_object_tree(tree)]


def _collect(
    identifier: str, item: InflatableObject, objects: dict[str, InflatableObject]
) -> ObjectTree:
    held = (item.children or {}).items()
    children = [_collect(name, child, objects) for name, child in held]
    objects[identifier] = item
    return ObjectTree(object_id=identifier, children=children)
