"""The bodies of requests, whole and bounded: by themselves, a site, and in how long they take."""

import asyncio
from collections import Counter

import numpy as np
from starlette.types import Receive, Scope

from common.wire.flower_objects import PIECE_BYTES, Buffer

MAX_REQUEST = 2**16
"""Bytes of a request that brings no object: the ids of a thousand pieces fit."""
MAX_BODY = PIECE_BYTES + MAX_REQUEST
"""Bytes of one request. A site sends a model in pieces."""
MOST_OF_A_SITE = 4 * MAX_BODY
"""Bytes of a site's requests and answers at one time. It sends or takes a piece at a time; more are
what broken connections left."""
PAUSE_SECONDS = 60.0
"""A body of which nothing comes for this long is given up."""
_SLOWEST = 2**16
"""Bytes a second of a line that a piece still comes through: half a megabit. A slower one could
not do it in the three minutes that Flower's store waits for the next piece."""


def transfer_seconds(length: int) -> float:
    """Within which a body of so many bytes must be over, whichever way it goes."""
    return PAUSE_SECONDS + length / _SLOWEST


class Bodies:
    """Knows how many bytes of each key's requests and answers are under way."""

    def __init__(self) -> None:
        self._under_way: Counter[bytes] = Counter()

    def take(self, key: bytes, length: int) -> bool:
        """Count bytes until `give_back`; False, and not counted: they are too many."""
        if self._under_way[key] + length > MOST_OF_A_SITE:
            return False
        self._under_way[key] += length
        return True

    def give_back(self, key: bytes, length: int) -> None:
        """The request is over."""
        self._under_way[key] -= length
        if not self._under_way[key]:
            del self._under_way[key]


def announced_length(scope: Scope, most: int = MAX_BODY) -> int | None:
    """Bytes of the body, as the request says; None: it does not say, or more than `most`."""
    length = dict(scope["headers"]).get(b"content-length", b"")
    short = length.isdigit() and len(length) <= len(str(MAX_BODY))
    return int(length) if short and int(length) <= most else None


async def read_body(receive: Receive, length: int) -> Buffer | None:
    """The whole body, or None when the site hung up, or paused, before its end.

    Where none was announced nothing is read.
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
