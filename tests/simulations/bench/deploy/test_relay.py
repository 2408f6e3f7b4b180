"""The relay of the deployment's benchmark counts every byte, and changes none."""

import os
import socket
from threading import Thread

from simulations.bench.deploy.relay import Relay


def test_bytes_go_through_unchanged_and_are_counted() -> None:
    up, down = os.urandom(3_000_001), os.urandom(2_000_003)

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            got = b"".join(iter(lambda: connection.recv(1 << 16), b""))
            connection.sendall(down if got == up else b"")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=serve, args=(listener,), daemon=True).start()
        with Relay(listener.getsockname()[1]) as relay:
            with socket.create_connection(("127.0.0.1", relay.port)) as site:
                site.sendall(up)
                site.shutdown(socket.SHUT_WR)
                got = b"".join(iter(lambda: site.recv(1 << 16), b""))
            assert got == down
            assert relay.counted() == (len(up), len(down))
