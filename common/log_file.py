"""Log files that do not grow without end, and reading one while it grows."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from common.files import make_folder

MOST_BYTES = 8 * 2**20


def keep_short(path: Path, most: int = MOST_BYTES) -> None:
    """Put a log that has become too long aside, as `NAME.1`, and go on from an empty one.

    A process that appends to it need not know: its next line is the first one of the fresh file.
    Where that fails, a full disk say, the log stays as it is.
    """
    with suppress(OSError):
        if path.stat().st_size > most:
            shutil.copyfile(path, aside(path))
            aside(path).chmod(0o600)
            os.truncate(path, 0)


def add_line(path: Path, line: str) -> None:
    """Add a line to a file that is kept short, in a folder that may not be there yet; one that
    cannot be written, to a full disk say, is left out."""
    with suppress(OSError):
        make_folder(path.parent)
        keep_short(path)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def aside(path: Path) -> Path:
    """Where the log's last lines lie that were put aside."""
    return path.with_name(f"{path.name}.1")


class Follower:
    """Reads what comes to a log, over its being put aside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0

    def last(self, lines: int) -> list[str]:
        """The last lines that are there; what comes later is `fresh`."""
        return list(self._whole_lines())[-lines:]

    def fresh(self) -> list[str]:
        """The lines that came since the last look."""
        return list(self._whole_lines())

    def _whole_lines(self) -> Iterator[str]:
        with self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._read:
                self._read = 0
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                yield line.decode("utf-8", errors="replace").rstrip("\n")
