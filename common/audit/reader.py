"""Reads an audit log: its files, its lines and its signing key."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.audit.entry import KEY_EVENTS, parse_line
from common.errors import FederationError

_KEY_MARKS = tuple(f'"event":"{event}"'.encode() for event in KEY_EVENTS)


@dataclass(frozen=True)
class ChainBreak:
    """The first place in a log that does not match, and why."""

    path: Path
    line: int
    """Counts from 1, as in an editor. If lines are missing at the end, one more than the last."""
    why: str

    def __str__(self) -> str:
        return f"{self.path}: line {self.line} {self.why}"


def present_key(path: Path) -> str | None:
    """Return the PEM of the key that signs the next lines, or None if there is no log.

    The lines are not checked as a chain: a writer must use the key that the file names.

    Raises:
        FederationError: the file cannot be read.
    """
    key = None
    if path.exists():
        for _, line in log_lines(path):
            if any(mark in line for mark in _KEY_MARKS):
                try:
                    key = str(parse_line(line.removesuffix(b"\n"))["facts"]["key"])
                except (ValueError, KeyError):
                    continue
    return key


def log_files(path: Path) -> list[Path]:
    """Return `path` and the earlier files of its log in the same folder, oldest first.

    Raises:
        FederationError: a file cannot be read.
    """
    files = [path]
    while True:
        first = next((line for _, line in log_lines(files[0])), b"")
        try:
            fields = parse_line(first.removesuffix(b"\n"))
        except ValueError:
            return files
        before = files[0].with_name(Path(str(fields["facts"].get("file", ""))).name or "-")
        if fields["event"] != "continues" or before in files or not before.is_file():
            return files
        files.insert(0, before)


def log_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) from 1 on, with the line ends; an empty file yields (1, b"").

    Raises:
        FederationError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            number = 0
            for number, line in enumerate(file, start=1):
                yield number, line
            if number == 0:
                yield 1, b""
    except OSError as error:
        raise FederationError(f"{path}: cannot be read ({error.strerror})") from error
