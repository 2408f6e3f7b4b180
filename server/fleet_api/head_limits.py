"""uvicorn's HTTP protocol with bounds on what a caller may take: heads, time and connections."""

import asyncio
import itertools
from typing import cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.fleet_api.body_limits import announced_length, transfer_seconds

MAX_HEAD = 64 * 2**10
"""Bytes of a request's first line, headers and framing; a site's take less than 2 KiB."""
HEAD_SECONDS = 20.0
"""Within which a connection's first request, and any that begins, must have its whole head here,
and what still comes of a request that is answered."""
MAX_CONNECTIONS = 800
"""At a time, below the 1,024 open files that a process has by custom; a site has two or three.
One more is hung up on, and a site tries again."""
MOST_OF_A_KEY = 16
"""Connections by which one member asks; of more, the one that it had longest is hung up on. A site
that loses its line again and again leaves some behind, until they are found out."""
_NUMBERS = itertools.count()
_BUFFER = memoryview(bytearray(2**16))
"""What came, on its way to the parser, which keeps none of it: one for all connections. TLS fills
it with several of its records; read one by one, each would be given a quarter of a megabyte."""


class BoundedProtocol(HttpToolsProtocol, asyncio.BufferedProtocol):
    """Hangs up on what keeps it waiting, or sends a head larger than MAX_HEAD (one buffer more).

    At any moment either this end works on an answer, or the other has a bounded time: for a head,
    for the body that it announced, for what nobody reads any more; a connection that asks nothing
    more after an answer is ended by uvicorn itself. An application finds the connection in its
    scope's state, and says whose it is.
    """

    _head = 0
    _key = b""
    _number = 0
    """Of the connection, in the order in which they came."""
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._number = next(_NUMBERS)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.close()
        else:
            self._expect(HEAD_SECONDS)

    def claim(self, key: bytes) -> None:
        """The connection is that of the member with this key, whose signature was checked."""
        self._key = key
        others = (one for one in self.connections if isinstance(one, BoundedProtocol))
        own = [one for one in others if one._key == key]
        if len(own) > MOST_OF_A_KEY:
            min(own, key=lambda one: one._number).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(_BUFFER[:nbytes]))

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if self._head > MAX_HEAD:
            self.transport.close()

    def on_message_begin(self) -> None:
        self._head = 0
        self._expect(HEAD_SECONDS)
        super().on_message_begin()
        self.scope["state"]["connection"] = self

    def on_headers_complete(self) -> None:
        length = announced_length(cast(Scope, self.scope))
        self._expect(transfer_seconds(length or 0))
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        # uvicorn's own patience with an idle connection ends with the bytes that nobody reads.
        if self.cycle.response_complete:
            self._expect(HEAD_SECONDS)
        else:
            self._stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.cycle.more_body:
            self._expect(HEAD_SECONDS)
        super().on_response_complete()

    def on_body(self, body: bytes) -> None:
        self._head -= len(body)
        super().on_body(body)

    def _expect(self, seconds: float) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience:
            self._patience.cancel()
            self._patience = None
