"""The rows of a privacy ledger and the chain of hashes that ties them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from common.canonical_json import canonical
from common.errors import PrivacyError
from common.privacy.accounting import Event

Kind = Literal["bind", "debit", "unprotected"]

BEGINNING = hashlib.sha256(b"hemofed privacy ledger 2").hexdigest()
"""What stands for the hash before the first row."""


@dataclass(frozen=True, kw_only=True)
class PlannedDebits:
    """All answers of one kind that a study may ever have, of which a first one was paid for."""

    study: str
    part: str
    """Which kind: "training", "metrics", or one answer that no plan was named for."""
    event: Event
    """All their steps."""


@dataclass(frozen=True, kw_only=True)
class LedgerRow:
    """One line of the ledger.

    A "bind" names the data set, a "debit" what was done to it under noise. "unprotected" is an
    answer that left without noise (training without privacy, exact metrics): no epsilon bounds it.
    """

    number: int
    """From 0, without a gap; row 0 is a "bind"."""
    kind: Kind
    study: str
    """The study's digest; empty for a "bind"."""
    round: int
    attempt: int
    body: str
    """JSON: event of a "debit", and how many such answers are planned; fingerprint and nonce of a
    "bind", and whether it is a simulation's; {} of an "unprotected"."""
    time: str
    """UTC, ISO 8601."""
    hash: str
    """SHA-256 (hex) of the previous row's hash and of all the above."""

    @property
    def event(self) -> Event:
        """What a "debit" pays for. Raises PrivacyError for an event this version cannot read."""
        return self._debited()[0]

    @property
    def plan(self) -> PlannedDebits:
        """What a "debit" is part of. Raises PrivacyError like `event`."""
        event, most = self._debited()
        if most is None:
            return PlannedDebits(study=self.study, part=f"{self.round}/{self.attempt}", event=event)
        return planned(self.study, self.round, event, most)

    @property
    def fingerprint(self) -> str:
        """The data set that a "bind" names."""
        return str(json.loads(self.body)["fingerprint"])

    @property
    def simulated(self) -> bool:
        """Whether a "bind" begins the ledger of a simulated site."""
        return bool(json.loads(self.body).get("simulated", False))

    def _debited(self) -> tuple[Event, int | None]:
        try:
            content = json.loads(self.body)
            return Event(**content["event"]), content["most"]
        except (TypeError, KeyError, ValueError, PrivacyError) as error:
            raise PrivacyError(
                f"ledger row {self.number}: its event cannot be read ({error}); it was written by "
                "another version of hemofed, or altered"
            ) from error


def planned(study: str, round: int, event: Event, most: int) -> PlannedDebits:
    """The plan of `most` answers of `event` each; a negative `round` is an evaluation."""
    part = "training" if round >= 0 else "metrics"
    return PlannedDebits(study=study, part=part, event=replace(event, steps=most * event.steps))


def chained(previous: str, fields: dict[str, Any]) -> LedgerRow:
    """The row of `fields` (all of `LedgerRow` but `hash`) that follows the hash `previous`."""
    return LedgerRow(**fields, hash=hashlib.sha256(canonical([previous, fields])).hexdigest())


def event_body(event: Event, most: int | None) -> str:
    """The event, and how many such answers are planned, as canonical JSON."""
    return canonical({"event": asdict(event), "most": most}).decode()


def check(rows: Sequence[LedgerRow], origin: str, after: LedgerRow | None = None) -> None:
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
