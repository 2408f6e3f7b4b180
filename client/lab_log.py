"""The lab's own log, `site.log`: the texts of errors, each under a reference, and the lab's own
figures. None of it leaves the site.

The server learns only the reference, so that an operator and a lab can talk about the same line.
"""

import os
import re
import secrets
import traceback
from datetime import UTC, datetime
from pathlib import Path

from common.errors import HemofedError
from common.log_file import add_line
from common.untrusted_text import shown

_TAIL_BYTES = 2**16


class LabLog:
    """Writes why the site gives no answer; an error that repeats gets one line.

    A study that waits for its labs asks every few seconds, and gets the same error each time while
    nobody has approved it.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[Path, str], tuple[str, str]] = {}

    def note(self, path: Path, about: str, error: Exception) -> str:
        """Write the error to the log at `path`, unless it equals the last one with this `about`.

        Returns the reference of the error's line. A log that cannot be written raises nothing, and
        so does not stop the answer to the server.
        """
        text = _text(error)
        before = self._last.get((path, about))
        if before and before[0] == text:
            return before[1]
        reference = secrets.token_hex(4)
        self._last[path, about] = text, reference
        write_line(path, f"[{reference}] {text}")
        return reference


def text_of(path: Path, reference: str) -> str:
    """Return the first line of the text under `reference` in the log at `path`.

    Returns "" when the log cannot be read, or its last 64 KiB do not hold the reference.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            tail = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    found = re.findall(rf"^\S+ \[{re.escape(reference)}\] (.*)$", tail, re.MULTILINE)
    return found[-1] if found else ""


def _text(error: Exception) -> str:
    known = isinstance(error, HemofedError)
    return shown(str(error) if known else "".join(traceback.format_exception(error)), lines=True)


def write_line(path: Path, text: str) -> None:
    """Add a line with the time (UTC) to the log; leave it out if the log cannot be written."""
    # A full disk must not turn into an exception here: Flower would send its text to the server.
    add_line(path, f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}")
