"""A field of bytes that is put in and taken out by hand is what protobuf would have made of it."""

import pytest
from flwr.proto.message_pb2 import PullObjectResponse, PushObjectRequest
from flwr.proto.node_pb2 import Node
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from common.wire.bytes_field import front_of, taken_out

_PUSHED = PushObjectRequest.DESCRIPTOR.fields_by_name["object_content"].number
_PULLED = PullObjectResponse.DESCRIPTOR.fields_by_name["object_content"].number
requests = st.builds(
    PushObjectRequest,
    node=st.builds(Node, node_id=st.integers(0, 2**64 - 1)),
    run_id=st.integers(0, 2**64 - 1),
    object_id=st.text(max_size=70),
    session_id=st.text(max_size=200),
)


@given(requests, st.binary(min_size=1, max_size=300))
def test_a_field_put_behind_its_message_is_protobufs(
    request: PushObjectRequest, content: bytes
) -> None:
    whole = front_of(request.SerializeToString(), _PUSHED, len(content)) + content
    request.object_content = content
    assert PushObjectRequest.FromString(whole) == request
    assert len(whole) == request.ByteSize()


@given(requests, st.binary(min_size=1, max_size=300))
def test_a_field_is_taken_out_of_what_protobuf_wrote(
    request: PushObjectRequest, content: bytes
) -> None:
    without = request.SerializeToString()
    request.object_content = content
    rest, taken = taken_out(request.SerializeToString(), _PUSHED)
    assert (rest, taken) == (without, content)


@pytest.mark.parametrize("length", [1, 127, 128, 2**14 - 1, 2**14, 2**21])
def test_lengths_of_every_size_go_through(length: int) -> None:
    said = PullObjectResponse(object_found=True, object_available=True)
    whole = front_of(said.SerializeToString(), _PULLED, length) + bytes(length)
    rest, content = taken_out(memoryview(whole), _PULLED)
    assert PullObjectResponse.FromString(rest) == said and content == bytes(length)


@given(st.binary(max_size=60))
def test_whatever_comes_is_read_or_refused(body: bytes) -> None:
    """No more comes out than went in, and only in one way; all else is a DecodeError."""
    try:
        rest, content = taken_out(body, _PUSHED)
    except DecodeError:
        return
    assert len(rest) + len(content) <= len(body)
    again, none = taken_out(rest, _PUSHED)
    assert again == rest and none == b""


@pytest.mark.parametrize(
    "body",
    [
        b"\x22\x01a\x22\x01b",  # the field twice
        b"\x22\x05a",  # longer than what is there
        b"\x22",
        b"\xff" * 11,
        b"\x23\x01a",  # a group
        b"\x22" + b"\xff" * 9 + b"\x01" + b"a",
    ],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        taken_out(body, _PUSHED)


def test_a_message_of_very_many_small_fields_is_not_read_to_its_end() -> None:
    """Each is two bytes: a field of number 15 that holds 0."""
    for count, refused in ((8192, False), (8193, True), (2**23, True)):
        body = front_of(b"\x78\x00" * count, _PUSHED, 3) + b"abc"
        if refused:
            with pytest.raises(DecodeError, match="bytes beside field"):
                taken_out(body, _PUSHED)
        else:
            assert taken_out(body, _PUSHED)[1] == b"abc"
