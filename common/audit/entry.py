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
"""What stands for the hash before the first line of the first file."""

KEY_EVENTS = ("begin", "continues", "signing_key")
"""Their facts name the key that signs from there on."""

Fact = str | int | float

SIGN_EVERY = 16
"""Lines between two signatures."""
LONGEST_FACT = 2000
LONGEST_FACTS = 16_000
_FIELDS = {"n", "time", "event", "facts", "previous", "hash"}
_WORD = re.compile(r"[a-z][a-z0-9_]{0,63}")
_IMAGE = re.compile(
    r"\.(tiff?|png|jpe?g|bmp|gif|webp|npy|npz|dcm|svs|ndpi|czi|scn|mrxs|vsi|heic)(?![a-z0-9])",
    re.IGNORECASE,
)


def make_line(n: int, time: str, event: str, facts: dict[str, Fact], previous: str) -> bytes:
    """Line number `n` that follows the hash `previous`, with its own hash; no line end."""
    body = {"n": n, "time": time, "event": event, "facts": facts, "previous": previous}
    return canonical(body | {"hash": _hash(body)})


def parse_line(line: bytes) -> dict[str, Any]:
    """The fields of a whole line that fits its own hash. Raises ValueError that says what is wrong.

    The text must be the canonical one, so that no byte can change unseen.
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
    """What a signature line signs: the head before it, and the key that it introduces, if any."""
    return statement("audit", {"head": head, "introduces": introduced})


def check_event(event: str, facts: dict[str, Fact]) -> None:
    """Raise PrivacyError for what has no place in a log that others read.

    Facts are words and numbers; nothing that looks like an image's file name, and no long texts.
    """
    if not _WORD.fullmatch(event):
        raise PrivacyError(f"audit event {event!r:.80}: expected a word like round_done")
    for name, value in facts.items():
        _check_fact(f"audit event {event}, fact {name}", value)
    if len(canonical(facts)) > LONGEST_FACTS:
        raise PrivacyError(f"audit event {event}: facts of more than {LONGEST_FACTS} bytes")


def loggable(text: str) -> str:
    """The text as a fact, where others may have put into it what has no place in a log."""
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
