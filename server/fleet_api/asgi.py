"""The public port's application: the fleet API's calls and a health check, and nothing else."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus

from starlette.types import Receive, Scope, Send

from common.wire.flower_objects import Buffer
from server.fleet_api.authentication import Gate, claimed_key
from server.fleet_api.body_limits import (
    MAX_BODY,
    MAX_REQUEST,
    Bodies,
    announced_length,
    read_body,
    transfer_seconds,
)
from server.fleet_api.handlers import PULL_MESSAGES, PULL_OBJECT, PUSH_OBJECT, Fleet
from server.fleet_api.long_poll import Doorbell
from server.fleet_api.presence import Presence
from server.fleet_api.rejection_log import Refusals
from server.rounds.reply_checks import RefusedError

_HEALTH = "/health"
_GULP = 2**18
"""How many bytes of an answer are handed over at a time; the next follow once these are sent."""


class Listener:
    """An ASGI application.

    | request                                            | answer               |
    |----------------------------------------------------|----------------------|
    | of another path                                    | 404, audit line      |
    | of another method                                  | 405                  |
    | not signed by an active member's key, or not now   | 401, audit line      |
    | of no length, or one above MAX_BODY, MAX_REQUEST   | 413                  |
    | too much of one site at a time, or its body pauses | 503: sites try again |

    All but the last are answered before any of the body is read.
    """

    def __init__(
        self,
        fleet: Fleet,
        doorbell: Doorbell,
        gate: Gate,
        refusals: Refusals,
        presence: Presence,
    ) -> None:
        self._presence = presence
        self._fleet = fleet
        self._doorbell = doorbell
        self._gate = gate
        self._refusals = refusals
        self._bodies = Bodies()
        # One thread, because the database has one writer at a time; with more, waiting for their
        # turn costs ten sites a sixth of a round.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fleet")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path == _HEALTH:
            healthy = method in ("GET", "HEAD")
            await _answer(send, HTTPStatus.OK if healthy else HTTPStatus.METHOD_NOT_ALLOWED)
        elif not self._fleet.serves(path):
            self._refusals.note(scope, "not served")
            await _answer(send, HTTPStatus.NOT_FOUND)
        elif method != "POST":
            await _answer(send, HTTPStatus.METHOD_NOT_ALLOWED)
        elif not self._gate.lets_in(scope):
            await _answer(send, HTTPStatus.UNAUTHORIZED)
        elif (length := announced_length(scope, _longest(path))) is None:
            await _answer(send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            await self._take(length, scope, receive, send)

    async def _take(self, length: int, scope: Scope, receive: Receive, send: Send) -> None:
        key = claimed_key(scope)
        self._presence.note(scope, self._gate.site_of(key))
        scope["state"]["connection"].claim(key)
        # An object that a site fetches may be as large as one that it sends, and take as long.
        held = MAX_BODY if scope["path"] == PULL_OBJECT else length
        if not self._bodies.take(key, held):
            await _answer(send, HTTPStatus.SERVICE_UNAVAILABLE)
            return
        try:
            await self._read(key, length, scope, receive, send)
        finally:
            self._bodies.give_back(key, held)

    async def _read(
        self, key: bytes, length: int, scope: Scope, receive: Receive, send: Send
    ) -> None:
        body = await read_body(receive, length)
        if body is None:
            await _answer(send, HTTPStatus.SERVICE_UNAVAILABLE)
            return
        if scope["path"] == PULL_MESSAGES:
            if not await self._doorbell.wait(scope, receive):
                return
            if not self._gate.lets_in(scope):  # revoked while it waited
                await _answer(send, HTTPStatus.UNAUTHORIZED)
                return
        status, content = await self._call(scope, key, body)
        await _answer(send, status, content)

    async def _call(
        self, scope: Scope, key: bytes, body: Buffer
    ) -> tuple[HTTPStatus, tuple[Buffer, ...]]:
        """Return the fleet's answer; a refusal is noted under the member's name."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._thread, self._fleet.answer, scope["path"], key, body
            )
        except RefusedError as refused:
            if refused.reason:
                self._refusals.note(scope, refused.reason, key, self._gate.site_of(key))
            return refused.status, ()


def _longest(path: str) -> int:
    """Return the largest number of bytes that a call's body may have."""
    return MAX_BODY if path == PUSH_OBJECT else MAX_REQUEST


async def _answer(send: Send, status: HTTPStatus, spans: Sequence[Buffer] = ()) -> None:
    length = sum(map(len, spans))
    headers = [
        (b"content-type", b"application/x-protobuf"),
        (b"content-length", str(length).encode()),
    ]
    # A caller that reads too slowly is disconnected: an incomplete answer ends its connection.
    with suppress(TimeoutError):
        async with asyncio.timeout(transfer_seconds(length)):
            await send({"type": "http.response.start", "status": int(status), "headers": headers})
            for left, gulp in _gulps(spans):
                await send({"type": "http.response.body", "body": gulp, "more_body": left > 0})


def _gulps(spans: Sequence[Buffer]) -> list[tuple[int, Buffer]]:
    """Return (how many follow, bytes), at least once."""
    gulps = [
        span[start : start + _GULP] for span in spans for start in range(0, len(span), _GULP)
    ] or [b""]
    return list(zip(range(len(gulps))[::-1], gulps, strict=True))
