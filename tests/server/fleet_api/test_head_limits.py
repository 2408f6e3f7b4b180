"""What a stranger, or a member, who opens connections gets, from a real listener."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from server.fleet_api import head_limits
from server.fleet_api.head_limits import MAX_HEAD, BoundedProtocol

LENGTH = [(b"content-length", b"0")]
ASKED = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers after a moment longer than a head may take; /now at once, and /key/X to a member."""
    if scope["path"] == "/now":
        pass
    elif scope["path"].startswith("/key/"):
        scope["state"]["connection"].claim(scope["path"].encode())
    elif scope["path"] == "/body":
        while (await receive()).get("more_body"):
            pass
    else:
        await asyncio.sleep(0.4)
    await send({"type": "http.response.start", "status": 200, "headers": LENGTH})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(head_limits, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(head_limits, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(head_limits, "MOST_OF_A_KEY", 2)
    monkeypatch.setattr(head_limits, "transfer_seconds", lambda length: 0.3)
    config = uvicorn.Config(app, port=0, http=BoundedProtocol, ws="none", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def caller(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def is_hung_up_on(one: socket.socket) -> bool:
    try:
        return one.recv(1000) == b""
    except ConnectionResetError:
        return True


def test_who_asks_is_answered_however_long_it_takes(port: int) -> None:
    with caller(port) as one:
        for _ in range(2):
            one.sendall(ASKED)
            assert one.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"", ASKED[:20]], ids=["silent", "half a head"])
def test_who_keeps_it_waiting_is_hung_up_on(port: int, sent: bytes) -> None:
    with caller(port) as one:
        one.sendall(sent)
        assert is_hung_up_on(one)


def test_a_second_head_must_come_in_time_too(port: int) -> None:
    with caller(port) as one:
        one.sendall(ASKED)
        assert one.recv(1000).startswith(b"HTTP/1.1 200")
        one.sendall(ASKED[:20])
        assert is_hung_up_on(one)


def test_one_connection_too_many_is_hung_up_on_and_the_others_stay(port: int) -> None:
    with caller(port) as first, caller(port) as second, caller(port) as third:
        for one in (first, second, third):
            one.sendall(ASKED)
        with caller(port) as more:
            assert is_hung_up_on(more)
        for one in (first, second, third):
            assert one.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_head_without_end_is_hung_up_on(port: int) -> None:
    with caller(port) as one:
        one.sendall(ASKED[:-2] + b"long: " + b"a" * 2 * MAX_HEAD)
        assert is_hung_up_on(one)


def drips(one: socket.socket) -> bool:
    """Send a byte now and then; whether that comes to an end."""
    one.settimeout(0.02)
    for _ in range(250):
        try:
            one.sendall(b"x")
            if one.recv(1000) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


POST = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"


def test_a_body_that_drips_is_given_up_in_all_though_it_never_pauses(port: int) -> None:
    with caller(port) as one:
        one.sendall(POST % b"/body")
        assert drips(one)


def test_what_nobody_reads_any_more_does_not_keep_the_connection(port: int) -> None:
    with caller(port) as one:
        one.sendall(POST % b"/now")
        assert one.recv(1000).startswith(b"HTTP/1.1 200")
        assert drips(one)


def test_nor_does_its_end(port: int) -> None:
    with caller(port) as one:
        one.sendall(POST % b"/now" + b"x" * 99_999)
        assert one.recv(1000).startswith(b"HTTP/1.1 200")
        one.sendall(b"x")
        assert is_hung_up_on(one)


def test_of_a_keys_connections_the_oldest_is_hung_up_on(port: int) -> None:
    def asks(one: socket.socket, key: bytes) -> bytes:
        one.sendall(b"GET /key/%s HTTP/1.1\r\nhost: x\r\n\r\n" % key)
        return one.recv(1000)

    with caller(port) as first, caller(port) as second:
        assert asks(first, b"a").startswith(b"HTTP/1.1 200")
        assert asks(second, b"a").startswith(b"HTTP/1.1 200")
        with caller(port) as third:
            assert asks(third, b"b").startswith(b"HTTP/1.1 200")
            assert asks(first, b"a").startswith(b"HTTP/1.1 200"), "another's is not counted"
            assert asks(third, b"a").startswith(b"HTTP/1.1 200")
            assert is_hung_up_on(first)
            assert asks(second, b"a").startswith(b"HTTP/1.1 200")
