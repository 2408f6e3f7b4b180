"""Log files that do not grow without end, and reading one while it grows."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MOST_BYTES = 8 * 2**20


def keep_short(path: Path, most: int = MOST_BYTES) -> None:
    """Put a log that has become too long aside, as `NAME.1`, and go on from an empty one.

    A process that appends to it need not know: its next line is the first one of the fresh file.
    Where that fails, a full disk say, the log stays as it is.
    """
    with suppress(OSError):
        if path.stat().st_size > most:
            aside = path.with_name(f"{path.name}.1")
            shutil.copyfile(path, aside)
            aside.chmod(0o600)
            os.truncate(path, 0)


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
