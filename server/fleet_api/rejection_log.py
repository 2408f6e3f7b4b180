"""Audit lines about requests that the public port turned away; few, however many there are."""

import logging
import math
import time
from typing import Literal

from starlette.types import Scope

from common.audit.log import AuditLog
from common.errors import FederationError
from common.identity.signatures import digest_fingerprint

Reason = Literal[
    "not served",
    "no key",
    "unknown key",
    "not an active member's key",
    "signature does not fit",
    "signed at another time",
    "no reply to what it was asked",
    "a second reply",
    "a reply out of bounds",
    "an object of no reply",
    "an object out of bounds",
]

_WINDOW = 3600.0
"""Seconds in which a reason and whom it is about make one line."""
_MOST = 20
"""Lines in that time about strangers, who may call themselves what they like: 200 KB a day."""
_log = logging.getLogger("hemofed.superlink")


class Refusals:
    """Notes one line an hour for each reason and key (or peer, where there is none)."""

    def __init__(self, log: AuditLog) -> None:
        self._audit = log
        self._began = -math.inf
        self._said: set[tuple[str, str]] = set()
        self._strangers = 0
        self._unsaid = 0

    def note(self, scope: Scope, reason: Reason, key: bytes = b"", site: str = "") -> None:
        """Write the line, or count it into the next one's `unsaid`.

        site: the registry's name for the key; "" for a stranger's.
        """
        if (now := time.monotonic()) > self._began + _WINDOW:
            self._began, self._said, self._strangers = now, set(), 0
        peer = scope["client"][0] if scope.get("client") else "unknown"
        whose = digest_fingerprint(key) if key else "none"
        told = reason, site or (whose if key else peer)
        if told in self._said or (not site and self._strangers >= _MOST):
            self._unsaid += 1
            return
        self._said.add(told)
        self._strangers += not site
        self._write(reason=reason, site=site, key=whose, peer=peer, unsaid=self._unsaid)

    def _write(self, **facts: str | int) -> None:
        try:
            self._audit.append("request_refused", **facts)
        except FederationError as error:  # a full disk; the request is refused all the same
            _log.error("%s", error)
        else:
            self._unsaid = 0
