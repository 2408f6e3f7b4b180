"""What a ledger says, for people and for programs."""

from dataclasses import asdict, dataclass
from typing import Any

from client.ledger import Ledger
from client.ledger_chain import Row
from common.privacy.accounting import ACCOUNTANT, epsilon, filtered_epsilon
from common.privacy.events import ADJACENCY

CURVE_POINTS = 16


@dataclass(frozen=True, kw_only=True)
class StudySpending:
    """What one study did to the data."""

    study: str
    rounds: int
    evaluations: int
    attempts: int
    steps: int
    epsilon: float
    first: str
    last: str
    """UTC times of the first and the last debit."""


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
    left: float | None
    """Of the lifetime bound, by the filter that every debit is held against, which counts more than
    `epsilon`; None when no bound is known."""
    studies: tuple[StudySpending, ...]
    curve: tuple[tuple[int, float], ...]
    """(row number, epsilon of all rows up to it)."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def summarise(ledger: Ledger, delta: float, lifetime: float | None) -> Summary:
    """What `ledger` has spent at `delta`, and what is left of the `lifetime` epsilon."""
    debits = ledger.rows("debit")
    unit = debits[0].event.unit if debits else None
    spent = epsilon(ledger.events(), delta)
    names = dict.fromkeys(row.study for row in debits)
    return Summary(
        path=str(ledger.path),
        head=ledger.head,
        fingerprint=ledger.fingerprint,
        rows=len(ledger.rows()),
        unit=unit,
        adjacency=ADJACENCY[unit] if unit else None,
        accountant=ACCOUNTANT["pld"],
        delta=delta,
        epsilon=spent,
        left=None if lifetime is None else left(ledger, delta, lifetime),
        studies=tuple(_spending([r for r in debits if r.study == name], delta) for name in names),
        curve=_curve(debits, delta),
    )


def left(ledger: Ledger, delta: float, lifetime: float) -> float:
    """Of the `lifetime` epsilon, by the filter that every debit is held against."""
    return max(0.0, lifetime - filtered_epsilon(ledger.events(), lifetime, delta))


def _spending(rows: list[Row], delta: float) -> StudySpending:
    return StudySpending(
        study=rows[0].study,
        rounds=len({row.round for row in rows if row.round >= 0}),
        evaluations=len({row.round for row in rows if row.round < 0}),
        attempts=len(rows),
        steps=sum(row.event.steps for row in rows),
        epsilon=epsilon([row.event for row in rows], delta),
        first=rows[0].time,
        last=rows[-1].time,
    )


def _curve(debits: tuple[Row, ...], delta: float) -> tuple[tuple[int, float], ...]:
    points = min(CURVE_POINTS, len(debits))
    counts = [len(debits) * (point + 1) // points for point in range(points)]
    events = [row.event for row in debits]
    return tuple((debits[n - 1].number, epsilon(events[:n], delta)) for n in counts)
