"""The heads of one side's log that the other side recorded, and what they prove.

A head fixes all lines that a log had when its owner sent the head, and the signature shows whose
log it is. If the owner rewrites the log later, even with new hashes and signatures, the log lacks a
head that the owner signed. Nobody can forge a head of another side's log.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.audit.entry import parse_line, seal_message
from common.audit.reader import ChainBreak, log_files, log_lines
from common.errors import FederationError
from common.identity.signatures import verify as verify_signature

_HASH, _SIGNATURE = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{128}")
_WHAT = ("head", "signature", "peer")


@dataclass(frozen=True)
class SignedHead:
    """The hash (hex) of a log's last line, and the Ed25519 signature (hex) of the log's key."""

    hash: str
    signature: str

    def check(self, public: str, whose: str) -> None:
        """Check that this is a head, signed by the key `public` (PEM).

        whose: names the log's owner in an error.

        Raises:
            FederationError: it is not.
        """
        if not (_HASH.fullmatch(self.hash) and _SIGNATURE.fullmatch(self.signature)):
            raise FederationError(f"{whose}: no head of an audit log came, or none that is one")
        verify_signature(public, seal_message(self.hash), self.signature, f"{whose}: audit head")

    def signed_by(self, keys: Iterable[str]) -> bool:
        """Return whether one of the keys (PEM) signed this head."""
        for key in keys:
            try:
                self.check(key, "")
            except FederationError:
                continue
            return True
        return False


NO_HEAD = SignedHead("", "")
"""Stands for a missing head; no key signed it."""


@dataclass(frozen=True)
class Witnessed:
    """A head that somebody claims a log had."""

    hash: str
    signature: str | None = None
    """None: a person gave the hash without a signature."""
    about: Mapping[str, str | int] | None = None
    """The message that it came with: kind, study, round, attempt."""
    file: Path = Path("--head")
    """The log that recorded it."""
    line: int = 0
    """Its line in `file`; 0: a person gave it."""

    def __str__(self) -> str:
        said = "".join(f", {name} {value!s:.12}" for name, value in (self.about or {}).items())
        place = f"{self.file}: line {self.line}" if self.line else str(self.file)
        return f"{self.hash:.16}… ({place}{said})"


@dataclass(frozen=True)
class Place:
    """A line of a log: its number in the chain, its file, and its line in the file."""

    number: int
    file: Path
    line: int


def witnessed(path: Path, peer: str) -> list[Witnessed]:
    """Return the heads of the log of `peer` that the log in `path` recorded, in order.

    The chain of that log is not checked here: `verify` it too, with its own key.

    Raises:
        FederationError: a file cannot be read, a line is damaged, or there is no head of `peer`.
    """
    found, peers = [], set()
    for file in log_files(path):
        for number, line in log_lines(file):
            try:
                fields = parse_line(line.removesuffix(b"\n"))
            except ValueError as error:
                raise FederationError(f"{ChainBreak(file, number, str(error))}") from error
            facts = fields["facts"]
            if fields["event"] != "witness":
                continue
            peers.add(str(facts.get("peer")))
            if facts.get("peer") == peer:
                about = {name: value for name, value in facts.items() if name not in _WHAT}
                head, signature = str(facts.get("head")), str(facts.get("signature"))
                found.append(Witnessed(head, signature, about, file, number))
    if not found:
        known = ", ".join(sorted(peers)) or "nobody's"
        raise FederationError(f"{path}: recorded no head of {peer!r}; it has heads of: {known}")
    return found


def last_heads(path: Path) -> dict[str, SignedHead]:
    """Return peer -> the last head of its log that the log in `path` recorded; {} without a log.

    Raises:
        FederationError: a file cannot be read, or a line that records a head is damaged.
    """
    found: dict[str, SignedHead] = {}
    for file in log_files(path) if path.exists() else ():
        for number, line in log_lines(file):
            if b'"event":"witness"' not in line:
                continue
            try:
                facts = parse_line(line.removesuffix(b"\n"))["facts"]
            except ValueError as error:
                raise FederationError(f"{ChainBreak(file, number, str(error))}") from error
            head = SignedHead(str(facts.get("head")), str(facts.get("signature")))
            found[str(facts.get("peer"))] = head
    return found


def contradiction(
    heads: Iterable[Witnessed], places: Mapping[str, Place], keys: Iterable[str], start: Place
) -> ChainBreak | None:
    """Return the first head that the log lacks, or has in the wrong order, or None.

    A later head must be of a later line, because an owner that shows an old head again could
    rewrite the lines after it. The same head of the same message may be recorded twice.

    Args:
        heads: the heads that the other side recorded, in order.
        places: head -> its line in the log, whose chain and signatures have been checked.
        keys: PEM of all keys that sign the log.
        start: the first line of the log.
    """
    last, before = start, None
    for head in heads:
        signed = SignedHead(head.hash, str(head.signature)).signed_by(keys)
        if head.signature is not None and not signed:
            return ChainBreak(head.file, head.line, "records a head that no key of that log signed")
        place = places.get(head.hash)
        if place is None:
            following = last.line if before is None else last.line + 1
            why = f"or one after it was rewritten or removed: the log had the head {head}"
            return ChainBreak(last.file, following, why)
        again = before is not None and (head.hash, head.about) == (before.hash, before.about)
        if before is not None and place.number <= last.number and not again:
            why = f"was the head once more after it had been: {head} came after {before}"
            return ChainBreak(place.file, place.line, why)
        last, before = place, head
    return None
