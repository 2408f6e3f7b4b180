"""How long a site that the server does not accept tries again, before it gives up."""

import logging
import time
from threading import Event

from common.backoff import Backoff
from common.errors import FederationError

SECONDS = 120.0
"""Within this time a server that lost its state, or a site that changes its keys, is back."""
FIRST_SECONDS = 10.0
"""A server that runs takes a site that was just admitted up within seconds."""
_PAUSES = (1.0, 15.0)
"""Seconds: the first, and the longest."""
_log = logging.getLogger("hemofed.site")


class Patience:
    """Starts with little: who was never accepted is a member since a moment, or is none."""

    def __init__(self, halt: Event) -> None:
        self._halt = halt
        self._seconds = FIRST_SECONDS
        self._end: float | None = None
        self._pauses = Backoff(*_PAUSES)

    def renew(self) -> None:
        """The server accepted the site."""
        self._seconds, self._end = SECONDS, None
        self._pauses.reset()

    def wait(self, refusal: FederationError) -> None:
        """Wait before the next try, or raise `refusal` when there is no patience left."""
        if self._end is None:
            self._end = time.monotonic() + self._seconds
            _log.error("%s. This site tries again for %g s", refusal, self._seconds)
        if time.monotonic() >= self._end:
            raise refusal
        self._halt.wait(self._pauses.next())
