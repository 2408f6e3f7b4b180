"""What people at the site decided about studies: one list, signed line by line, only appended to.

An approval that is taken back stays in the list, and so does its withdrawal, which follows it: who
writes files in the home, but has no signing key, can neither write a line nor leave one out, for
each line bears its number and the hash of the line before. What is cut off the end is missed by the
site's own audit log, which names number and hash of every decision (`client/consent/rollback.py`).
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AwareDatetime, Field

from common.audit.entry import Fact
from common.canonical_json import canonical
from common.config.study import Strict
from common.errors import FederationError, PrivacyError
from common.files import make_folder, write_text
from common.identity import sign, verify
from common.identity.signatures import statement
from common.untrusted_text import PlainText

BEGINNING = hashlib.sha256(b"hemofed decisions 1").hexdigest()
"""What stands for the hash before the first decision."""
_MOST_BYTES = 64 * 2**20


class Decision(Strict):
    """One word of a person about one study, which its digest names to the last digit."""

    number: int = Field(ge=1)
    """In the site's life, whatever became of the list: one more than the decision before."""
    verdict: Literal["approved", "withdrawn"]
    site: str
    study: str
    digest: str
    decided: AwareDatetime
    by: PlainText = Field(min_length=1, max_length=200)
    """The person, as given; who may use the signing key may write any name."""
    purpose: PlainText = Field(default="", max_length=500)
    """What the site takes part for; of a withdrawal, why."""
    until: AwareDatetime | None = None
    """The approval ends at this moment; None: with the study."""
    members: dict[str, str] = Field(default={}, max_length=10_000)
    """The fingerprint of each member of the cohort, as it was shown to the person."""
    previous: str
    """The hash of the decision before."""

    def ended(self, now: datetime) -> bool:
        """Whether its last moment is over at `now` (with a time zone)."""
        return self.until is not None and now >= self.until

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the whole decision."""
        return hashlib.sha256(self.message).hexdigest()

    @property
    def message(self) -> bytes:
        """What the site's key signs."""
        return statement("decision", self.model_dump(mode="json"))

    @property
    def facts(self) -> dict[str, Fact]:
        """What the audit log says of it."""
        said: dict[str, Fact] = {"study": self.study, "digest": self.digest}
        said |= {"decision": self.number, "record": self.hash, "by": self.by}
        if self.verdict == "approved":
            until = self.until.isoformat(timespec="seconds") if self.until else "none"
            said |= {"purpose": self.purpose, "until": until, "members": len(self.members)}
        elif self.purpose:
            said["reason"] = self.purpose
        return said

    @property
    def event(self) -> str:
        """What the audit log calls it."""
        return "approved" if self.verdict == "approved" else "approval_withdrawn"


class Signed(Strict):
    """A line of the file."""

    decision: Decision
    signature: str = Field(max_length=256)
    """By the site's signing key of that time."""


@dataclass(frozen=True)
class SignedDecision:
    """A decision that the site's keys answer for."""

    decision: Decision
    current: bool
    """Whether the key that signed it is the one that the site has at this moment."""


class DecisionFile:
    """The list in a site's home."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self, keys: Sequence[str]) -> tuple[SignedDecision, ...]:
        """All decisions, oldest first; () when there is no file.

        keys: PEM of the site's signing keys, oldest first; the last one holds. Raises PrivacyError
        naming the line that is not what one of them signed, or does not follow the line before.
        """
        found: list[SignedDecision] = []
        for number, line in enumerate(self._lines(), start=1):
            try:
                found.append(_checked(line, found[-1].decision if found else None, keys))
            except (FederationError, ValueError, RecursionError) as error:
                raise PrivacyError(
                    f"{self.path}: line {number} is not what this site decided ({error}); restore "
                    "the newest copy, or move the file aside and approve again what may go on"
                ) from error
        return tuple(found)

    def append(self, decision: Decision, key: Ed25519PrivateKey) -> None:
        """Add a decision, signed; the caller has made it follow the last one, under `alone`."""
        signed = Signed(decision=decision, signature=sign(key, decision.message))
        line = canonical(signed.model_dump(mode="json")).decode()
        write_text(self.path, "".join(f"{one}\n" for one in [*self._lines(), line]))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else decides until the block ends."""
        make_folder(self.path.parent)
        handle = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        try:
            with self.path.open("rb") as file:
                text = file.read(_MOST_BYTES + 1)
            if len(text) > _MOST_BYTES:
                raise PrivacyError(f"{self.path}: is larger than {_MOST_BYTES} bytes; not ours")
            return text.decode("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise PrivacyError(f"{self.path}: cannot be read ({error})") from error


def _checked(line: str, before: Decision | None, keys: Sequence[str]) -> SignedDecision:
    """The line's decision. Raises ValueError, FederationError saying what does not fit."""
    signed = Signed.model_validate_json(line)
    decision = signed.decision
    if before and (decision.number, decision.previous) != (before.number + 1, before.hash):
        raise ValueError("it does not follow the line before")
    fits = [key for key in keys if _fits(key, decision.message, signed.signature)]
    if not fits:
        raise ValueError("the signature does not fit")
    return SignedDecision(decision, current=fits[-1] == keys[-1])


def _fits(public: str, message: bytes, signature: str) -> bool:
    """Whether the key (PEM) signed the message."""
    try:
        verify(public, message, signature)
    except FederationError:
        return False
    return True
