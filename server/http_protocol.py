"""uvicorn's HTTP protocol with a bound on all that is not a body: it keeps headers without one."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 * 2**10
"""Bytes of a request's first line, headers and framing; a site's take less than 2 KiB."""


class BoundedHead(HttpToolsProtocol):
    """Hangs up on a request whose head is larger than MAX_HEAD, read by as much as one buffer."""

    _head = 0

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if self._head > MAX_HEAD:
            self.transport.close()

    def on_message_begin(self) -> None:
        self._head = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        self._head -= len(body)
        super().on_body(body)
