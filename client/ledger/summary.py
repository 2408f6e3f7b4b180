"""What a ledger says, for people and for programs."""

from dataclasses import asdict, dataclass
from typing import Any

from client.ledger.hash_chain import LedgerRow, Part, part_of
from client.ledger.ledger import Ledger
from common.privacy.accounting import ACCOUNTANT, epsilon
from common.privacy.events import ADJACENCY
from common.privacy.lifetime import left as lifetime_left
from common.text import count

CURVE_POINTS = 16


@dataclass(frozen=True, kw_only=True)
class StudySpending:
    """What one study did to the data."""

    study: str
    rounds: int
    evaluations: int
    statistics: int
    """1 where the training cells' statistics were paid for."""
    attempts: int
    steps: int
    epsilon: float
    """Epsilon of what left under noise."""
    unprotected: int
    """Number of answers that left without noise: no epsilon bounds what they tell."""
    first: str
    """UTC time of the study's first row."""
    last: str
    """UTC time of the study's last row."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All of a ledger, at one delta."""

    path: str
    head: str
    fingerprint: str
    rows: int
    unit: str | None
    adjacency: str | None
    accountant: str
    delta: float
    epsilon: float
    """Epsilon of all that left under noise; where `unprotected` is not 0, it does not bound all
    that left."""
    unprotected: int
    """Number of answers that left without noise."""
    left: float | None
    """Largest epsilon that one more study may have, by the filter that every debit must pass; None
    when no bound is known. Studies that were begun count whole, so it is less than what `epsilon`
    leaves. What left without noise does not count."""
    studies: tuple[StudySpending, ...]
    curve: tuple[tuple[int, float], ...]
    """(row number, epsilon of all rows up to it)."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def summarise(ledger: Ledger, delta: float, lifetime: float | None) -> Summary:
    """What `ledger` has spent at `delta`, and what is left of the `lifetime` epsilon, if given."""
    debits = ledger.rows("debit")
    unit = debits[0].event.unit if debits else None
    answers = [row for row in ledger.rows() if row.kind != "bind"]
    names = dict.fromkeys(row.study for row in answers)
    return Summary(
        path=str(ledger.path),
        head=ledger.head,
        fingerprint=ledger.fingerprint,
        rows=len(ledger.rows()),
        unit=unit,
        adjacency=ADJACENCY[unit] if unit else None,
        accountant=ACCOUNTANT["pld"],
        delta=delta,
        epsilon=epsilon(ledger.events(), delta),
        unprotected=len(ledger.rows("unprotected")),
        left=None if lifetime is None else left(ledger, delta, lifetime),
        studies=tuple(_spending([r for r in answers if r.study == name], delta) for name in names),
        curve=_curve(debits, delta),
    )


def left(ledger: Ledger, delta: float, lifetime: float) -> float:
    """Largest epsilon that one more study may have, by the filter that every debit must pass."""
    return lifetime_left([plan.event for plan in ledger.plans()], lifetime, delta)


def beside_epsilon(unprotected: int) -> str:
    """What to say beside an epsilon when `unprotected` answers left without noise; "" for none."""
    if not unprotected:
        return ""
    said = count(unprotected, "answer")
    return f"{said} left WITHOUT privacy: unbounded, so no epsilon bounds all that left"


def _spending(rows: list[LedgerRow], delta: float) -> StudySpending:
    events = [row.event for row in rows if row.kind == "debit"]
    return StudySpending(
        study=rows[0].study,
        rounds=_answered(rows, "training"),
        evaluations=_answered(rows, "metrics"),
        statistics=_answered(rows, "statistics"),
        attempts=len(rows),
        steps=sum(event.steps for event in events),
        epsilon=epsilon(events, delta),
        unprotected=len(rows) - len(events),
        first=rows[0].time,
        last=rows[-1].time,
    )


def _answered(rows: list[LedgerRow], part: Part) -> int:
    """How many rounds or evaluations were answered, each counted once however often it was."""
    return len({row.round for row in rows if part_of(row.round) == part})


def _curve(debits: tuple[LedgerRow, ...], delta: float) -> tuple[tuple[int, float], ...]:
    points = min(CURVE_POINTS, len(debits))
    counts = [len(debits) * (point + 1) // points for point in range(points)]
    events = [row.event for row in debits]
    return tuple((debits[n - 1].number, epsilon(events[:n], delta)) for n in counts)
