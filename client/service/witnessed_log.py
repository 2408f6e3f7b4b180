"""Whether the site's audit log holds what it once showed the server.

An audit log and a ledger that were put back together from an older copy fit each other, and what
was spent since is missing from both. The server was shown the log's head with each answer, signed
by this site, and shows it again with each message: a log that lacks it is an older copy.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from common.audit.entry import parse_line
from common.audit.reader import log_files, log_lines
from common.audit.witness import SignedHead
from common.errors import PrivacyError
from common.wire.reasons import Reason

OLDER = "log_is_older"
"""The event of a log that lacks a head that was shown; its facts name it."""


class WitnessedLog:
    """The log at `path`; a head that was found once is not looked for again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: set[str] = {""}

    def shown(self, head: SignedHead) -> None:
        """This head, of the log as it is, leaves."""
        self._found.add(head.hash)

    def check(self, head: SignedHead, keys: Collection[str]) -> None:
        """Raise PrivacyError when one of this site's `keys` (PEM) signed a head that the log lacks.

        A head that none of them signed is nobody's word. A person goes on with an older log by
        adopting the ledger after the log had its line of `OLDER`.
        """
        if head.hash in self._found or not head.signed_by(keys):
            return
        if not _holds(self._path, head.hash):
            raise PrivacyError(
                f"{self._path}: lacks the line {head.hash:.12} that this site showed the server: "
                "it is an older copy, and so may be the ledger. Restore the newest copies of both; "
                "where they are lost, lower lifetime_epsilon by what was spent since, and see "
                "`hemofed site ledger adopt --help`",
                Reason.HOME,
            )
        self._found.add(head.hash)


def _holds(path: Path, head: str) -> bool:
    """Whether a line with that hash follows from the line before it, or a person took its loss."""
    mark, missed = head.encode(), False
    for before, line in _pairs(path):
        if mark in line:
            fields = parse_line(line.removesuffix(b"\n"))
            if fields["hash"] == head and (not before or _hash(before) == fields["previous"]):
                return True
            missed |= fields["event"] == OLDER and fields["facts"].get("head") == head
        elif missed and b'"event":"ledger_adopted"' in line:
            return True
    return False


def _pairs(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Each line of the log's files with the one before it; b"" before the first."""
    before = b""
    for file in log_files(path) if path.exists() else ():
        for _, line in log_lines(file):
            yield before, line
            before = line


def _hash(line: bytes) -> str:
    return str(parse_line(line.removesuffix(b"\n"))["hash"])
