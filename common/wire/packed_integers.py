"""Integers of a few bits each, one after the other without a gap between them.

Value i takes the bits i * bits to (i + 1) * bits - 1 of the data, bit k being bit k % 8 of byte
k // 8; the bits of the last byte that are left over are zero. Eight values take `bits` bytes, so
every eighth value begins at the same bit of its byte: those are read and written at once, through
unaligned 64-bit windows that lie `bits` bytes apart. A value that reaches beyond its window ends in
the byte behind it.
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
_BEHIND = _WINDOW + 1
"""Bytes behind the first one of a group's last value that may be read or written."""


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
    group, most = _group(bits), _most(len(values))
    data = np.empty(packed_bytes(most, bits) + _BEHIND, np.uint8)
    padded = np.zeros(most, np.uint64)
    for start in range(0, len(values), PIECE):
        piece = values[start : start + PIECE]
        rows = -(-len(piece) // group)
        padded[: len(piece)] = piece
        padded[: len(piece)] &= np.uint64(2**bits - 1)
        padded[len(piece) : rows * group] = 0
        data[:] = 0
        for column, window, behind, shift in _windows(data, rows, bits):
            part = padded[column : rows * group : group]
            window |= part << shift
            if behind is not None:
                behind |= (part >> np.uint64(64 - shift)).astype(np.uint8)
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
    group, most = _group(bits), _most(size)
    source = np.frombuffer(data, np.uint8)
    padded = np.zeros(packed_bytes(most, bits) + _BEHIND, np.uint8)
    whole = np.empty(most, np.uint64)
    for start in range(0, size, PIECE):
        piece = out[start : start + PIECE]
        first = packed_bytes(start, bits)
        taken = source[first : first + packed_bytes(len(piece), bits)]
        padded[: len(taken)] = taken
        rows = -(-len(piece) // group)
        for column, window, behind, shift in _windows(padded, rows, bits):
            place = whole[column : rows * group : group]
            np.right_shift(window, shift, out=place)
            if behind is not None:
                place |= behind.astype(np.uint64) << np.uint64(64 - shift)
        np.bitwise_and(whole[: len(piece)], np.uint64(2**bits - 1), out=piece, casting="same_kind")
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


def _most(size: int) -> int:
    """Values of the largest piece, in whole groups."""
    return min(PIECE, -(-size // 64) * 64)


def _group(bits: int) -> int:
    """Values between two that begin at the same bit of a byte and whose windows do not overlap."""
    return 8 if bits >= _WINDOW else 64


def _windows(
    data: NDArray[np.uint8], rows: int, bits: int
) -> Iterator[tuple[int, NDArray[np.uint64], NDArray[np.uint8] | None, np.uint64]]:
    """Where in `data` the values of `rows` groups lie, a column of them at a time.

    Yields column, window, behind, shift: each group's value number `column` begins at bit `shift`
    of the words `window` (rows,), a view of `data`; where it does not end in them, the rest is in
    the bytes `behind` (rows,).
    """
    group = _group(bits)
    strides = (group * bits // 8,)
    for column in range(group):
        byte, shift = divmod(column * bits, 8)
        window: NDArray[np.uint64] = np.ndarray(rows, "<u8", data, byte, strides)
        behind = None
        if shift + bits > 64:
            behind = np.ndarray(rows, np.uint8, data, byte + _WINDOW, strides)
        yield column, window, behind, np.uint64(shift)
