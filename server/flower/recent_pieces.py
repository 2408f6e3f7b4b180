"""The pieces that a process read last: all sites of a round fetch the same ones."""

from collections import OrderedDict
from threading import Lock

from common.wire.flower_objects import PIECE_BYTES

MOST_BYTES = 4 * PIECE_BYTES
"""How many bytes of pieces are kept: a model of 16 million float32. Of a larger one, each site's
request reads a piece again."""


class RecentPieces:
    """Pieces by their ids. An id is the SHA-256 of its piece, so what is kept stays true.

    >>> recent = RecentPieces()
    >>> recent.keep("id", memoryview(b"piece"))
    >>> recent.find("id").tobytes(), recent.find("another")
    (b'piece', None)
    """

    def __init__(self) -> None:
        self._pieces: OrderedDict[str, memoryview] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def find(self, name: str) -> memoryview | None:
        """Return the piece, or None if it is not kept."""
        with self._lock:
            if name in self._pieces:
                self._pieces.move_to_end(name)
            return self._pieces.get(name)

    def keep(self, name: str, piece: memoryview) -> None:
        """Keep the piece, in place of those that were used longest ago."""
        with self._lock:
            self._drop(name)
            self._pieces[name] = piece
            self._bytes += len(piece)
            while self._bytes > MOST_BYTES:
                self._drop(next(iter(self._pieces)))

    def drop(self, name: str) -> None:
        """Keep this piece no more."""
        with self._lock:
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._bytes -= len(self._pieces.pop(name, b""))
