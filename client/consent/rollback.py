"""What a site itself remembers of its decisions: its audit log names each, by number and hash.

This detects an older copy of the list of decisions, one without its last lines, and a missing one.
"""

from dataclasses import dataclass
from pathlib import Path

from common.audit.entry import parse_line
from common.audit.reader import log_files
from common.errors import PrivacyError

_MARKS = (b'"event":"approved"', b'"event":"approval_withdrawn"')


@dataclass(frozen=True)
class Named:
    """The newest decision that the log names; number 0: it names none."""

    number: int = 0
    hash: str = ""


class DecisionMemory:
    """Reads the new lines of a site's audit log at each call, and forgets nothing that it named.

    The newest decision is the one with the highest number: a line that somebody copied to the end
    of the log takes nothing back.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._named = Named()
        self._file = (0, 0)
        """Device and inode of the file that was read last."""
        self._read = 0
        """How many bytes of whole lines were read of that file."""

    def newest(self) -> Named:
        """The newest decision that the log names at this moment.

        Raises PrivacyError when the log is shorter than it was: it is an older copy, which may lack
        anything. Raises it too for a line about a decision that cannot be read.
        """
        if not self._log.exists():
            return self._named
        status = self._log.stat()
        if (status.st_dev, status.st_ino) != self._file:
            self._file, self._read = (status.st_dev, status.st_ino), 0
            for file in log_files(self._log)[:-1]:
                self._follow(file, 0)
        elif status.st_size < self._read:
            raise PrivacyError(
                f"{self._log}: is shorter than it was; an older copy was put in its place. Restore "
                "the newest one, and start this site again"
            )
        self._read = self._follow(self._log, self._read)
        return self._named

    def _follow(self, path: Path, start: int) -> int:
        """Read the file from byte `start` on; return where its whole lines end."""
        with path.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                start += len(line)
                if any(mark in line for mark in _MARKS):
                    self._take(path, line)
        return start

    def _take(self, path: Path, line: bytes) -> None:
        try:
            facts = parse_line(line.removesuffix(b"\n"))["facts"]
            found = Named(int(facts["decision"]), str(facts["record"]))
        except (ValueError, KeyError) as error:
            raise PrivacyError(
                f"{path}: a line about a decision cannot be read ({error}); see `hemofed audit "
                "verify`"
            ) from error
        if found.number > self._named.number:
            self._named = found
