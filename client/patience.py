"""How long a site that was accepted tries to be accepted again, before it gives up."""

import logging
import time
from threading import Event

from common.errors import FederationError

SECONDS = 120.0
"""A server that lost its state, or a site whose keys are being changed, is back sooner."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 15.0
_log = logging.getLogger("hemofed.site")


class Patience:
    """Starts with none: a site that was not accepted once has nothing to wait for."""

    def __init__(self, halt: Event) -> None:
        self._halt = halt
        self._accepted = False
        self._end: float | None = None
        self._pause = _FIRST_PAUSE

    def renew(self) -> None:
        """The server accepted the site."""
        self._accepted, self._end, self._pause = True, None, _FIRST_PAUSE

    def wait(self, refusal: FederationError) -> None:
        """Wait before the next try, or raise `refusal` when there is no patience left."""
        if not self._accepted:
            raise refusal
        if self._end is None:
            self._end = time.monotonic() + SECONDS
            _log.error("%s. This site tries again for %g s", refusal, SECONDS)
        if time.monotonic() >= self._end:
            raise refusal
        self._halt.wait(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
