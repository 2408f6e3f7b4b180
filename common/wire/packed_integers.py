"""Integers of a few bits each, one after the other without a gap between them.

Value i takes the bits i * bits to (i + 1) * bits - 1 of the data, bit k being bit k % 8 of byte
k // 8; the bits of the last byte that are left over are zero. Eight values take `bits` bytes, so
every eighth value begins at the same bit of its byte: those are read and written at once, through
unaligned 64-bit windows that lie `bits` bytes apart.
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import ModelError

Words = NDArray[np.unsignedinteger[Any]]
"""uint32 or uint64."""

PIECE = 1 << 15
"""Values that are worked on at a time: their 256 KiB stay in a core's second-level cache. A piece
begins at a whole byte, whatever the bits."""

_WINDOW = 8
"""Bytes that are read or written at once."""


def packed_bytes(size: int, bits: int) -> int:
    """Bytes that `size` values of `bits` bits take.

    >>> packed_bytes(3, bits=33)
    13
    """
    return -(-size * bits // 8)


def word_type(bits: int) -> type[np.unsignedinteger[Any]]:
    """The type of the words that values of `bits` bits, 1 to 64, are computed in."""
    return np.uint32 if bits <= 32 else np.uint64


def pack(values: Words, bits: int) -> bytes:
    """The values (P,), each modulo 2^bits, in `packed_bytes(P, bits)` bytes. `bits` is 1 to 64.

    >>> pack(np.uint32([1, 2, 3]), bits=4).hex()
    '2103'
    """
    if bits in (32, 64):
        return values.astype(f"<u{bits // 8}", copy=False).tobytes()
    out = io.BytesIO()
    group = _group(bits)
    data = np.empty(packed_bytes(PIECE, bits) + _WINDOW, np.uint8)
    padded = np.zeros(PIECE, np.uint64)
    for start in range(0, len(values), PIECE):
        piece = values[start : start + PIECE]
        padded[: len(piece)] = piece
        padded[len(piece) :] = 0
        data[:] = 0
        rows = -(-len(piece) // group)
        for column, low, width, window, shift in _windows(data, rows, bits):
            part = padded[column : rows * group : group] >> np.uint64(low)
            part &= np.uint64(2**width - 1)
            part <<= np.uint64(shift)
            window |= part
        out.write(data[: packed_bytes(len(piece), bits)].data)
    return out.getvalue()


def unpack(data: bytes | memoryview, size: int, bits: int) -> Words:
    """What `pack` was given, modulo 2^bits: (size,), uint32 for at most 32 bits, else uint64.

    Raises ModelError like `require_packed`.
    """
    require_packed(data, size, bits)
    if bits in (32, 64):
        return np.frombuffer(data, f"<u{bits // 8}").astype(word_type(bits))
    out = np.empty(size, word_type(bits))
    group = _group(bits)
    padded = np.zeros(packed_bytes(PIECE, bits) + _WINDOW, np.uint8)
    whole = np.empty(PIECE, np.uint64)
    whole_data = np.frombuffer(data, np.uint8)
    for start in range(0, size, PIECE):
        piece = out[start : start + PIECE]
        first = packed_bytes(start, bits)
        taken = whole_data[first : first + packed_bytes(len(piece), bits)]
        padded[: len(taken)] = taken
        rows = -(-len(piece) // group)
        for column, low, width, window, shift in _windows(padded, rows, bits):
            part = window >> np.uint64(shift)
            part &= np.uint64(2**width - 1)
            place = whole[column : rows * group : group]
            if low:
                place |= part << np.uint64(low)
            else:
                place[:] = part
        piece[:] = whole[: len(piece)]
    return out


def require_packed(data: bytes | memoryview, size: int, bits: int) -> None:
    """Raise ModelError unless `data` is one that `pack` could have made of `size` values."""
    view, expected = memoryview(data).cast("B"), packed_bytes(size, bits)
    if len(view) != expected:
        raise ModelError(
            f"expected {size:,} values of {bits} bits in {expected:,} bytes; got {len(view):,} "
            "bytes"
        )
    used = size * bits % 8
    if used and view[-1] >> used:
        raise ModelError(
            f"expected zeros in the last {8 - used} bits behind {size:,} values of {bits} bits; "
            f"got {view[-1] >> used:#b}"
        )


def _group(bits: int) -> int:
    """Values between two that begin at the same bit of a byte and whose windows do not overlap."""
    return 8 if bits >= _WINDOW else 64


def _windows(
    data: NDArray[np.uint8], rows: int, bits: int
) -> Iterator[tuple[int, int, int, NDArray[np.uint64], int]]:
    """How every value of `rows` groups lies in `data`, a column of them at a time.

    Yields column, low, width, window, shift: bits `low` to `low + width - 1` of each group's value
    number `column` begin at bit `shift` of the 64-bit words (rows,) `window`, a view of `data`. A
    window holds 57 bits wherever they begin; a longer value lies in two.
    """
    group = _group(bits)
    fields = [(0, bits)] if bits <= 57 else [(0, 32), (32, bits - 32)]
    for column in range(group):
        for low, width in fields:
            byte, shift = divmod(column * bits + low, 8)
            window: NDArray[np.uint64] = np.ndarray(
                rows, "<u8", data, offset=byte, strides=(group * bits // 8,)
            )
            yield column, low, width, window, shift
