"""Words of others, for a person's screen: what steers a terminal or turns text round is not passed.

An escape sequence clears a screen or colours a refusal green, a C1 control does the same in one
character, a bidirectional mark lets a sentence be read backwards, and a line end begins a line that
looks like ours. So our own fields refuse such characters when they are parsed (`PlainText`), and
words that come from elsewhere, a peer's, a file's, are shown with their code points (`shown`).
"""

import io
import logging
import sys
import unicodedata
from typing import Annotated

from pydantic import AfterValidator

_LINES = "\n\t"
"""What a text of several lines may have beside its letters."""


def shown(text: str, most: int | None = None, *, lines: bool = False) -> str:
    """`text` with each character that could steer a terminal as its code point, like <U+001B>.

    Those are the Unicode categories C (controls, format and bidirectional marks, surrogates,
    private and unassigned characters) and the line and paragraph separators. most: so many
    characters of `text`, then "...". lines: line ends and tabs stay as they are.
    """
    cut = text if most is None or len(text) <= most else f"{text[:most]}..."
    kept = _LINES if lines else ""
    return "".join(c if c in kept or not _steers(c) else f"<U+{ord(c):04X}>" for c in cut)


def one_line(text: str) -> str:
    """`text` as `shown`, its own line ends and runs of spaces as one space each."""
    return shown(" ".join(text.split()))


class PlainFormatter(logging.Formatter):
    """A log line in which what others said is `shown`; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's own name
        return shown(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record), lines=True)


def log_plainly() -> None:
    """Have this process's log go to stderr, by `PlainFormatter`: warnings, and what hemofed's own
    loggers tell of."""
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("hemofed").setLevel(logging.INFO)


def print_anywhere() -> None:
    """Let this process print on a terminal of any alphabet: a letter that it lacks is a "?" there,
    as wide as the letter, and ends nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _steers(character: str) -> bool:
    return unicodedata.category(character)[0] == "C" or character in "\u2028\u2029"


def _without_controls(kept: str, text: str) -> str:
    for place, character in enumerate(text):
        if character not in kept and _steers(character):
            raise ValueError(
                f"character {place + 1} is <U+{ord(character):04X}>, which steers a terminal and "
                "says nothing; leave it out"
            )
    return text


PlainText = Annotated[str, AfterValidator(lambda text: _without_controls("", text))]
"""One line without control, format or bidirectional characters."""

PlainLines = Annotated[str, AfterValidator(lambda text: _without_controls(_LINES, text))]
"""The same; line ends and tabs are allowed."""
