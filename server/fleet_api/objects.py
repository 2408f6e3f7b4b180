"""The fleet API's calls that carry an object; protobuf would copy it twice in each direction."""

from dataclasses import dataclass
from typing import Any, Self, cast

from google.protobuf.message import Message

from common.wire.bytes_field import front_of, taken_out
from common.wire.flower_internals import (
    Node,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
)
from common.wire.flower_objects import Buffer
from server.flower.body_store import store_object
from server.flower.internals import LinkState, fleet_handlers

_PULLED = PullObjectResponse.DESCRIPTOR.fields_by_name["object_content"].number
_PUSHED = PushObjectRequest.DESCRIPTOR.fields_by_name["object_content"].number


class _HeldBack:
    """The SuperLink's state, except that an object's content stays here.

    Flower's handler gets a short stand-in that shows that the object is there.
    """

    def __init__(self, state: LinkState) -> None:
        self._state = state
        self.content: Buffer = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def get_object(self, run_id: int, object_id: str) -> bytes | None:
        content = self._state.get_object(run_id, object_id)
        self.content = content or b""
        return content and b"there"


class _Reported:
    """The SuperLink's state, except that it raises an error if an object cannot be written."""

    def __init__(self, state: LinkState) -> None:
        self._state = state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def store_object(self, run: int, session: str, identifier: str, content: bytes) -> bool:
        return store_object(self._state, run, session, identifier, content)


@dataclass(frozen=True)
class PushedObject:
    """A PushObjectRequest whose object is a view of the request's body, not a copy."""

    node: Node
    run_id: int
    session_id: str
    object_id: str
    object_content: memoryview

    @classmethod
    def read(cls, body: Buffer) -> Self | None:
        """Read the request, or return None if the body has other or repeated fields.

        Raises:
            DecodeError: the body is not a protobuf message.
        """
        rest, content = taken_out(body, _PUSHED)
        said = PushObjectRequest.FromString(rest)
        if not is_plain(said, rest):
            return None
        return cls(said.node, said.run_id, said.session_id, said.object_id, content)


def is_plain(request: Message, body: Buffer) -> bool:
    """Return whether `body`, from which `request` was read, has only known fields, each once."""
    request.DiscardUnknownFields()
    return int(request.ByteSize()) == len(body)


def push_object(request: PushedObject, state: LinkState) -> Any:
    """Store the object and return Flower's answer.

    Raises:
        FederationError: the object cannot be written.
    """
    reported = cast(LinkState, _Reported(state))
    return fleet_handlers.push_object(cast(PushObjectRequest, request), reported)


def pull_object(request: PullObjectRequest, state: LinkState) -> tuple[Buffer, ...]:
    """Return Flower's answer, serialised, as spans in order; the last is the object's content."""
    held = _HeldBack(state)
    response = fleet_handlers.pull_object(request, cast(LinkState, held))
    response.ClearField("object_content")
    said = response.SerializeToString()
    if not held.content:
        return (said,)
    return front_of(said, _PULLED, len(held.content)), held.content
