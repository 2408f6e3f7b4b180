"""Tracks each member's presence: since when it is connected, when it was last heard, its version.

The listener notes what Flower does not: since when a site has been connected without a gap, and the
version of hemofed that it names. When a site was last heard is in Flower's database.
"""

import json
import logging
import math
import re
import sqlite3
import time
from collections.abc import Collection
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from starlette.types import Scope

from common.files import write_text
from common.version import HEADER
from common.wire.flower_internals import HEARTBEAT_PATIENCE
from server.flower.link_state import database
from server.home import ServerHome

GAP_SECONDS = 30.0
"""A site that sends nothing for this long is gone; its heartbeats come every 5 s."""
_FILE = "presence.json"
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+!-]{0,39}")
_NODES = "SELECT name, online_until, heartbeat_interval FROM node ORDER BY registered_at"
_SIGNS = ("/v1/fleet/send-node-heartbeat", "/v1/fleet/pull-messages")
_GOOD_BYE = "/v1/fleet/deactivate-node"
_log = logging.getLogger("hemofed.superlink")


@dataclass(frozen=True)
class LastSeen:
    """What the listener noted of a site."""

    since: float
    """When this stay, or the last one, began, in seconds of Unix time."""
    version: str
    """The version of hemofed that the site names; "" if it names none."""
    left: float | None = None
    """When the site said good-bye, in seconds of Unix time; None if it did not."""


@dataclass(frozen=True)
class Sighting:
    """What is known of a member's connection."""

    connected: bool
    since: float | None
    """When the last stay began, in seconds of Unix time; None if it is not known."""
    last: float | None
    """When the member was last heard, in seconds of Unix time; None if it is not known."""
    version: str
    """The version of hemofed that the member names; "" if it is not known."""


class Presence:
    """The listener's notes, in a file that is written only when something changes."""

    def __init__(self, home: Path, online: Collection[str] = ()) -> None:
        """online: sites that are still connected, because the listener restarted soon enough."""
        self._path = ServerHome(home).state / _FILE
        self._seen = _read(home)
        now = time.monotonic()
        self._heard = dict.fromkeys(set(online) & set(self._seen), now)

    def note(self, scope: Scope, site: str) -> None:
        """Note a request that the site signed."""
        before = self._seen.get(site)
        if scope["path"] == _GOOD_BYE and before is not None:
            self._heard.pop(site, None)
            self._keep(site, replace(before, left=time.time()))
            _log.info("site %s: said good-bye", site)
        if scope["path"] not in _SIGNS:
            return
        now = time.monotonic()
        stays = now - self._heard.get(site, -math.inf) < GAP_SECONDS
        self._heard[site] = now
        version = _version(scope)
        if not stays:
            _log.info("site %s: is here, hemofed %s", site, version or "of an unknown version")
        if before is None or not stays or version != before.version:
            self._keep(site, LastSeen(before.since if before and stays else time.time(), version))

    def _keep(self, site: str, seen: LastSeen) -> None:
        self._seen[site] = seen
        try:
            write_text(self._path, json.dumps({s: asdict(seen) for s, seen in self._seen.items()}))
        except OSError as error:  # a full disk costs `status` a time, and no site an answer
            _log.error("%s: cannot be written (%s)", self._path, error.strerror)


def sightings(home: Path, now: float) -> dict[str, Sighting]:
    """Return site -> what is known of its connection at `now` (seconds of Unix time)."""
    seen = _read(home)
    found = {}
    for name, until, interval in _rows(home):
        mine = seen.get(name)
        last = until - HEARTBEAT_PATIENCE * interval if until and interval else None
        found[name] = Sighting(
            connected=until is not None and until > now,
            since=mine.since if mine else None,
            last=mine.left if mine and mine.left else last,
            version=mine.version if mine else "",
        )
    return found


def _rows(home: Path) -> list[tuple[str, float | None, float | None]]:
    """Return the nodes in Flower's database, later ones of the same name last.

    There are none before the first start of the server.
    """
    path = database(home)
    if not path.is_file():
        return []
    try:
        address = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=5.0)) as connection:
            return [row for row in connection.execute(_NODES) if row[0]]
    except sqlite3.Error as error:
        _log.warning("%s: cannot be read (%s)", path, error)
        return []


def _read(home: Path) -> dict[str, LastSeen]:
    """Read the notes; if they cannot be read there are none, since they will be noted again."""
    try:
        content = json.loads((ServerHome(home).state / _FILE).read_text(encoding="utf-8"))
        return {site: LastSeen(**seen) for site, seen in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _version(scope: Scope) -> str:
    """Return the version that a request names; "" if it names none, or something else.

    >>> _version({"headers": [(HEADER.encode(), b"1.2.0")]})
    '1.2.0'
    """
    named = dict(scope["headers"]).get(HEADER.encode(), b"").decode("latin-1")
    return named if _VERSION.fullmatch(named) else ""
