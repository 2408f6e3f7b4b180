"""The public port reads a body only of an active member's requests, and tells of the others."""

import asyncio
import json
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import sign_message
from starlette.types import Message, Scope

from common.audit.log import AuditLog
from common.errors import FederationError
from common.identity import Registry, load_signing_key, node_public_pem
from common.identity.admission_request import AdmissionRequest
from common.identity.keys import make_node_key, make_signing_key
from server.fleet_api import asgi, body_limits, rejection_log
from server.fleet_api.asgi import Listener
from server.fleet_api.authentication import Gate
from server.fleet_api.body_limits import MAX_BODY, MAX_REQUEST, MOST_OF_A_SITE
from server.fleet_api.presence import Presence
from server.fleet_api.rejection_log import Reason, Refusals
from server.membership.provisioning import admit, make_server, revoke
from server.rounds.reply_checks import RefusedError
from tests.server.calls import Calls

NOW = datetime.now(UTC)
NAMES = ("active", "gone", "late", "moved")


class Door:
    """A Listener whose calls count the bytes they get."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.keys: dict[str, EllipticCurvePrivateKey] = {}
        for name in NAMES:
            self._admit(name)
        revoke(home, "gone", NOW)
        self.log = AuditLog.open(home / "audit.jsonl", load_signing_key(home / "signing.key"))
        told = Refusals(self.log)
        gate = Gate(told)
        gate.follow(Registry.load(home))
        self.calls = Calls()
        presence = Presence(home)
        self.front = Listener(self.calls, Bell(), gate, told, presence)  # type: ignore[arg-type]

    def _admit(self, name: str) -> None:
        node, signing = make_node_key(), make_signing_key()
        admit(self.home, AdmissionRequest.make(name, node, signing, NOW), NOW)
        self.keys[name] = node
        if name == "late":
            admit(self.home, AdmissionRequest.make(name, node, signing, NOW), NOW, days=-1)
        if name == "moved":
            following = AdmissionRequest.make(
                name, make_node_key(), make_signing_key(), NOW, signing
            )
            admit(self.home, following, NOW)

    @property
    def got(self) -> list[int]:
        """Bytes of each body that was passed on."""
        return [len(body) for body in self.calls.read]

    def lines(self) -> list[dict[str, Any]]:
        rows = map(json.loads, (self.home / "audit.jsonl").read_text().splitlines())
        return [row["facts"] for row in rows if row["event"] == "request_refused"]


class Connection:
    """Keeps whose it is."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []

    def claim(self, key: bytes) -> None:
        self.keys.append(key)


class Bell:
    """No question for messages waits."""

    async def wait(self, scope: Scope, receive: Any) -> bool:
        return True


class Caller:
    """One request: what it says, the body that it brings, and what it is answered."""

    def __init__(self, headers: dict[str, bytes], path: str = "/v1/fleet/push-object") -> None:
        self.scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": [(name.encode(), value) for name, value in headers.items()],
            "client": ("192.0.2.7", 4711),
            "state": {"connection": Connection()},
        }
        self.body = b"abc"
        self.read = 0
        self.status = 0

    async def receive(self) -> Message:
        self.read += len(self.body)
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def send(self, message: Message) -> None:
        self.status = message.get("status", self.status)

    async def ask(self, door: Door) -> int:
        await door.front(self.scope, self.receive, self.send)
        return self.status


def signed(
    key: EllipticCurvePrivateKey | None,
    by: EllipticCurvePrivateKey | None = None,
    when: str | None = None,
) -> Any:
    """The headers of a request in the name of `key`, signed by it or another."""
    headers = {"content-length": b"3"}
    if key is not None:
        time = (when or datetime.now(UTC).isoformat()).encode()
        headers |= {
            FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(node_public_pem(key)),
            TIMESTAMP_HEADER: time,
            FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(by or key, time)),
        }
    return headers


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    make_server(tmp_path / "server", "127.0.0.1:9092", NOW - timedelta(hours=1))
    one = Door(tmp_path / "server")
    yield one
    one.log.close()


def test_a_members_request_is_read_and_passed_on(door: Door) -> None:
    caller = Caller(signed(door.keys["active"]))
    assert asyncio.run(caller.ask(door)) == 200
    assert door.got == [3] and door.lines() == []


@pytest.mark.parametrize(
    ("who", "reason", "site"),
    [
        ("nobody", "no key", ""),
        ("stranger", "unknown key", ""),
        ("forger", "signature does not fit", "active"),
        ("gone", "not an active member's key", "gone"),
        ("late", "not an active member's key", "late"),
        ("moved", "not an active member's key", "moved"),
    ],
)
def test_nobody_else_is_read_and_each_leaves_one_line(
    door: Door, who: str, reason: str, site: str
) -> None:
    headers = {
        "nobody": lambda: signed(None),
        "stranger": lambda: signed(make_node_key()),
        "forger": lambda: signed(door.keys["active"], make_node_key()),
    }.get(who, lambda: signed(door.keys[who]))()
    for _ in range(3):
        caller = Caller(headers)
        assert asyncio.run(caller.ask(door)) == 401
        assert caller.read == 0
    assert door.got == []
    (line,) = door.lines()
    assert (line["reason"], line["site"], line["peer"]) == (reason, site, "192.0.2.7")


@pytest.mark.parametrize("damage", ["not base64 \xff", ""])
def test_headers_that_cannot_be_read_are_no_signature(door: Door, damage: str) -> None:
    for header in (FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER):
        headers = signed(door.keys["active"]) | {header: damage.encode("latin-1")}
        assert asyncio.run(Caller(headers).ask(door)) == 401


@pytest.mark.parametrize("length", [str(MAX_BODY + 1), "", "-1", "9" * 5000])
def test_a_body_of_no_length_or_too_long_a_one_is_not_read(door: Door, length: str) -> None:
    caller = Caller(signed(door.keys["active"]) | {"content-length": length.encode()})
    assert asyncio.run(caller.ask(door)) == 413
    assert caller.read == 0


def test_the_health_check_reads_no_body(door: Door) -> None:
    caller = Caller({"content-length": str(MAX_BODY).encode()}, "/health")
    assert asyncio.run(caller.ask(door)) == 405
    caller.scope["method"] = "GET"
    assert asyncio.run(caller.ask(door)) == 200
    assert caller.read == 0 and door.got == []


def test_a_call_is_a_post(door: Door) -> None:
    caller = Caller(signed(door.keys["active"]))
    caller.scope["method"] = "GET"
    assert asyncio.run(caller.ask(door)) == 405
    assert caller.read == 0


OTHER_TIMES = {
    "old": (NOW - timedelta(days=1)).isoformat(),
    "to come": (NOW + timedelta(days=1)).isoformat(),
    "of no zone": NOW.replace(tzinfo=None).isoformat(),
    "no time": "now",
}


@pytest.mark.parametrize("when", OTHER_TIMES)
def test_what_was_signed_at_another_time_is_not_read(door: Door, when: str) -> None:
    caller = Caller(signed(door.keys["active"], when=OTHER_TIMES[when]))
    assert asyncio.run(caller.ask(door)) == 401
    assert caller.read == 0
    (line,) = door.lines()
    assert (line["reason"], line["site"]) == ("signed at another time", "active")


@pytest.mark.parametrize(("call", "length"), [("push-object", MAX_BODY), ("pull-object", 100)])
def test_one_site_has_only_so_many_bytes_under_way(door: Door, call: str, length: int) -> None:
    """Sent, or asked for: an answer may be as large as a body."""
    headers = signed(door.keys["active"]) | {"content-length": str(length).encode()}
    path, most = f"/v1/fleet/{call}", MOST_OF_A_SITE // MAX_BODY

    async def crowd() -> list[int]:
        waiting = [Slow(headers, path) for _ in range(most)]
        asked = [asyncio.ensure_future(caller.ask(door)) for caller in waiting]
        await asyncio.sleep(0)
        refused = [await Caller(headers, path).ask(door)]
        for caller in waiting:
            caller.goes_on.set()
        return refused + [await one for one in asked] + [await Caller(headers, path).ask(door)]

    assert asyncio.run(crowd()) == [503, *[200] * (most + 1)]


class Slow(Caller):
    """Its body comes when it is told to go on."""

    def __init__(self, headers: dict[str, bytes], path: str = "/v1/fleet/push-object") -> None:
        super().__init__(headers, path)
        self.goes_on = asyncio.Event()

    async def receive(self) -> Message:
        await self.goes_on.wait()
        return await super().receive()


def test_a_body_that_pauses_is_given_up(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limits, "PAUSE_SECONDS", 0.05)
    caller = Slow(signed(door.keys["active"]))
    assert asyncio.run(caller.ask(door)) == 503
    assert door.got == []


def test_other_paths_leave_one_line_a_peer(door: Door) -> None:
    for path in ("/v1/control/start-run", "/mueller.png", "/v1/control/list-runs"):
        assert asyncio.run(Caller(signed(door.keys["active"]), path).ask(door)) == 404
    (line,) = door.lines()
    assert (line["reason"], line["peer"]) == ("not served", "192.0.2.7")


def test_strangers_cannot_fill_the_disk_nor_hide_a_member(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, scope = Refusals(door.log), Caller({}).scope
    clock = [0.0]
    monkeypatch.setattr(rejection_log.time, "monotonic", lambda: clock[0])
    for number in range(1000):
        told.note(scope, "unknown key", f"key {number}".encode())
    assert len(door.lines()) == rejection_log._MOST
    told.note(scope, "not an active member's key", b"key", "gone")
    assert door.lines()[-1]["site"] == "gone"
    assert door.lines()[-1]["unsaid"] == 1000 - rejection_log._MOST
    clock[0] = rejection_log._WINDOW + 1
    told.note(scope, "unknown key", b"key 0")
    assert len(door.lines()) == rejection_log._MOST + 2


def test_a_full_disk_lets_nobody_in(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise FederationError("no room")

    monkeypatch.setattr(AuditLog, "append", full)
    assert asyncio.run(Caller(signed(None)).ask(door)) == 401


def test_a_members_connection_is_its_keys_and_a_strangers_is_nobodys(door: Door) -> None:
    for name, keys in (("active", 1), ("gone", 0)):
        caller = Caller(signed(door.keys[name]))
        asyncio.run(caller.ask(door))
        assert caller.scope["state"]["connection"].keys == [node_public_pem(door.keys[name])] * keys


@pytest.mark.parametrize("path", ["pull-messages", "push-messages", "get-run"])
def test_what_brings_no_object_is_short(door: Door, path: str) -> None:
    headers = signed(door.keys["active"])
    for length, status in ((MAX_REQUEST, 200), (MAX_REQUEST + 1, 413)):
        caller = Caller(headers | {"content-length": str(length).encode()}, f"/v1/fleet/{path}")
        assert asyncio.run(caller.ask(door)) == status
    assert caller.read == 0


class Reader(Caller):
    """Takes so many pieces of the answer, and then no more."""

    def __init__(self, headers: dict[str, bytes], most: int) -> None:
        super().__init__(headers)
        self.most = most
        self.got = b""

    async def send(self, message: Message) -> None:
        if "body" in message and not self.most:
            await asyncio.Event().wait()
        self.most -= "body" in message
        self.got += message.get("body", b"")
        self.more = message.get("more_body", False)


@pytest.mark.parametrize("size", [0, 1, asgi._GULP, 3 * asgi._GULP + 1])
def test_an_answer_goes_out_in_pieces_and_whole(door: Door, size: int) -> None:
    door.calls.content = bytes(size)
    reader = Reader(signed(door.keys["active"]), 100)
    asyncio.run(reader.ask(door))
    assert reader.got == bytes(size) and not reader.more
    assert 100 - reader.most == max(-(-size // asgi._GULP), 1)


def test_who_reads_too_slowly_is_given_up(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "transfer_seconds", lambda length: 0.05)
    door.calls.content = bytes(3 * asgi._GULP)
    reader = Reader(signed(door.keys["active"]), 1)
    asyncio.run(reader.ask(door))
    assert reader.got == bytes(asgi._GULP) and reader.more


def test_a_line_of_half_a_megabit_has_the_time_for_a_piece() -> None:
    assert 240 < body_limits.transfer_seconds(MAX_BODY) < 600
    assert body_limits.transfer_seconds(0) == body_limits.PAUSE_SECONDS


@pytest.mark.parametrize(("reason", "lines"), [("a second reply", 1), (None, 0)])
def test_what_a_member_may_not_send_is_one_line_in_its_name(
    door: Door, monkeypatch: pytest.MonkeyPatch, reason: Reason | None, lines: int
) -> None:
    def refuses(*_: object) -> None:
        raise RefusedError(HTTPStatus.CONFLICT, reason)

    monkeypatch.setattr(door.calls, "answer", refuses)
    for _ in range(3):
        assert asyncio.run(Caller(signed(door.keys["active"])).ask(door)) == 409
    assert [(line["reason"], line["site"]) for line in door.lines()] == [(reason, "active")] * lines
