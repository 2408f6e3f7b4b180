"""The file under an audit log: locked, appended to, synced, put aside."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from common.audit.entry import KEY_EVENTS, parse_line
from common.audit.reader import log_files, log_lines
from common.errors import FederationError
from common.files import make_folder, replacing, sync

_TAIL_BYTES = 64 * 1024
"""More than any line is long."""


class AuditFile:
    """State of the file as of the last time this process held its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.head = ""
        self.next = 0
        """The number of the line to come."""
        self.unsigned = 0
        """Lines since the last signature."""
        self.key = ""
        """PEM of the key that the last line seen that named one gives the log."""
        self.cut = 0
        """Bytes of a half line that a crash had left and that were removed."""
        self._lost = False
        """Whether lines that this process saw are there no more; it writes nothing then."""
        self._handle: int | None = None
        self._process = os.getpid()
        self._threads = threading.RLock()

    @contextmanager
    def locked(self) -> Iterator[Self]:
        """Hold the file for this process and thread, its last line read.

        Raises FederationError when the file cannot be opened or its last line is damaged.
        """
        with self._threads:
            try:
                handle = self._lock()
            except OSError as error:
                raise FederationError(
                    f"{self.path}: the audit log cannot be opened ({error.strerror})"
                ) from error
            try:
                self._catch_up(handle)
                yield self
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)

    def write(self, line: bytes) -> None:
        """Append `line` and sync it. Raises FederationError; the file is as before then."""
        assert self._handle is not None
        text = line + b"\n"
        try:
            done = 0
            while done < len(text):
                done += os.write(self._handle, text[done:])
            os.fsync(self._handle)
        except OSError as error:
            os.ftruncate(self._handle, self.size)
            raise FederationError(
                f"{self.path}: the audit log cannot be written ({error.strerror}); nothing goes on "
                "without it, so make room or mend the disk"
            ) from error
        self.size += len(text)
        self._follow(line)

    def replace(self, archive: Path, first_line: bytes) -> None:
        """Keep the file as `archive` and go on in a fresh one that begins with `first_line`.

        A crash in between leaves the file whole under both names, and the log goes on in it.
        """
        try:
            archive.unlink(missing_ok=True)
            archive.hardlink_to(self.path)
            with replacing(self.path) as temporary:
                temporary.write_bytes(first_line + b"\n")
        except OSError as error:
            raise FederationError(
                f"{self.path}: cannot be put aside as {archive.name} ({error.strerror})"
            ) from error
        self.size = len(first_line) + 1
        self._follow(first_line)
        self.unsigned = 1

    def close(self) -> None:
        """Close; the next use opens it again."""
        with self._threads:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None

    def _lock(self) -> int:
        """An exclusively locked handle of the file that `path` names at this moment."""
        if self._process != os.getpid():  # a lock on an inherited handle would be the parent's
            self._process = os.getpid()
            self.close()
            self._forget()
        while True:
            if self._handle is None:
                self._handle = self._open()
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            try:
                there = self.path.stat()
            except FileNotFoundError:
                there = None
            mine = os.fstat(self._handle)
            if there and (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                return self._handle
            self.close()
            self._replaced()

    def _open(self) -> int:
        make_folder(self.path.parent)
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(handle).st_size == 0:
            sync(self.path.parent)
        return handle

    def _catch_up(self, handle: int) -> None:
        """Read what other processes appended since; remove a half line that a crash left."""
        size = os.fstat(handle).st_size
        if size < self.size or self._lost:
            raise FederationError(_rolled_back(self.path))
        if size == self.size:
            return
        start = self.size if self.head else max(0, size - _TAIL_BYTES)
        text = os.pread(handle, size - start, start)
        lines = text.split(b"\n")
        if lines[-1]:
            self.cut = len(lines[-1])
            size -= self.cut
            os.ftruncate(handle, size)
            os.fsync(handle)
        if start > 0 and start != self.size:
            lines = lines[1:]
        self.size = size
        self._read(lines[:-1])

    def _read(self, lines: list[bytes]) -> None:
        try:
            for line in lines:
                self._follow(line)
        except ValueError as error:
            self._forget()
            raise FederationError(
                f"{self.path}: a line near its end {error}; move the file aside, keep it for the "
                "inquiry, and begin another"
            ) from error

    def _replaced(self) -> None:
        """Go on in the file that is there in this one's place: its rotation, or it has our line.

        Raises FederationError when nothing there goes on from the last line that was seen.
        """
        if self.head and not self._holds(self.head.encode()):
            self._lost = True
            raise FederationError(_rolled_back(self.path))
        self._forget()

    def _holds(self, head: bytes) -> bool:
        """Whether the log that is there at this moment has the line of this hash."""
        files = log_files(self.path) if self.path.exists() else []
        return any(head in line for file in files for _, line in log_lines(file))

    def _forget(self) -> None:
        self.size, self.head, self.next, self.unsigned = 0, "", 0, 0

    def _follow(self, line: bytes) -> None:
        fields = parse_line(line)
        self.head, self.next = str(fields["hash"]), int(fields["n"]) + 1
        self.unsigned = 0 if fields["event"] == "signature" else self.unsigned + 1
        if fields["event"] in KEY_EVENTS:
            self.key = str(fields["facts"].get("key"))


def _rolled_back(path: Path) -> str:
    return (
        f"{path}: lacks lines that were in it a moment ago: an older copy, or another file, was "
        "put in its place. Restore the newest one and start again; `hemofed audit verify "
        "--witness` tells what is missing"
    )
