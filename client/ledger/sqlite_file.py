"""The SQLite file under a privacy ledger: made whole, only appended to, synced at each commit."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from client.ledger.hash_chain import BEGINNING, Kind, LedgerRow, chained
from common.errors import PrivacyError
from common.files import sync

_SCHEMA = """
BEGIN;
CREATE TABLE rows (
  number INTEGER PRIMARY KEY, kind TEXT NOT NULL, study TEXT NOT NULL, round INTEGER NOT NULL,
  attempt INTEGER NOT NULL, body TEXT NOT NULL, time TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX once ON rows (study, round, attempt) WHERE kind = 'debit';
CREATE TRIGGER no_update BEFORE UPDATE ON rows BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON rows BEGIN SELECT RAISE(ABORT, 'append-only'); END;
PRAGMA user_version = 2;
COMMIT;
"""
_SELECT = (
    "SELECT number, kind, study, round, attempt, body, time, hash FROM rows "
    "WHERE number >= ? ORDER BY number"
)
_COUNT_BELOW = "SELECT count(*) FROM rows WHERE number < 0"
_SELECT_SCHEMA = "SELECT name, sql FROM sqlite_schema ORDER BY name"
_INSERT = "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_PATIENCE_SECONDS = 30.0
"""How long a debit waits for that of another process."""


class LedgerFile:
    """An open file; its errors are PrivacyErrors that name it.

    Only one thread may use it, and no forked process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _explained(path):
            self._connection = _connect(path)
            # Where it lies and which file it is, whatever becomes of the path meanwhile.
            self.real = Path(os.path.realpath(path))
            self.inode = os.stat(path).st_ino
            self._version = self._data_version()
        self._synced = True

    @classmethod
    def create(cls, path: Path, body: str) -> Self:
        """Make a file whose first row is a "bind" with `body`; it is whole on disk or not there.

        Raises PrivacyError when `path` exists, whatever it is.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            draft = Path(folder) / path.name
            with _explained(path), closing(sqlite3.connect(draft, isolation_level=None)) as made:
                made.executescript(_SCHEMA)
                made.execute("PRAGMA journal_mode = WAL")
                made.execute(_INSERT, _values(_next_row(None, "bind", "", 0, 0, body)))
            draft.chmod(0o600)
            sync(draft)
            try:
                os.link(draft, path)
            except FileExistsError:
                raise PrivacyError(
                    f"{path}: exists; a ledger is never replaced. Name another file, or open it"
                ) from None
            sync(path.parent)
        return cls(path)

    def leave_to_system(self) -> None:
        """Sync no more: the operating system writes the rows when it likes.

        A process that is killed loses none of them; a machine that stops may lose the last ones.
        """
        with _explained(self.path):
            self._connection.execute("PRAGMA synchronous = OFF")
        self._synced = False

    def rows(self, start: int) -> list[LedgerRow]:
        """The rows from number `start` on, unchecked."""
        with _explained(self.path):
            found = self._connection.execute(_SELECT, (start,)).fetchall()
        return [
            LedgerRow(**dict(zip(LedgerRow.__dataclass_fields__, values, strict=True)))
            for values in found
        ]

    def append(
        self, last: LedgerRow, kind: Kind, study: str, round: int, attempt: int, body: str
    ) -> LedgerRow:
        """Put a row after `last` and return it; call this inside `transaction`."""
        row = _next_row(last, kind, study, round, attempt, body)
        self._connection.execute(_INSERT, _values(row))
        return row

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Inside the block no other process writes. Its rows are on disk if it ends without an
        error, and undone otherwise."""
        with _explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            if self._synced:
                # The file alone then holds every row, should its -wal file stay behind in a copy.
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def damage(self) -> str | None:
        """The first fault that SQLite finds in the file, or None."""
        with _explained(self.path):
            (first, *_) = self._connection.execute("PRAGMA integrity_check").fetchone()
        return None if first == "ok" else f"SQLite finds it damaged: {first}"

    def alteration(self) -> str | None:
        """What differs from how `create` made the file, apart from the rows from 0 on; or None."""
        with _explained(self.path):
            schema = self._connection.execute(_SELECT_SCHEMA).fetchall()
            (below,) = self._connection.execute(_COUNT_BELOW).fetchone()
        if schema != _expected_schema():
            return "what keeps its rows append-only was taken out of the file"
        return f"{below} rows stand before its first" if below else None

    def others_wrote(self) -> bool:
        """Whether another connection has written to the file since this one was made."""
        with _explained(self.path):
            return self._data_version() != self._version

    def _data_version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close it."""
        self._connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=_PATIENCE_SECONDS,
        isolation_level=None,
    )
    try:
        (form,) = connection.execute("PRAGMA user_version").fetchone()
        if form != 2:
            raise PrivacyError(
                f"{path}: is not a privacy ledger that this version can read (format {form}, it "
                "reads 2). If one of an earlier version, keep it, for it knows what was spent, and "
                "go on as docs/deployment.md says under Upgrades"
            )
        connection.execute("PRAGMA synchronous = FULL")
    except (sqlite3.Error, PrivacyError):
        connection.close()
        raise
    return connection


def _expected_schema() -> list[tuple[str, str]]:
    """The tables, indices and triggers of a sound file, as `_SELECT_SCHEMA` gives them."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        fresh.executescript(_SCHEMA)
        return fresh.execute(_SELECT_SCHEMA).fetchall()


def _next_row(
    last: LedgerRow | None, kind: Kind, study: str, round: int, attempt: int, body: str
) -> LedgerRow:
    return chained(
        BEGINNING if last is None else last.hash,
        {
            "number": 0 if last is None else last.number + 1,
            "kind": kind,
            "study": study,
            "round": round,
            "attempt": attempt,
            "body": body,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        },
    )


def _values(row: LedgerRow) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in LedgerRow.__dataclass_fields__)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raises SQLite's errors as PrivacyErrors that name `path`."""
    try:
        yield
    except sqlite3.Error as error:
        raise PrivacyError(
            f"{path}: the privacy ledger cannot be used ({error}); nothing was written or "
            "released. If the file is damaged, restore its newest copy"
        ) from error
