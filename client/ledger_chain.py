"""The rows of a privacy ledger and the chain of hashes that ties them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from common.errors import PrivacyError
from common.privacy.accounting import Event

Kind = Literal["bind", "debit"]

BEGINNING = hashlib.sha256(b"hemofed privacy ledger 1").hexdigest()
"""What stands for the hash before the first row."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the ledger. A "bind" names the data set, a "debit" what was done to it."""

    number: int
    """From 0, without a gap; row 0 is a "bind"."""
    kind: Kind
    study: str
    """The study's digest; empty for a "bind"."""
    round: int
    attempt: int
    body: str
    """JSON: the event of a "debit"; fingerprint and nonce of a "bind"."""
    time: str
    """UTC, ISO 8601."""
    hash: str
    """SHA-256 (hex) of the previous row's hash and of all the above."""

    @property
    def event(self) -> Event:
        """What a "debit" pays for. Raises PrivacyError for an event this version cannot read."""
        try:
            return Event(**json.loads(self.body))
        except (TypeError, ValueError, PrivacyError) as error:
            raise PrivacyError(
                f"ledger row {self.number}: its event cannot be read ({error}); it was written by "
                "another version of hemofed, or altered"
            ) from error

    @property
    def fingerprint(self) -> str:
        """The data set that a "bind" names."""
        return str(json.loads(self.body)["fingerprint"])


def chained(previous: str, fields: dict[str, Any]) -> Row:
    """The row of `fields` (all of `Row` but `hash`) that follows the hash `previous`."""
    text = json.dumps([previous, fields], sort_keys=True, separators=(",", ":"))
    return Row(**fields, hash=hashlib.sha256(text.encode()).hexdigest())


def event_body(event: Event) -> str:
    """The event as canonical JSON."""
    return json.dumps(asdict(event), sort_keys=True, separators=(",", ":"))


def check(rows: Sequence[Row], origin: str, after: Row | None = None) -> None:
    """Raise PrivacyError naming the first row that does not follow from the one before it.

    `after` is the row that `rows` continue; None: they are the whole ledger.
    """
    number, previous = (0, BEGINNING) if after is None else (after.number + 1, after.hash)
    for row in rows:
        fields = {key: value for key, value in vars(row).items() if key != "hash"}
        if row.number != number or chained(previous, fields).hash != row.hash:
            raise PrivacyError(
                f"{origin}: row {number} does not follow from the row before it: a row was "
                "altered, removed or put in; training stops. Restore the ledger's newest copy"
            )
        number, previous = number + 1, row.hash
    if after is None and (not rows or rows[0].kind != "bind"):
        raise PrivacyError(
            f"{origin}: its first row does not name a data set: rows are missing; training stops. "
            "Restore the ledger's newest copy"
        )
