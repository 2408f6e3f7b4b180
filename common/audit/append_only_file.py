"""The file of an audit log: locks it, appends to it, syncs it and puts it aside."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from common.audit.entry import KEY_EVENTS, parse_line
from common.audit.reader import log_files, log_lines
from common.errors import FederationError
from common.files import make_folder, replacing, sync

_TAIL_BYTES = 64 * 1024
"""More bytes than any line has."""


class AuditFile:
    """The file of an audit log, and its state when this process last held the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.head = ""
        self.next = 0
        """The number of the next line."""
        self.unsigned = 0
        """The number of lines since the last signature."""
        self.key = ""
        """PEM of the log's signing key, from the last line seen that names one; "" if none did."""
        self.cut = 0
        """Bytes of an incomplete line that a crash left and this process removed."""
        self._lost = False
        """Whether lines that this process saw are gone; then it writes nothing more."""
        self._handle: int | None = None
        self._process = os.getpid()
        self._threads = threading.RLock()

    @contextmanager
    def locked(self) -> Iterator[Self]:
        """Inside the block, this thread alone holds the file, and its state is up to date.

        Raises:
            FederationError: the file cannot be opened, a line near its end is damaged, or lines
                that this process saw are gone.
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
        """Append `line`, given without its line end, and sync the file. The lock must be held.

        Raises:
            FederationError: the line cannot be written. The file is as it was before.
        """
        assert self._handle is not None
        text = line + b"\n"
        try:
            done = 0
            while done < len(text):
                done += os.write(self._handle, text[done:])
            os.fsync(self._handle)
        except OSError as error:
            with suppress(OSError):  # then the next writer cuts the half line off
                os.ftruncate(self._handle, self.size)
            raise FederationError(
                f"{self.path}: the audit log cannot be written ({error.strerror}); nothing goes on "
                "without it, so make room or mend the disk"
            ) from error
        self.size += len(text)
        self._follow(line)

    def replace(self, archive: Path, first_line: bytes) -> None:
        """Keep the file under the name `archive`, and begin a new one with `first_line`.

        After a crash in between, the whole file has both names, and the log continues in it. The
        lock must be held.

        Raises:
            FederationError: the file cannot be put aside.
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
        """Close the file; the next use opens it again."""
        with self._threads:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None

    def _lock(self) -> int:
        """Return an exclusively locked handle of the file that now has the name `path`."""
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
        """Read what other processes appended, and remove an incomplete line that a crash left."""
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
        """Continue in the file that took this one's place, if its log has the last line seen here.

        Raises:
            FederationError: its log does not have that line.
        """
        if self.head and not self._holds(self.head.encode()):
            self._lost = True
            raise FederationError(_rolled_back(self.path))
        self._forget()

    def _holds(self, head: bytes) -> bool:
        """Return whether the log that is there now has the line with this hash."""
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
