"""A TCP relay on loopback that counts bytes.

The kernel moves the bytes (splice) and this process never sees them, so TLS stays end to end.
"""

import fcntl
import os
import socket
from collections import Counter
from contextlib import suppress
from threading import Lock, Thread
from typing import Self

_PIPE_BYTES = 1 << 20


class Relay:
    """Passes every connection on to `port` of this machine, within its `with` block.

    `counted()` gives the bytes sent to the port and back so far, with TLS and HTTP.
    """

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._lock = Lock()
        self._bytes: Counter[str] = Counter()

    @property
    def port(self) -> int:
        """The port that the relay listens on."""
        return int(self._listener.getsockname()[1])

    def counted(self) -> tuple[int, int]:
        """Return (bytes to the port, bytes from it)."""
        with self._lock:
            return self._bytes["up"], self._bytes["down"]

    def __enter__(self) -> Self:
        Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # A blocked accept wakes on shutdown, not on close.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._to)
                except OSError:
                    near.close()  # what a port without a listener does
                    continue
                Thread(target=self._join, args=(near, far), daemon=True).start()

    def _join(self, near: socket.socket, far: socket.socket) -> None:
        """Pass bytes on in both directions until both have ended."""
        with near, far:
            down = Thread(target=self._pass_on, args=(far, near, "down"), daemon=True)
            down.start()
            self._pass_on(near, far, "up")
            down.join()

    def _pass_on(self, source: socket.socket, target: socket.socket, way: str) -> None:
        read, write = os.pipe()
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            while taken := os.splice(source.fileno(), write, _PIPE_BYTES):
                with self._lock:
                    self._bytes[way] += taken
                while taken:
                    taken -= os.splice(read, target.fileno(), taken)
        except OSError:
            pass  # one end is gone; so is the other, below
        finally:
            os.close(read)
            os.close(write)
            with suppress(OSError):
                target.shutdown(socket.SHUT_WR)
