"""A question for messages waits until there is one, no longer, and not for a site that is gone."""

import asyncio
import time
from base64 import b64encode
from pathlib import Path

import pytest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from starlette.types import Message, Scope

from server.fleet_api import long_poll
from server.fleet_api.asgi import Listener
from server.fleet_api.authentication import Gate
from server.fleet_api.long_poll import Doorbell
from server.fleet_api.presence import Presence
from server.fleet_api.rejection_log import Refusals
from server.flower.link_state import database
from tests.server.calls import Calls
from tests.server.fleet_api.test_authentication import Connection
from tests.server.nodes import Setting

HOLD = 0.3


@pytest.fixture
def bell(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doorbell:
    monkeypatch.setattr(long_poll, "HOLD_SECONDS", HOLD)
    return Doorbell(database(tmp_path))


def request(key: bytes) -> Scope:
    headers = [
        (FLEET_HTTP_PUBLIC_KEY_HEADER.encode(), b64encode(key)),
        (b"content-length", b"2"),
    ]
    path, state = "/v1/fleet/pull-messages", {"connection": Connection()}
    return {"type": "http", "method": "POST", "path": path, "headers": headers, "state": state}


class Site:
    """The other end of a request: sends its body in two pieces, and may hang up."""

    def __init__(self, hangs_up: bool = False) -> None:
        self._pieces = [b"a", b"b"]
        self._hangs_up = hangs_up

    async def receive(self) -> Message:
        if self._pieces:
            piece = self._pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}
        if not self._hangs_up:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}


class Open(Gate):
    """Lets in whoever comes; who may is told in test_gate.py."""

    def __init__(self) -> None: ...

    def lets_in(self, scope: Scope) -> bool:
        return True

    def site_of(self, key: bytes) -> str:
        return ""


class Unseen(Presence):
    """Takes note of nobody."""

    def __init__(self) -> None: ...

    def note(self, scope: Scope, site: str) -> None: ...


def ask(bell: Doorbell, key: bytes, site: Site) -> tuple[list[bytes], float]:
    """What the call got to read, and the seconds until then."""

    async def send(message: Message) -> None: ...

    started, calls = time.monotonic(), Calls()
    front = Listener(calls, bell, Open(), Refusals(None), Unseen())  # type: ignore[arg-type]
    asyncio.run(front(request(key), site.receive, send))
    return calls.read, time.monotonic() - started


def test_a_site_with_a_message_is_answered_at_once_and_another_is_held(
    setting: Setting, bell: Doorbell
) -> None:
    list(setting.grid.push_messages([setting.message("paris")]))
    bell.look()
    read, seconds = ask(bell, setting.keys["paris"], Site())
    assert read == [b"ab"] and seconds < HOLD / 2
    read, seconds = ask(bell, setting.keys["rome"], Site())
    assert read == [b"ab"] and seconds >= HOLD


def test_a_message_that_was_taken_rings_no_more(setting: Setting, bell: Doorbell) -> None:
    list(setting.grid.push_messages([setting.message("paris")]))
    setting.taken("paris")
    bell.look()
    assert ask(bell, setting.keys["paris"], Site())[1] >= HOLD


def test_a_message_that_comes_ends_the_wait(
    setting: Setting, bell: Doorbell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_poll, "HOLD_SECONDS", 30.0)

    async def asked() -> None:
        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        held = asyncio.ensure_future(bell.wait(request(setting.keys["paris"]), receive))
        await asyncio.sleep(0.1)
        assert not held.done()
        list(setting.grid.push_messages([setting.message("paris")]))
        bell.look()
        assert await asyncio.wait_for(held, 5)

    asyncio.run(asked())


def test_nothing_is_handed_to_a_site_that_hung_up(setting: Setting, bell: Doorbell) -> None:
    read, seconds = ask(bell, setting.keys["rome"], Site(hangs_up=True))
    assert read == [] and seconds < HOLD
