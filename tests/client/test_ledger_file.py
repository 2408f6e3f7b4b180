"""How the ledger's file is opened: what a power cut may take is decided there."""

from pathlib import Path

from client.ledger import Ledger

FULL = 2


def test_a_commit_is_on_disk_when_it_returns(tmp_path: Path) -> None:
    """synchronous = FULL over a write-ahead log: each commit is synced before it is told of. A
    killed process cannot show the difference, only a power cut could."""
    path = tmp_path / "ledger.sqlite"
    Ledger.create(path, "cells").close()
    with Ledger.read(path) as ledger:
        connection = ledger._file._connection
        assert connection.execute("PRAGMA synchronous").fetchone() == (FULL,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
