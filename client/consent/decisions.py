"""What people at the site decided about studies: one list, signed line by line, only appended to.

An approval that is taken back stays in the list, and its withdrawal follows it. Whoever can write
files in the home but has no signing key can neither write a line nor leave one out, for each line
holds its number and the hash of the line before. The site's own audit log names the number and hash
of every decision, and so reveals lines cut off the end (`client/consent/rollback.py`).
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
"""Takes the place of a previous decision's hash in the first one."""
_MOST_BYTES = 64 * 2**20


class Decision(Strict):
    """What a person decided about one study, which is named exactly by its digest."""

    number: int = Field(ge=1)
    """One more than the number of the site's decision before, whatever became of the list."""
    verdict: Literal["approved", "withdrawn"]
    site: str
    study: str
    digest: str
    decided: AwareDatetime
    by: PlainText = Field(min_length=1, max_length=200)
    """The person's name, as given; whoever may use the signing key may write any name."""
    purpose: PlainText = Field(default="", max_length=500)
    """Why the site takes part; for a withdrawal, why it no longer does."""
    until: AwareDatetime | None = None
    """When the approval ends; None: it ends with the study."""
    members: dict[str, str] = Field(default={}, max_length=10_000)
    """The fingerprint of each member of the cohort, as it was shown to the person."""
    previous: str
    """The hash of the decision before."""

    def ended(self, now: datetime) -> bool:
        """Whether the approval has ended at `now` (with a time zone)."""
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
        """What the audit log says of the decision."""
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
        """The name of the decision's event in the audit log."""
        return "approved" if self.verdict == "approved" else "approval_withdrawn"


class Signed(Strict):
    """A line of the file."""

    decision: Decision
    signature: str = Field(max_length=256)
    """Signature (hex) of the key that the site had at that time."""


@dataclass(frozen=True)
class SignedDecision:
    """A decision whose signature by one of the site's keys was checked."""

    decision: Decision
    current: bool
    """Whether the site's present key signed it."""


class DecisionFile:
    """The list in a site's home."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self, keys: Sequence[str]) -> tuple[SignedDecision, ...]:
        """All decisions, oldest first; () when there is no file.

        keys: PEM of the site's signing keys, oldest first; the last is the present one. Raises
        PrivacyError that names the line that none of them signed, or that does not follow the line
        before.
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
        """Sign a decision and add it. The caller holds `alone` and makes it follow the last one."""
        signed = Signed(decision=decision, signature=sign(key, decision.message))
        line = canonical(signed.model_dump(mode="json")).decode()
        write_text(self.path, "".join(f"{one}\n" for one in [*self._lines(), line]))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Until the block ends, no other process decides."""
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
    """The line's decision. Raises ValueError or FederationError that says what does not fit."""
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
