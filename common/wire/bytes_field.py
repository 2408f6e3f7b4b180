"""Puts a large field of bytes into a serialised protobuf message, and takes it out, without a copy.

Protobuf's own classes copy such a field when it is set, written, read and accessed. A message's
fields may come in any order, so the large one goes last.
"""

from google.protobuf.message import DecodeError

from common.wire.flower_objects import Buffer

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Protobuf's wire types."""
_LONGEST_VARINT = 10
_MOST_BESIDE = 2**14
"""Bytes of a message beside the field: ids and flags take some hundreds, and a peer that sends
millions of tiny fields is not read to their end."""


def front_of(message: bytes, number: int, length: int) -> bytes:
    """The bytes before the content of field `number`: the rest of the message, the tag, the length.

    `message` is serialised without the field, and `length` is that of the field's content in bytes.

    >>> rest, content = taken_out(front_of(b"", 4, length=3) + b"abc", 4)
    >>> rest, bytes(content)
    (b'', b'abc')
    """
    return message + _varint(number << 3 | _BYTES) + _varint(length)


def taken_out(message: Buffer, number: int) -> tuple[bytes, memoryview]:
    """The message without its field `number`, and the field's bytes, which are not copied.

    The bytes are empty where the message lacks the field. Raises DecodeError when `message` is not
    a protobuf message, has the field twice, or more beside it than `_MOST_BESIDE` bytes.
    """
    view, rest, found = memoryview(message), bytearray(), None
    at = 0
    while at < len(view):
        start = at
        tag, at = _read_varint(view, at)
        body = at
        body, at = _end_of(view, at, tag & 7)
        if at > len(view):
            raise DecodeError("a field goes beyond its message")
        if tag != number << 3 | _BYTES:
            rest += view[start:at]
            if len(rest) > _MOST_BESIDE:
                raise DecodeError(f"more than {_MOST_BESIDE} bytes beside field {number}")
        elif found is None:
            found = view[body:at]
        else:
            raise DecodeError(f"field {number} comes twice")
    return bytes(rest), memoryview(b"") if found is None else found


def _end_of(view: memoryview, at: int, kind: int) -> tuple[int, int]:
    """Where a field's value begins (after its length, if it has one), and where it ends."""
    if kind == _VARINT:
        return at, _read_varint(view, at)[1]
    if kind == _BYTES:
        length, at = _read_varint(view, at)
        return at, at + length
    if kind in (_FIXED64, _FIXED32):
        return at, at + (8 if kind == _FIXED64 else 4)
    raise DecodeError(f"a field of wire type {kind}")


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends. Raises DecodeError if it does not end."""
    number = 0
    for place, byte in enumerate(view[at : at + _LONGEST_VARINT]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, at + place + 1
    raise DecodeError("a number without an end")


def _varint(number: int) -> bytes:
    """The number in protobuf's form: seven bits in each byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
