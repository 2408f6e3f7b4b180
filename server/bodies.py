"""The bodies of requests, whole and bounded: by themselves, a site, and in how long they pause."""

import asyncio
from collections import Counter

from starlette.types import Message, Receive, Scope

from common.objects import PIECE_BYTES

MAX_BODY = 2 * PIECE_BYTES
"""Bytes of one request. A site sends a model in pieces of half of that."""
MOST_OF_A_SITE = 2 * MAX_BODY
"""Bytes of a site's requests at one time. It sends a piece at a time; more are what broken
connections left."""
PAUSE_SECONDS = 60.0
"""A body of which nothing comes for this long is given up."""
NOTHING: Message = {"type": "http.request", "body": b"", "more_body": False}
"""An empty body."""


class Bodies:
    """Knows how many bytes of each key's requests are under way."""

    def __init__(self) -> None:
        self._under_way: Counter[bytes] = Counter()

    def take(self, key: bytes, length: int) -> bool:
        """Count a request's bytes until `give_back`; False, and not counted: they are too many."""
        if self._under_way[key] + length > MOST_OF_A_SITE:
            return False
        self._under_way[key] += length
        return True

    def give_back(self, key: bytes, length: int) -> None:
        """The request is over."""
        self._under_way[key] -= length
        if not self._under_way[key]:
            del self._under_way[key]


def announced_length(scope: Scope) -> int | None:
    """Bytes of the body, as the request says; None: it does not say, or more than MAX_BODY."""
    unsaid = b"0" if scope["method"] in ("GET", "HEAD") else b""
    length = dict(scope["headers"]).get(b"content-length", unsaid)
    short = length.isdigit() and len(length) <= len(str(MAX_BODY))
    return int(length) if short and int(length) <= MAX_BODY else None


async def read_body(receive: Receive, length: int) -> Message | None:
    """The whole body as one message, or None when the site hung up, or paused, before its end.

    Each piece by itself would cost as much on its way through Flower's layers as the whole. Where
    none was announced nothing is read.
    """
    pieces, more = [], length > 0
    while more:
        try:
            message = await asyncio.wait_for(receive(), PAUSE_SECONDS)
        except TimeoutError:
            return None
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    return {"type": "http.request", "body": b"".join(pieces), "more_body": False}


def replay(body: Message, receive: Receive) -> Receive:
    """A Receive that gives `body`, and then only says when the site hangs up."""
    waiting = [body]

    async def again() -> Message:
        if waiting:
            return waiting.pop()
        while (message := await receive())["type"] != "http.disconnect":
            pass
        return message

    return again
