"""Notes refused requests in the audit log, in few lines however many requests there are."""

import logging
import math
import time
from typing import Literal

from starlette.types import Scope

from common.audit.log import AuditLog
from common.errors import FederationError
from common.identity.signatures import digest_fingerprint

Reason = Literal[  # why a request was refused
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
"""The seconds in which a reason and caller get one line at most."""
_MOST = 20
"""The most lines in that time about strangers, who may use any number of names: 200 KB a day."""
_log = logging.getLogger("hemofed.superlink")


class Refusals:
    """Writes at most one line per hour for each reason and site, or a stranger's key or address."""

    def __init__(self, log: AuditLog) -> None:
        self._audit = log
        self._began = -math.inf
        self._said: set[tuple[str, str]] = set()
        self._strangers = 0
        self._unsaid = 0

    def note(self, scope: Scope, reason: Reason, key: bytes = b"", site: str = "") -> None:
        """Write a line about a refused request, or count it in the `unsaid` of the next line.

        Args:
            scope: the request's.
            reason: why it was refused.
            key: the public key (PEM) that it claims; b"" if it has none.
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
