"""A site that the tests can lead astray by files in its home.

HOME/clock: by how many seconds its clock is off. HOME/lie: a word for what its node sends, once, in
place of its update. It answers at leisure, or rounds without end would starve other tests of
processors; and it is missed, and gives up, sooner than others.
"""

import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event

import numpy as np
from flwr.app import Message, RecordDict
from flwr.supercore.date import now
from flwr.supernode import node_auth_http_interceptor

from client.fleet_api import fleet_client, reconnect
from client.service.worker import Runner
from common.wire.vector_codec import Vector, decode, encode

_LEISURE = 0.5
"""Seconds before each answer."""
_home = Path(sys.argv[3])
_clock, _lie = _home / "clock", _home / "lie"
_right, _honest = time.time, Runner.answer


def _off() -> float:
    return float(_clock.read_text()) if _clock.exists() else 0.0


def _now() -> datetime:
    return now() + timedelta(seconds=_off())


def _answer(runner: Runner, message: Message, seconds: float, halt: Event) -> Message:
    halt.wait(_LEISURE)
    reply = _honest(runner, message, seconds, halt)
    if "update" in reply.content.array_records and _lie.exists():
        word = _lie.read_text()
        _lie.unlink()
        _tell(word, reply.content)
    return reply


def _tell(word: str, content: RecordDict) -> None:
    array = content.array_records["update"]["values"]
    if word == "layout":
        content.config_records["report"]["layout"] = "0" * 64
    else:
        values = _other(word, decode(array, array.shape[0]))
        content.array_records["update"]["values"] = encode(values)


def _other(word: str, values: Vector) -> Vector:
    return {
        "nan": np.full_like(values, np.nan),
        "ten times the size": np.tile(values, 10),
        "a huge norm": np.full_like(values, 1e30),
    }[word]


time.time = lambda: _right() + _off()
node_auth_http_interceptor.now = _now
fleet_client.HEARTBEAT_SECONDS = 10.0  # the least that Flower accepts
fleet_client._PAUSES = (0.5, 1.0)
reconnect.SECONDS = 20.0
Runner.answer = _answer  # type: ignore[method-assign]

if __name__ == "__main__":
    from tests.deploy.command import main

    main()
