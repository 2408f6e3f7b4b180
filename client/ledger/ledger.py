"""The privacy ledger: what was done to a data set, on disk before its noise is drawn.

Each data set has one SQLite file. Its rows are only ever appended, each chained to the one before
by SHA-256, and committed with an fsync before `debit` returns: a crash after that can waste a
debit, never lose one. No function but `create` makes a ledger: a site that lost its ledger does not
know what it has spent, and stops.

| what happened to the file                 | what detects it                                      |
|-------------------------------------------|------------------------------------------------------|
| missing                                   | `open`                                               |
| cut short, or not SQLite                  | `open`, `verify` (SQLite's own check)                |
| a row altered, removed inside, or put in  | `open`, `debit` (rows appended since), `verify`      |
| another data set's                        | `open` (fingerprint)                                 |
| an older copy, or its last rows removed   | `open` with the `head` that was acknowledged last    |
"""

import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from client.ledger.book import Book, keep_book, kept_book
from client.ledger.hash_chain import Kind, LedgerRow, PlannedDebits, event_body, part_of, planned
from client.ledger.sqlite_file import LedgerFile
from client.policy.budget import Budget
from common.errors import PrivacyError
from common.privacy.accounting import Event
from common.wire.reasons import Fault, Reason


class Ledger:
    """An open ledger; `with Ledger.open(...) as ledger` closes it.

    Only one thread may use it, and no forked process.
    """

    def __init__(
        self, file: LedgerFile, budget: Budget | None = None, book: Book | None = None
    ) -> None:
        """Take over an open file and check its rows; those in `book` are checked already.

        Raises PrivacyError, and closes the file, when a row does not follow from the one before.
        """
        self._file = file
        self._budget = budget
        self._book = book or Book(str(file.path))
        self._closed = False
        try:
            self._refresh()
            if self.simulated:  # it holds back nothing, and no lab takes it: see `binding`
                self._file.leave_to_system()
        except PrivacyError:
            self._file.close()
            raise

    @classmethod
    def create(
        cls,
        path: Path,
        fingerprint: str,
        *,
        budget: Budget | None = None,
        simulated: bool = False,
    ) -> Self:
        """Make the ledger of the data set `fingerprint`; whole on disk or not there.

        simulated: the ledger is a simulated site's, whose cells other sites have too and nobody
        needs to protect; a deployed lab refuses such a ledger. Raises PrivacyError when `path`
        exists, whatever it is. `client/ledger/binding.py` calls this for a lab, once for each data
        set.
        """
        return cls(LedgerFile.create(path, _binding(fingerprint, simulated)), budget)

    @classmethod
    def open(
        cls,
        path: Path,
        fingerprint: str,
        *,
        budget: Budget | None = None,
        expected_head: str | None = None,
    ) -> Self:
        """Open the ledger of the data set `fingerprint` and check every row.

        `budget` bounds later debits; without one, only the study's own plan does. `expected_head`
        is the `head` that the server or a backup was last told; a ledger that never had it is an
        older copy. Raises PrivacyError for what the module's table lists.
        """
        ledger = cls.read(path, budget=budget)
        try:
            ledger.check_is(fingerprint)
            ledger.check_has(expected_head)
        except PrivacyError:
            ledger.close()
            raise
        return ledger

    @classmethod
    def read(cls, path: Path, *, budget: Budget | None = None) -> Self:
        """Open a ledger to look at it, whichever data set it is for, and check every row.

        Raises PrivacyError when the file is missing, or a check fails.
        """
        if not path.is_file():
            raise PrivacyError(
                f"{path}: the privacy ledger is missing, so what this data set has spent is not "
                "known and no training starts. Restore it from a backup; only for a data set that "
                "never trained, make it with `hemofed site ledger create`",
                Reason.NO_LEDGER,
            )
        book = kept_book(path)
        return cls(LedgerFile(path), budget, book)

    def debit(
        self, study: str, round: int, attempt: int, event: Event, most: int | None = None
    ) -> LedgerRow:
        """Append what (study, round, attempt) will do; on disk when this returns.

        `part_of` says what a `round` is for. most: how many such answers of the study its noise was
        calibrated for, repeated attempts included; the first debit is compared with
        the lifetime's budget for all of them, so that a study once begun can be completed. None:
        for this one alone. Two processes may debit at once: each sees the other's rows before it
        decides. Raises PrivacyError, with nothing written, when the three were debited before,
        `most` are paid for, the noise multiplier is 0, the event's unit is not the ledger's, the
        budget would be exceeded, or the disk fails.
        """
        with self._file.transaction():
            self._refresh()
            fault = self._refusal(study, round, attempt, event, most)
            if fault:
                raise PrivacyError(
                    f"{self.path}: study {study:.12}, round {round}, attempt {attempt}: {fault}",
                    fault.reason,
                )
            body = event_body(event, most)
            row = self._file.append(self._last, "debit", study, round, attempt, body)
        self._book.add([row])
        return row

    def refusal(
        self, study: str, round: int, attempt: int, event: Event, most: int | None = None
    ) -> Fault | None:
        """Why `debit` would be refused at this moment, or None; nothing is written."""
        self._refresh()
        return self._refusal(study, round, attempt, event, most)

    def note_unprotected(self, study: str, round: int, attempt: int) -> LedgerRow:
        """Append that an answer leaves without noise; on disk when this returns.

        It costs no epsilon, since none bounds it: the policy may stop it, the budget does not.
        Raises PrivacyError, with nothing written, when the three were noted before, so that the
        order that asks for them is a copy or was cut off, and when the disk fails.
        """
        with self._file.transaction():
            self._refresh()
            if self.has(study, round, attempt, "unprotected"):
                raise PrivacyError(
                    f"{self.path}: study {study:.12}, round {round}, attempt {attempt}: already "
                    "answered; a new attempt needs a new number",
                    Reason.ANSWERED,
                )
            row = self._file.append(self._last, "unprotected", study, round, attempt, "{}")
        self._book.add([row])
        return row

    def rebind(self, fingerprint: str) -> LedgerRow:
        """Continue this ledger for the data set `fingerprint` too; return the new row.

        This is for a data set to which images were added or from which some were removed, or for
        the cells as another home has them. The ledger stays valid for the data sets before it. What
        was spent stays spent: a patient's new images buy no new budget. Raises PrivacyError when
        the disk fails.
        """
        with self._file.transaction():
            self._refresh()
            row = self._file.append(self._last, "bind", "", 0, 0, _binding(fingerprint, False))
        self._book.add([row])
        return row

    def plans(self, following: Sequence[PlannedDebits] = ()) -> tuple[PlannedDebits, ...]:
        """The plans that were begun, in order; then those of `following` that were not."""
        return tuple(dict.fromkeys((*self._book.plans(), *following)))

    def rows(self, kind: Kind | None = None) -> tuple[LedgerRow, ...]:
        """The checked rows of `kind` (None: of all kinds), in order, read from the disk."""
        rows = self._file.rows(0)[: len(self._book)]
        return tuple(row for row in rows if kind in (None, row.kind))

    def events(self, study: str | None = None) -> tuple[Event, ...]:
        """What `study` (None: every study) paid for, in order; not what left unprotected."""
        debits = self.rows("debit")
        return tuple(row.event for row in debits if study in (None, row.study))

    def spent(self, study: str) -> tuple[Event, ...]:
        """What one study was debited; events of equal settings are one, with their steps added."""
        return self._book.spent(study)

    def has(self, study: str, round: int, attempt: int | None = None, kind: Kind = "debit") -> bool:
        """Whether the round (or that attempt of it) was debited, or has a row of another `kind`."""
        return self._book.has(kind, study, round, attempt)

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @property
    def head(self) -> str:
        """The last row's hash: whoever knows it can detect an older copy of the ledger later."""
        return self._last.hash

    @property
    def fingerprint(self) -> str:
        """The data set that the ledger was bound to last."""
        return self._book.fingerprints[-1]

    @property
    def identity(self) -> str:
        """The first row's hash: no other ledger has it, except copies of this one."""
        return self._first.hash

    @property
    def simulated(self) -> bool:
        """Whether the ledger is a simulated site's."""
        return self._first.simulated

    def is_for(self, fingerprint: str) -> bool:
        """Whether the ledger was bound to the data set `fingerprint` at any time."""
        return fingerprint in self._book.fingerprints

    def check_is(self, fingerprint: str) -> None:
        """Raise PrivacyError unless the ledger is one of the data set `fingerprint`."""
        if not self.is_for(fingerprint):
            raise PrivacyError(
                f"{self.path}: is the ledger of data set {self.fingerprint:.12}, not of "
                f"{fingerprint:.12}. If images were added to the same patients or lab, or another "
                "home has the same cells, continue it with `hemofed site ledger rebind`; otherwise "
                "name the right ledger"
            )

    def check_has(self, head: str | None) -> None:
        """Raise PrivacyError unless `head` was the ledger's head once; None checks nothing."""
        if head is not None and not self._book.has_hash(head):
            raise PrivacyError(
                f"{self.path}: does not contain the row {head:.12} that was acknowledged last: it "
                "is an older or another copy, and what was spent since is missing from it. "
                "Restore the newest copy; where that is lost, lower lifetime_epsilon by what was "
                "spent since and see `hemofed site ledger adopt --help`"
            )

    def verify(self) -> int:
        """Check the file and every row again from the disk; return the number of rows.

        Raises PrivacyError that names the first fault.
        """
        self._book.sound = False  # until it is found to be so
        self._stop_at(self._file.damage())
        book = Book(str(self.path))
        book.add(self._file.rows(0))
        self._stop_at(self._file.alteration())
        self._book = book
        return len(book)

    def close(self) -> None:
        """Close the file. This process need not check its rows again until somebody writes to it.

        A second call does nothing.
        """
        if self._closed:
            return
        self._closed = True
        # What others wrote meanwhile was not all looked at: they may have altered rows.
        sound = self._book.sound and not self._file.others_wrote()
        self._file.close()
        if sound:
            keep_book(self._file, self._book)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _stop_at(self, fault: str | None) -> None:
        if fault:
            raise PrivacyError(f"{self.path}: {fault}. Restore the ledger's newest copy")

    def _refusal(
        self, study: str, round: int, attempt: int, event: Event, most: int | None
    ) -> Fault | None:
        """Why the debit cannot be made, or None."""
        part = part_of(round)
        if part == "statistics" and most is not None and self.has(study, round):
            said = "its statistics are paid for already, and a site gives them once"
            return Fault(Reason.ANSWERED, said)
        if self.has(study, round, attempt):
            said = "already paid for; a new attempt needs a new number, fresh samples and noise"
            return Fault(Reason.ANSWERED, said)
        if most is not None and self._book.paid(study, part) >= most:
            what = "evaluations" if part == "metrics" else "rounds"
            return Fault(
                Reason.BUDGET,
                f"all {most} {what} that the study's epsilon is for are paid for, those that were "
                "cut off included; a study that may lose more names more privacy.spare_rounds",
            )
        if event.noise_multiplier == 0:
            said = "noise multiplier 0 protects nobody; such a round is not a private one"
            return Fault(Reason.MIN_NOISE, said)
        unit = self._book.unit or event.unit
        if unit != event.unit:
            return Fault(
                Reason.UNIT,
                f"it protects one {event.unit}, this ledger's rows one {unit}; their epsilons "
                "cannot be added",
            )
        return self._excess(study, round, attempt, event, most)

    def _excess(
        self, study: str, round: int, attempt: int, event: Event, most: int | None
    ) -> Fault | None:
        """Why the event exceeds the budget; None when it does not, or there is no budget."""
        if self._budget is None:
            return None
        alone = PlannedDebits(study=study, part=f"{round}/{attempt}", event=event)
        plan = alone if most is None else planned(study, round, event, most)
        plans = [each.event for each in self.plans([plan])]
        return self._budget.excess([*self.spent(study), event], plans)

    @property
    def _first(self) -> LedgerRow:
        assert self._book.first is not None  # a ledger that was checked has a row
        return self._book.first

    @property
    def _last(self) -> LedgerRow:
        assert self._book.last is not None
        return self._book.last

    def _refresh(self) -> None:
        """Read and check the rows that were appended since the last call, and the one before them:
        somebody may have replaced the file by an older copy meanwhile."""
        known = self._book.last
        rows = self._file.rows(known.number if known else 0)
        if known and rows[:1] != [known]:
            raise PrivacyError(
                f"{self.path}: row {known.number} is not the one that was there: an older or "
                "another copy took the ledger's place; training stops. Restore the newest copy"
            )
        self._book.add(rows[1:] if known else rows)


def _binding(fingerprint: str, simulated: bool) -> str:
    # The nonce tells a ledger apart from one that was made again for the same data set.
    nonce = secrets.token_hex(16)
    return json.dumps({"fingerprint": fingerprint, "nonce": nonce, "simulated": simulated})
