"""uvicorn's HTTP protocol with bounds on a caller's heads, time and connections."""

import asyncio
import itertools
from typing import cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.fleet_api.body_limits import announced_length, transfer_seconds

MAX_HEAD = 64 * 2**10
"""The most bytes of a request's first line, headers and framing; a site's take less than 2 KiB."""
HEAD_SECONDS = 20.0
"""The seconds within which the whole head of a connection's first request, or of one that has
begun, must arrive, and within which the rest of a request that is already answered must arrive."""
MAX_CONNECTIONS = 800
"""The most connections at a time, below the usual limit of 1,024 open files per process. A site has
two or three. One more is closed, and a site tries again."""
MOST_OF_A_KEY = 16
"""The most connections of one member; if there are more, its oldest one is closed. A site that
keeps losing its line leaves some behind until they are noticed."""
_NUMBERS = itertools.count()
_BUFFER = memoryview(bytearray(2**18))
"""What has come, on its way to the parser, which keeps none of it, so that one buffer serves all
connections. TLS fills it with all the records that the loop takes from a socket at a time; read one
by one, each record would take a buffer of that size."""


class BoundedProtocol(HttpToolsProtocol, asyncio.BufferedProtocol):
    """Closes connections that keep it waiting, or whose head exceeds MAX_HEAD (by up to a buffer).

    At any moment, either the server works on an answer or the caller has a bounded time: for a
    head, for the body that it announced, or for bytes that nobody reads any more. A connection
    without a request after an answer is closed by uvicorn itself. An application finds the
    connection in its scope's state, and calls `claim` to say whose it is.
    """

    _head = 0
    _key = b""
    _number = 0
    """The connection's number, in the order in which connections came."""
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._number = next(_NUMBERS)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.close()
        else:
            self._expect(HEAD_SECONDS)

    def claim(self, key: bytes) -> None:
        """Note that the connection belongs to the member with this key, whose signature was
        checked; close the member's oldest connection if it has more than MOST_OF_A_KEY."""
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
        self.data_received(_BUFFER[:nbytes])

    def data_received(self, data: bytes | memoryview) -> None:
        self._head += len(data)
        super().data_received(cast(bytes, data))  # any buffer will do
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
        # Bytes that nobody reads end uvicorn's own timeout of an idle connection.
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
