"""uvicorn's HTTP protocol with bounds on what a stranger may take: heads, time and connections."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 * 2**10
"""Bytes of a request's first line, headers and framing; a site's take less than 2 KiB."""
HEAD_SECONDS = 20.0
"""Within which a connection's first request, and any that begins, must have its whole head here."""
MAX_CONNECTIONS = 800
"""At a time, below the 1,024 open files that a process has by custom; a site has two or three.
One more is hung up on, and a site tries again."""


class BoundedHead(HttpToolsProtocol):
    """Hangs up on what keeps it waiting, or sends a head larger than MAX_HEAD (one buffer more).

    uvicorn itself ends a connection that asks nothing more after an answer.
    """

    _head = 0
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.close()
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if self._head > MAX_HEAD:
            self.transport.close()

    def on_message_begin(self) -> None:
        self._head = 0
        self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head -= len(body)
        super().on_body(body)

    def _expect_head(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience:
            self._patience.cancel()
            self._patience = None
