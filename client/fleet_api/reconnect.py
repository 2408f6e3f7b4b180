"""How long a site tries again that the server does not accept, before it gives up."""

import logging
import time
from threading import Event

from common.backoff import Backoff
from common.errors import FederationError

SECONDS = 120.0
"""How long an accepted site tries: a server that lost its state, or a site that changes its keys,
is back within this time."""
FIRST_SECONDS = 10.0
"""How long a new site tries: a running server accepts a site within seconds of its admission."""
_PAUSES = (1.0, 15.0)
"""Seconds between tries: the first pause, and the longest."""
_log = logging.getLogger("hemofed.site")


class Patience:
    """How long a site keeps trying: `FIRST_SECONDS` until the server has accepted it once.

    A site that was never accepted has just been admitted, or is no member. `halt` ends a wait.
    """

    def __init__(self, halt: Event) -> None:
        self._halt = halt
        self._seconds = FIRST_SECONDS
        self._end: float | None = None
        self._pauses = Backoff(*_PAUSES)

    def renew(self) -> None:
        """Note that the server accepted the site: from now on, a refusal allows `SECONDS`."""
        self._seconds, self._end = SECONDS, None
        self._pauses.reset()

    def wait(self, refusal: FederationError) -> None:
        """Wait before the next try, or raise `refusal` when the time is over.

        The time counts from the first refusal, and each pause is longer than the one before.
        """
        if self._end is None:
            self._end = time.monotonic() + self._seconds
            _log.error("%s. This site tries again for %g s", refusal, self._seconds)
        if time.monotonic() >= self._end:
            raise refusal
        self._halt.wait(self._pauses.next())
