"""Heads of one side's log in the other side's: what is recorded, and what it proves.

A head says which lines a log had when it was given away, and its signature says whose log that
was. So a log that is rewritten later, though chained and signed anew, lacks a head that its owner
once signed; and nobody can make up a head for another.
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
        """Raise FederationError unless this is a head that the key `public` (PEM) signed."""
        if not (_HASH.fullmatch(self.hash) and _SIGNATURE.fullmatch(self.signature)):
            raise FederationError(f"{whose}: no head of an audit log came, or none that is one")
        verify_signature(public, seal_message(self.hash), self.signature, f"{whose}: audit head")

    def signed_by(self, keys: Iterable[str]) -> bool:
        """Whether one of the keys (PEM) signed it."""
        for key in keys:
            try:
                self.check(key, "")
            except FederationError:
                continue
            return True
        return False


NO_HEAD = SignedHead("", "")
"""Where none was shown; no key signed it."""


@dataclass(frozen=True)
class Witnessed:
    """A head that somebody says a log had."""

    hash: str
    signature: str | None = None
    """None: a person read the head out."""
    about: Mapping[str, str | int] | None = None
    """The message that it came with: kind, study, round, attempt."""
    file: Path = Path("--head")
    line: int = 0
    """Where it is recorded."""

    def __str__(self) -> str:
        said = "".join(f", {name} {value!s:.12}" for name, value in (self.about or {}).items())
        place = f"{self.file}: line {self.line}" if self.line else str(self.file)
        return f"{self.hash:.16}… ({place}{said})"


@dataclass(frozen=True)
class Place:
    """A line of a log: its number in the chain, and where that is."""

    number: int
    file: Path
    line: int


def witnessed(path: Path, peer: str) -> list[Witnessed]:
    """The heads of the log of `peer` that the log in `path` recorded, in order.

    Raises FederationError: a line is damaged, or none is about `peer`. `verify` that log too, with
    its own key.
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
    """Peer -> the head of its log that the log in `path` recorded last; none where there is no log.

    Raises FederationError: a line about it is damaged.
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
    """The first head that the log does not have where it belongs, or None.

    places: head -> its line, of a log that begins at `start` and is sound by itself; keys: PEM of
    all keys that sign it. Later heads must be of later lines: whoever shows an old head again
    could rewrite what follows it.
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
