"""Running totals of a ledger's rows: a question costs no more where there are more rows.

A process keeps the books of the ledgers that it had open, so that it need not read again what it
has checked. It uses a book only while the book's file is as this process left it: each close gives
the file a unique modification time, which any later write, by anyone, replaces with another.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

from client.ledger.hash_chain import Kind, LedgerRow, Part, PlannedDebits, check, part_of
from client.ledger.sqlite_file import LedgerFile
from common.privacy.events import Event

_MOST_ROWS = 200_000
"""Most rows that all kept books have together: some 60 MB. The oldest books go first."""


class Book:
    """The totals of the rows that were checked; `origin` names the ledger in errors."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self.sound = True
        """Whether every row that was added followed from the one before it."""
        self.first: LedgerRow | None = None
        self.last: LedgerRow | None = None
        self.unit: str | None = None
        """The unit that the debits protect; None: there are no debits."""
        self.fingerprints: list[str] = []
        """The data sets that the ledger was bound to, in order."""
        self._hashes: set[bytes] = set()
        self._attempts: defaultdict[tuple[Kind, str, int], set[int]] = defaultdict(set)
        self._spent: defaultdict[str, Counter[Event]] = defaultdict(Counter)
        self._paid: Counter[tuple[str, Part]] = Counter()
        self._plans: dict[PlannedDebits, None] = {}

    def __len__(self) -> int:
        """The number of rows."""
        return 0 if self.last is None else self.last.number + 1

    def add(self, rows: Sequence[LedgerRow]) -> None:
        """Check that the rows follow from the last one, and count them.

        Raises PrivacyError when they do not, or an event cannot be read.
        """
        sound, self.sound = self.sound, False
        check(rows, self._origin, self.last)
        for row in rows:
            self._count(row)
        self.sound = sound

    def _count(self, row: LedgerRow) -> None:
        if row.kind == "bind":
            self.fingerprints.append(row.fingerprint)
        else:
            self._attempts[row.kind, row.study, row.round].add(row.attempt)
        if row.kind == "debit":
            event = row.event
            self._spent[row.study][replace(event, steps=1)] += event.steps
            self._paid[row.study, part_of(row.round)] += 1
            self._plans.setdefault(row.plan)
            self.unit = self.unit or event.unit
        self._hashes.add(bytes.fromhex(row.hash))
        self.first, self.last = self.first or row, row

    def has_hash(self, text: str) -> bool:
        """Whether a row has this hash (hex)."""
        try:
            return bytes.fromhex(text) in self._hashes
        except ValueError:
            return False

    def has(self, kind: Kind, study: str, round: int, attempt: int | None) -> bool:
        """Whether there is a row of that attempt; None: of any attempt."""
        attempts = self._attempts.get((kind, study, round), ())
        return bool(attempts) if attempt is None else attempt in attempts

    def spent(self, study: str) -> tuple[Event, ...]:
        """The events of the study's debits; those of equal settings are one, with steps added."""
        found = self._spent.get(study, Counter())
        return tuple(replace(event, steps=steps) for event, steps in found.items())

    def paid(self, study: str, part: Part) -> int:
        """How many answers of this kind were debited to the study, every attempt counted."""
        return self._paid[study, part]

    def plans(self) -> tuple[PlannedDebits, ...]:
        """The plans that were begun, in the order in which they were begun."""
        return tuple(self._plans)


_Stamp = tuple[int, int, int, int]
_KEPT: dict[str, tuple[_Stamp, Book]] = {}
_LOCK = Lock()


def kept_book(path: Path) -> Book | None:
    """Hand the caller the book of a file that is as this process left it; None: there is none."""
    real = os.path.realpath(path)
    with _LOCK:
        found = _KEPT.pop(real, None)
    return found[1] if found and found[0] == _stamp(real) else None


def keep_book(file: LedgerFile, book: Book) -> None:
    """Keep the book of a file that was just closed and that nobody else has written to."""
    real = str(file.real)
    try:
        now = time.time_ns()
        os.utime(real, ns=(now, now))
        stamp = _stamp(real)
    except OSError:
        return
    if stamp is None or stamp[0] != file.inode:
        return
    with _LOCK:
        _KEPT[real] = stamp, book
        while sum(len(one) for _, one in _KEPT.values()) > _MOST_ROWS and len(_KEPT) > 1:
            del _KEPT[next(iter(_KEPT))]


def _stamp(real: str) -> _Stamp | None:
    """What a write to the file would change; None where it is missing or not whole by itself."""
    try:
        for beside in ("-wal", "-journal"):
            if os.path.exists(f"{real}{beside}") and os.path.getsize(f"{real}{beside}"):
                return None
        found = os.stat(real)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
