"""The sum of masked vectors, accumulated as they come."""

import numpy as np

from common.wire.packed_integers import (
    PIECE,
    Words,
    packed_bytes,
    require_packed,
    unpack,
    word_type,
)


class MaskedSum:
    """The sum modulo 2^bits in one accumulator, whatever the number of sites; no upload is kept.

    All of it is exact, so no bit of the sum depends on the order. Until every site's upload is in,
    the masks that are left hide it: a partial sum says nothing, and neither does a norm of it.

    >>> masked = MaskedSum(size=2, bits=8)
    >>> masked.add(bytes([255, 1])), masked.add(bytes([2, 1]))
    (None, None)
    >>> masked.total()
    array([1, 2], dtype=uint32)
    """

    def __init__(self, size: int, bits: int) -> None:
        """Start with no upload of `size` (P) integers of `bits` bits each."""
        self._bits = bits
        self._sum: Words = np.zeros(size, word_type(bits))
        """(P,), modulo 2^32 or 2^64: a multiple of 2^bits."""

    def add(self, data: bytes | memoryview) -> None:
        """Add an upload, as `common.wire.packed_integers.pack` writes it.

        Raises ModelError for another length, or bits behind the last integer; nothing was added.
        """
        require_packed(data, len(self._sum), self._bits)
        view = memoryview(data).cast("B")
        for start in range(0, len(self._sum), PIECE):
            place = self._sum[start : start + PIECE]
            first = packed_bytes(start, self._bits)
            piece = view[first : first + packed_bytes(len(place), self._bits)]
            place += unpack(piece, len(place), self._bits)

    def total(self) -> Words:
        """The sum of what was added, modulo 2^bits: (P,). Later uploads change it: call it last."""
        self._sum &= self._sum.dtype.type(2**self._bits - 1)
        return self._sum
