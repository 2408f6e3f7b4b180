"""Checking an audit log: the first line that does not fit, and why."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.audit_line import BEGINNING, KEY_EVENTS, SIGN_EVERY, parse_line
from common.errors import FederationError
from common.identity.keys import parse_signing_public, signing_public_pem
from common.identity.signatures import statement
from common.identity.signatures import verify as verify_signature


@dataclass(frozen=True)
class Fault:
    """Where a log stops being what was written."""

    path: Path
    line: int
    """From 1, as an editor counts; one past the last when something is missing at the end."""
    why: str

    def __str__(self) -> str:
        return f"{self.path}: line {self.line} {self.why}"


@dataclass
class _State:
    """The chain so far."""

    trusted: str
    wanted: set[str]
    """Heads that others witnessed and that were not passed yet."""
    head: str = BEGINNING
    next: int = 0
    key: str = ""
    """PEM of the key that signs from here on."""
    trust: bool = False
    """Whether the trusted key began the log, introduced the present key, or signed."""
    unsigned: int = 0
    """Lines since the last signature."""


_KEY_MARKS = tuple(f'"event":"{event}"'.encode() for event in KEY_EVENTS)
_MOST_UNSIGNED = 4 * SIGN_EVERY
"""Crashes can delay a signature by a few lines; a log without any was written by another."""


def seal_message(head: str, introduced: str = "") -> bytes:
    """What a signature line signs: the head before it, and the key that it introduces, if any."""
    return statement("audit", {"head": head, "introduces": introduced})


def verify(
    path: Path, public: str, *, head: str | None = None, heads: Iterable[str] = ()
) -> Fault | None:
    """The first fault of the log that `path` ends, or None when all fits.

    public: PEM of the key that signs it, as its owner gave it: the first one, or any later one
    that has signed. head, heads: what the other side witnessed, all of which must be in it. Files
    put aside by rotation are read too where they lie beside `path`; the oldest that is there counts
    as the beginning. Raises FederationError when a file or `public` cannot be read.
    """
    wanted = {*heads, *([head] if head else [])}
    state = _State(signing_public_pem(parse_signing_public(public)), wanted)
    files = _files(path)
    number = 0
    for file in files:
        for number, line in _lines(file):
            why = _step(state, line, first=file is files[0] and number == 1)
            if why:
                return Fault(file, number, why)
    if not state.trust:
        return Fault(path, number, "ends a log that the given key neither began nor signed")
    if state.wanted:
        missing = ", ".join(f"{head:.16}…" for head in sorted(state.wanted)[:3])
        return Fault(path, number + 1, f"is missing: a head that was witnessed, {missing}")
    return None


def witnessed_heads(path: Path, peer: str | None = None) -> frozenset[str]:
    """The heads of the log of `peer` (None: of any) that the log in `path` recorded.

    Raises FederationError when a line is damaged; `verify` that log too, with its own key.
    """
    heads = set()
    for file in _files(path):
        for number, line in _lines(file):
            try:
                fields = parse_line(line.removesuffix(b"\n"))
            except ValueError as error:
                raise FederationError(f"{Fault(file, number, str(error))}") from error
            if fields["event"] == "witness" and peer in (None, fields["facts"].get("peer")):
                heads.add(str(fields["facts"].get("head")))
    return frozenset(heads)


def present_key(path: Path) -> str | None:
    """PEM of the key that signs the log from its last line on; None when there is no log.

    Lines are not checked; the file's own claim is what a writer has to agree with.
    """
    key = None
    if path.exists():
        for _, line in _lines(path):
            if any(mark in line for mark in _KEY_MARKS):
                try:
                    key = str(parse_line(line.removesuffix(b"\n"))["facts"]["key"])
                except (ValueError, KeyError):
                    continue
    return key


def _files(path: Path) -> list[Path]:
    """`path` and the files before it that lie beside it, oldest first."""
    files = [path]
    while True:
        first = next((line for _, line in _lines(files[0])), b"")
        try:
            fields = parse_line(first.removesuffix(b"\n"))
        except ValueError:
            return files
        before = files[0].with_name(Path(str(fields["facts"].get("file", ""))).name or "-")
        if fields["event"] != "continues" or before in files or not before.is_file():
            return files
        files.insert(0, before)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
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


def _step(state: _State, line: bytes, *, first: bool) -> str | None:
    """Take one line into `state`; why it does not fit, or None."""
    if not line.endswith(b"\n"):
        return "is cut short"
    try:
        fields = parse_line(line[:-1])
    except ValueError as error:
        return str(error)
    event, facts = fields["event"], fields["facts"]
    if first and event == "continues":
        state.head, state.next = fields["previous"], fields["n"]
    why = _misplaced(state, fields, first) or _signed(state, event, facts)
    state.head, state.next = fields["hash"], fields["n"] + 1
    state.wanted.discard(state.head)
    return why


def _misplaced(state: _State, fields: dict[str, Any], first: bool) -> str | None:
    if fields["n"] != state.next:
        return f"has number {fields['n']}, expected {state.next}; lines are missing or put in"
    if fields["previous"] != state.head:
        return "does not follow the line before it; one of the two was altered"
    if first != (fields["event"] == "begin") and not (first and fields["event"] == "continues"):
        return "is not where a log begins"
    return None


def _signed(state: _State, event: str, facts: dict[str, Any]) -> str | None:
    """Follow the keys, and check what a line signs."""
    if event in ("begin", "continues"):
        if state.key and facts.get("key") != state.key:
            return "names another key than the file before it"
        state.key = str(facts.get("key"))
        state.trust |= state.key == state.trusted
    state.unsigned += 1
    if event not in ("signature", "signing_key"):
        late = state.unsigned > _MOST_UNSIGNED
        return f"is the {state.unsigned}th without a signature; they were removed" if late else None
    introduced = str(facts.get("key")) if event == "signing_key" else ""
    message = seal_message(state.head, introduced)
    try:
        verify_signature(state.key, message, str(facts.get("signature")))
    except FederationError:
        return "has a signature that does not fit; it or lines before it were rewritten"
    state.unsigned = 0
    if introduced:
        state.key = introduced
    elif state.key == state.trusted:
        state.trust = True
    return None
