"""How the ledger's file is made, opened and written: what a power cut may take is decided there."""

import os
import shutil
import sqlite3
import stat
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from client.ledger import sqlite_file
from client.ledger.ledger import Ledger
from client.ledger.sqlite_file import LedgerFile
from common.errors import PrivacyError

FULL = 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Ledger.create(tmp_path / "ledger.sqlite", "cells").close()
    return tmp_path / "ledger.sqlite"


def test_a_commit_is_on_disk_when_it_returns(path: Path) -> None:
    """synchronous = FULL over a write-ahead log: each commit is synced before it is told of. A
    killed process cannot show the difference, only a power cut could."""
    with Ledger.read(path) as ledger:
        connection = ledger._file._connection
        assert connection.execute("PRAGMA synchronous").fetchone() == (FULL,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (30_000,)


def test_it_is_made_in_its_own_folder_and_read_by_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft elsewhere might lie on another disk, from where it cannot be put in place at once."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    folder = tmp_path / "a" / "b"
    for name in ("one", "two"):
        Ledger.create(folder / name, "cells").close()
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert sorted(os.listdir(folder)) == ["one", "two"]


def test_it_is_on_disk_before_it_has_its_name_and_its_name_thereafter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.sqlite"
    synced: list[tuple[Path, bool]] = []
    monkeypatch.setattr(sqlite_file, "sync", lambda what: synced.append((what, path.exists())))
    Ledger.create(path, "cells").close()
    (draft, named), after = synced
    assert draft.name == path.name and not named and after == (tmp_path, True)


def test_the_first_row_is_of_no_study_and_no_round(path: Path) -> None:
    with Ledger.read(path) as ledger:
        (row,) = ledger.rows()
    assert (row.number, row.kind, row.study, row.round, row.attempt) == (0, "bind", "", 0, 0)


def test_the_file_alone_holds_every_row_while_it_is_open(path: Path, tmp_path: Path) -> None:
    """Who copies a home may leave SQLite's -wal file behind."""
    with Ledger.read(path) as ledger:
        head = ledger.note_unprotected("s" * 64, 1, 0).hash
        shutil.copy(path, tmp_path / "copy.sqlite")
    with Ledger.read(tmp_path / "copy.sqlite") as copy:
        assert copy.head == head


def test_a_file_that_is_missing_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="unable to open database file"):
        LedgerFile(tmp_path / "ledger.sqlite")
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_refused_is_not_kept_open(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 1")
    with pytest.raises(PrivacyError, match="format 1, it reads 2") as refused:
        LedgerFile(path)
    # As long as the error is kept, so is all that it passed by.
    assert refused.value.__traceback__ is not None
    opened = [os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()]
    assert str(path) not in opened


@pytest.mark.parametrize("simulated", [False, True])
def test_a_labs_rows_are_synced_and_only_a_simulated_sites_are_left_to_the_system(
    tmp_path: Path, simulated: bool
) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger.create(path, "f" * 64, simulated=simulated).close()
    for _ in range(2):  # by who made it, and by who finds it
        with Ledger.read(path) as ledger:
            (level,) = ledger._file._connection.execute("PRAGMA synchronous").fetchone()
            assert level == (0 if simulated else 2)  # OFF, FULL
            ledger.note_unprotected("study", ledger.rows()[-1].number + 1, 0)
    with Ledger.read(path) as ledger:
        assert len(ledger.rows("unprotected")) == 2
