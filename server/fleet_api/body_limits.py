"""Reads whole request bodies within bounds: on each, on each site's together, and on their time."""

import asyncio
from collections import Counter

import numpy as np
from starlette.types import Receive, Scope

from common.wire.flower_objects import PIECE_BYTES, Buffer

MAX_REQUEST = 2**16
"""The most bytes of a request that carries no object: the ids of a thousand pieces fit."""
MAX_BODY = PIECE_BYTES + MAX_REQUEST
"""The most bytes of any request. A site sends a model in pieces."""
MOST_OF_A_SITE = 4 * MAX_BODY
"""The most bytes of a site's requests and answers at one time. A site sends or fetches one piece at
a time; any more are left over from broken connections."""
PAUSE_SECONDS = 60.0
"""How long, in seconds, a body may pause before it is given up."""
_SLOWEST = 2**16
"""The slowest line that can transfer a piece, in bytes per second: half a megabit. A slower line
would exceed the three minutes that Flower's store waits for the next piece."""


def transfer_seconds(length: int) -> float:
    """Return the seconds within which a body of `length` bytes must be sent or received.

    >>> transfer_seconds(0), transfer_seconds(2**20)
    (60.0, 76.0)
    """
    return PAUSE_SECONDS + length / _SLOWEST


class Bodies:
    """Counts the bytes of each key's requests and answers that are under way.

    >>> bodies = Bodies()
    >>> bodies.take(b"key", MOST_OF_A_SITE), bodies.take(b"key", 1), bodies.take(b"other", 1)
    (True, False, True)
    """

    def __init__(self) -> None:
        self._under_way: Counter[bytes] = Counter()

    def take(self, key: bytes, length: int) -> bool:
        """Count these bytes until `give_back`; if they are too many, return False instead."""
        if self._under_way[key] + length > MOST_OF_A_SITE:
            return False
        self._under_way[key] += length
        return True

    def give_back(self, key: bytes, length: int) -> None:
        """Stop counting the bytes of a request that is over."""
        self._under_way[key] -= length
        if not self._under_way[key]:
            del self._under_way[key]


def announced_length(scope: Scope, most: int = MAX_BODY) -> int | None:
    """Return the body's length in bytes, as announced; None if it is absent or exceeds `most`.

    >>> announced_length({"headers": [(b"content-length", b"12")]})
    12
    """
    length = dict(scope["headers"]).get(b"content-length", b"")
    short = length.isdigit() and len(length) <= len(str(MAX_BODY))
    return int(length) if short and int(length) <= most else None


async def read_body(receive: Receive, length: int) -> Buffer | None:
    """Read the whole body, or return None if the site hung up or paused too long before its end.

    If `length` is 0, nothing is read.
    """
    whole, at, more = np.empty(length, np.uint8), 0, length > 0
    while more:
        try:
            async with asyncio.timeout(PAUSE_SECONDS):
                message = await receive()
        except TimeoutError:
            return None
        if message["type"] == "http.disconnect":
            return None
        piece = np.frombuffer(message.get("body", b""), np.uint8)[: length - at]
        whole[at : at + len(piece)] = piece
        at, more = at + len(piece), message.get("more_body", False)
    return whole[:at].data
