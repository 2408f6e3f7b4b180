"""Reading an audit log: its files, its lines, and where one does not fit."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.audit.entry import KEY_EVENTS, parse_line
from common.errors import FederationError

_KEY_MARKS = tuple(f'"event":"{event}"'.encode() for event in KEY_EVENTS)


@dataclass(frozen=True)
class ChainBreak:
    """Where a log stops being what was written."""

    path: Path
    line: int
    """From 1, as an editor counts; one past the last when something is missing at the end."""
    why: str

    def __str__(self) -> str:
        return f"{self.path}: line {self.line} {self.why}"


def present_key(path: Path) -> str | None:
    """PEM of the key that signs the log from its last line on; None when there is no log.

    Lines are not checked; the file's own claim is what a writer has to agree with.
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
    """`path` and the files before it that lie beside it, oldest first."""
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
    """The lines with their ends, numbered from 1; an empty file has an empty line 1."""
    try:
        with path.open("rb") as file:
            number = 0
            for number, line in enumerate(file, start=1):
                yield number, line
            if number == 0:
                yield 1, b""
    except OSError as error:
        raise FederationError(f"{path}: cannot be read ({error.strerror})") from error
