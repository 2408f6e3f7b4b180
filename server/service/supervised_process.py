"""A process that the service keeps alive.

A process that ends is started again: at once the first time, then after pauses that double until it
has lived for more than a minute.
"""

import logging
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from common.backoff import Backoff
from common.files import last_line
from common.huge_pages import with_huge_pages
from common.log_file import keep_short
from common.process_hardening import environment

_log = logging.getLogger("hemofed.server")
_FIRST_PAUSE, _LONGEST_PAUSE, _LONG_LIFE = 0.5, 30.0, 60.0
"""The first and the longest pause, and the life after which the pauses start anew, in seconds."""
_SHORT_LIFE = 20.0
"""The seconds that a part may need to load; one that ends earlier has not begun its work."""


@dataclass
class Part:
    """A supervised process."""

    name: str
    command: list[str]
    log: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    restarts: int = -1
    _started: float = 0.0
    _short_lives: int = 0
    """The number of short lives in a row."""
    _pauses: Backoff = field(default_factory=lambda: Backoff(_FIRST_PAUSE, _LONGEST_PAUSE))
    _due: float = 0.0

    def runs(self) -> bool:
        """Return whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def look(self) -> None:
        """Start the process if it does not run and is due, and keep its log short."""
        keep_short(self.log)
        if self.runs():
            return
        now = time.monotonic()
        if self.process is not None:
            self._note_end(now)
        if now < self._due:
            return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  the command is ours
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=with_huge_pages(environment() | self.environment),
                start_new_session=True,
            )
        self._started, self.restarts = now, self.restarts + 1

    def _note_end(self, now: float) -> None:
        """Decide when to start it again; from the second short life on, report that it fails."""
        lived, self.process = now - self._started, None
        if lived > _LONG_LIFE:
            self._pauses.reset()
        pause = self._pauses.next() if self.restarts else 0.0
        self._due = now + pause
        self._short_lives = self._short_lives + 1 if lived < _SHORT_LIFE else 0
        if self._short_lives > 1:
            _log.error(
                "%s: ended right after its start, %d times in a row; it is started again in %g s. "
                "The last line of %s: %s",
                *(self.name, self._short_lives, pause, self.log, last_line(self.log)),
            )

    def stop(self, seconds: float) -> None:
        """End the process; after `seconds`, by force."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
