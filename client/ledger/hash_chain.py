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
Part = Literal["statistics", "training", "metrics"]
"""The kinds of a study's answers, each of which it may ask for as often as it plans."""

STATISTICS = 0
"""The round of a row that is for the statistics, which come before the first round."""

BEGINNING = hashlib.sha256(b"hemofed privacy ledger 2").hexdigest()
"""Takes the place of a previous row's hash in the first row."""


@dataclass(frozen=True, kw_only=True)
class PlannedDebits:
    """All answers of one kind that a study may ever get, once the first of them is paid for."""

    study: str
    part: str
    """The kind: a `Part`, or "round/attempt" for one answer without a plan."""
    event: Event
    """All steps of all these answers."""


@dataclass(frozen=True, kw_only=True)
class LedgerRow:
    """One row of the ledger.

    A "bind" names the data set, and a "debit" what was done to it under noise. "unprotected" is an
    answer that left without noise (training without privacy, exact metrics): no epsilon bounds it.
    """

    number: int
    """The row's number, from 0 without a gap; row 0 is a "bind"."""
    kind: Kind
    study: str
    """The study's digest; empty for a "bind"."""
    round: int
    attempt: int
    body: str
    """JSON. A "debit" has its event and how many such answers are planned; a "bind" a fingerprint,
    a nonce, and whether the site is simulated; an "unprotected" has {}."""
    time: str
    """When the row was written: UTC, ISO 8601."""
    hash: str
    """SHA-256 (hex) of the previous row's hash and of all the fields above."""

    @property
    def event(self) -> Event:
        """The event that a "debit" pays for. Raises PrivacyError for one that cannot be read."""
        return self._debited()[0]

    @property
    def plan(self) -> PlannedDebits:
        """The plan that a "debit" is part of. Raises PrivacyError like `event`."""
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
        """Whether a "bind" says that the ledger is a simulated site's."""
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


def part_of(round: int) -> Part:
    """What a row's round says that it is for; a negative one is an evaluation.

    >>> part_of(-3), part_of(STATISTICS), part_of(1)
    ('metrics', 'statistics', 'training')
    """
    if round == STATISTICS:
        return "statistics"
    return "training" if round > 0 else "metrics"


def planned(study: str, round: int, event: Event, most: int) -> PlannedDebits:
    """The plan of `most` answers like that of `round`, each of which is `event`."""
    whole = replace(event, steps=most * event.steps)
    return PlannedDebits(study=study, part=part_of(round), event=whole)


def chained(previous: str, fields: dict[str, Any]) -> LedgerRow:
    """The row of `fields` (all of `LedgerRow` but `hash`) after a row with the hash `previous`.

    >>> fields = dict(
    ...     number=0, kind="bind", study="", round=0, attempt=0, body="{}", time="2024-05-03T12:00Z"
    ... )
    >>> first = chained(BEGINNING, fields)
    >>> second = chained(first.hash, {**fields, "number": 1})
    >>> check([first, second], "ledger.sqlite")
    >>> check([first, replace(second, round=9)], "ledger.sqlite")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    common.errors.PrivacyError: ledger.sqlite: row 1 does not follow from the row before it: ...
    """
    return LedgerRow(**fields, hash=hashlib.sha256(canonical([previous, fields])).hexdigest())


def event_body(event: Event, most: int | None) -> str:
    """The body of a "debit": its event and how many such answers are planned, as canonical JSON."""
    return canonical({"event": asdict(event), "most": most}).decode()


def check(rows: Sequence[LedgerRow], origin: str, after: LedgerRow | None = None) -> None:
    """Raise PrivacyError that names the first row that does not follow from the one before it.

    `origin` names the ledger in the error. `after` is the row that `rows` continue; None: they are
    the whole ledger, whose first row must be a "bind".
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
