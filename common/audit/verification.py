"""Checks an audit log, and finds the first line that does not match."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.audit.entry import BEGINNING, SIGN_EVERY, parse_line, seal_message
from common.audit.reader import ChainBreak, log_files, log_lines
from common.audit.witness import Place, Witnessed, contradiction
from common.errors import FederationError
from common.identity.keys import parse_signing_public, signing_public_pem
from common.identity.signatures import verify as verify_signature


@dataclass
class _State:
    """The state of the check after the lines read so far."""

    trusted: str
    """PEM of the key that the caller trusts."""
    wanted: frozenset[str]
    """Heads that the other side recorded."""
    places: dict[str, Place] = field(default_factory=dict)
    """Wanted head -> its line, for the heads found so far."""
    keys: set[str] = field(default_factory=set)
    """PEM of all keys that the log named so far."""
    head: str = BEGINNING
    """The hash (hex) of the last line."""
    next: int = 0
    """The number that the next line must have."""
    key: str = ""
    """PEM of the key that signs the next lines."""
    trust: bool = False
    """Whether the trusted key began a file or signed a signature line so far."""
    unsigned: int = 0
    """The number of lines since the last signature."""


_MOST_UNSIGNED = 4 * SIGN_EVERY
"""Most lines in a row without a signature. A crash delays a signature by a few lines; more of them
mean that somebody without the key wrote the lines, or that signatures were removed."""


def verify(path: Path, public: str, witnessed: Sequence[Witnessed] = ()) -> ChainBreak | None:
    """Return the first fault of a log, or None if there is none.

    The files that the log put aside are checked too if they are in the same folder; the oldest one
    counts as the beginning.

    Args:
        path: the newest file of the log.
        public: PEM of a key of the log, as its owner gave it: the first key, or any later one that
            has signed.
        witnessed: heads that the other side recorded. The log must have all of them, in this order.

    Raises:
        FederationError: a file or `public` cannot be read.
    """
    wanted = frozenset(head.hash for head in witnessed)
    state = _State(signing_public_pem(parse_signing_public(public)), wanted)
    files = log_files(path)
    number = 0
    for file in files:
        for number, line in log_lines(file):
            why = _step(state, line, first=file is files[0] and number == 1)
            if why:
                return ChainBreak(file, number, why)
            if state.head in wanted:
                state.places[state.head] = Place(state.next - 1, file, number)
    if not state.trust:
        return ChainBreak(path, number, "ends a log that the given key neither began nor signed")
    return contradiction(witnessed, state.places, state.keys, Place(0, files[0], 1))


def _step(state: _State, line: bytes, *, first: bool) -> str | None:
    """Take one line into `state`, and return why it does not match, or None if it does."""
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
    state.keys.add(state.key)
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
    """Check a line's key and signature, and return what is wrong, or None."""
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
