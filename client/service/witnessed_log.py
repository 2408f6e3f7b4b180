"""Whether the site's audit log holds the heads that the site once showed the server.

An audit log and a ledger that a person restored from the same older copy fit each other, and both
lack what was spent since. Therefore the site signs the log's head and sends it with each answer,
and the server sends the last one back with each message. A log that lacks it is an older copy.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from common.audit.entry import parse_line
from common.audit.reader import log_files, log_lines
from common.audit.witness import SignedHead
from common.errors import PrivacyError
from common.wire.reasons import Reason

OLDER = "log_is_older"
"""The event "this log lacks a head that was shown"; its facts name the head."""


class WitnessedLog:
    """The audit log at `path`. It searches the log for each head only once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: set[str] = {""}

    def shown(self, head: SignedHead) -> None:
        """Note that `head`, the log's present head, goes to the server."""
        self._found.add(head.hash)

    def check(self, head: SignedHead, keys: Collection[str]) -> None:
        """Raise PrivacyError when one of this site's `keys` (PEM) signed a head that the log lacks.

        A head that none of the keys signed proves nothing, and passes. A person who wants to go on
        with an older log adopts the ledger after the log got its line `OLDER`.
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
    """Whether a line has that hash and follows the line before it, or a person accepted its loss.

    A person accepts the loss by adopting the ledger after the line `OLDER` that names `head`.
    """
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
