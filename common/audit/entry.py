"""One line of an audit log, and the chain of hashes that ties the lines."""

import hashlib
import json
import math
import re
from typing import Any

from common.canonical_json import canonical
from common.errors import PrivacyError
from common.identity.signatures import statement

BEGINNING = hashlib.sha256(b"hemofed audit log 1").hexdigest()
"""The hash that the first line of a log names as the previous one."""

KEY_EVENTS = ("begin", "continues", "signing_key")
"""Events whose facts name the key that signs the lines after them."""

Fact = str | int | float

SIGN_EVERY = 16
"""Lines after which the log signs its chain."""
LONGEST_FACT = 2000
"""Most characters of a fact."""
LONGEST_FACTS = 16_000
"""Most bytes of a line's facts as canonical JSON."""
_FIELDS = {"n", "time", "event", "facts", "previous", "hash"}
_WORD = re.compile(r"[a-z][a-z0-9_]{0,63}")
_IMAGE = re.compile(
    r"\.(tiff?|png|jpe?g|bmp|gif|webp|npy|npz|dcm|svs|ndpi|czi|scn|mrxs|vsi|heic)(?![a-z0-9])",
    re.IGNORECASE,
)


def make_line(n: int, time: str, event: str, facts: dict[str, Fact], previous: str) -> bytes:
    """Return line number `n`, which follows the line of hash `previous`, without a line end.

    time: when it happened, in ISO 8601.
    """
    body = {"n": n, "time": time, "event": event, "facts": facts, "previous": previous}
    return canonical(body | {"hash": _hash(body)})


def parse_line(line: bytes) -> dict[str, Any]:
    """Return the fields of a line, given without its line end.

    The line must be canonical JSON, so that no change of a byte goes unnoticed.

    Raises:
        ValueError: the line is not an audit line, or does not match its own hash.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("is not JSON; it was altered or cut short") from error
    if not isinstance(fields, dict) or set(fields) != _FIELDS:
        raise ValueError("does not have the fields of an audit line")
    try:
        if canonical(fields) != line:
            raise ValueError("is not spelt as it was written")
    except (ValueError, RecursionError) as error:
        raise ValueError("is not spelt as it was written") from error
    if fields["hash"] != _hash({name: fields[name] for name in _FIELDS - {"hash"}}):
        raise ValueError("does not fit its own hash; it was altered")
    if not isinstance(fields["facts"], dict) or type(fields["n"]) is not int:
        raise ValueError("does not have the fields of an audit line")
    return fields


def seal_message(head: str, introduced: str = "") -> bytes:
    """Return the bytes that a signature line signs.

    head: the hash (hex) of the line before it. introduced: PEM of the key that it introduces.
    """
    return statement("audit", {"head": head, "introduces": introduced})


def check_event(event: str, facts: dict[str, Fact]) -> None:
    """Check that an event may stand in a log that others read.

    Raises:
        PrivacyError: the event is not a lower-case word, a fact is not a string or a finite number,
            a text looks like the file name of an image, or the facts are too long.
    """
    if not _WORD.fullmatch(event):
        raise PrivacyError(f"audit event {event!r:.80}: expected a word like round_done")
    for name, value in facts.items():
        _check_fact(f"audit event {event}, fact {name}", value)
    if len(canonical(facts)) > LONGEST_FACTS:
        raise PrivacyError(f"audit event {event}: facts of more than {LONGEST_FACTS} bytes")


def loggable(text: str) -> str:
    """Return the text if it may be a fact, and otherwise a text that says it is not logged.

    This is for texts that others wrote.
    """
    try:
        _check_fact("text", text)
    except PrivacyError:
        return "said in words that are not logged"
    return text


def _check_fact(what: str, value: Fact) -> None:
    if not isinstance(value, str | int | float):
        raise PrivacyError(f"{what}: a {type(value).__name__}; only words and numbers are logged")
    if isinstance(value, float) and not math.isfinite(value):
        raise PrivacyError(f"{what}: {value} is not a finite number")
    if isinstance(value, str) and len(value) > LONGEST_FACT:
        raise PrivacyError(f"{what}: {len(value)} characters, at most {LONGEST_FACT} are logged")
    if isinstance(value, str) and _IMAGE.search(value):
        raise PrivacyError(
            f"{what}: looks like an image's file name, which may name a patient; log a count or a "
            "digest in its place"
        )


def _hash(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(body)).hexdigest()
