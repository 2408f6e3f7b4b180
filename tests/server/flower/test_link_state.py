"""The SuperLink's state opens whatever became of the process that was making it."""

import logging
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from sqlalchemy.exc import OperationalError

from common.files import make_folder
from common.identity import node_public_pem
from common.identity.keys import make_node_key
from server.flower import link_state
from server.flower.link_state import database
from tests.nursery import nursery
from tests.server.nodes import empty_database, state_of

_MAKES = """
import os, signal
from pathlib import Path
from sqlalchemy import Engine, event
from server.flower.link_state import open_state

def child(home, dies_after):
    left = int(dies_after)

    def count(*_):
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "after_cursor_execute", count)
    open_state(Path(home))
    (Path(home) / "left").write_text(str(left))
"""
"""Makes the state, and is killed when it has executed so many statements."""


def works(home: Path) -> bool:
    """Whether the state takes in a node, and has it."""
    made = state_of(home)
    key = node_public_pem(make_node_key())
    number = made.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0, name="lab")
    return number in [node.node_id for node in made.get_node_info()]


def test_a_state_whose_maker_was_killed_at_any_moment_is_made_anew(
    tmp_path: Path,
) -> None:
    with nursery(_MAKES) as makers:
        makers.starts(tmp_path / "whole", 1_000_000)
        assert makers.ended() == 0
        whole = 1_000_000 - int((tmp_path / "whole" / "left").read_text())
        assert whole > 30 and works(tmp_path / "whole")
        for part in range(1, 10):
            home = tmp_path / str(part)
            makers.starts(home, whole * part // 10)
            assert makers.ended() == -signal.SIGKILL
            assert works(home)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The database of a state that was made whole."""
    made = database(tmp_path)
    make_folder(made.parent)
    made.write_bytes(empty_database())
    return made


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


@pytest.mark.parametrize("kind", ["no database", "of a later Flower", "half made", "damaged"])
def test_a_state_that_cannot_be_used_is_made_anew(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    if kind == "no database":
        path.write_bytes(b"none of SQLite's" * 10_000)
    elif kind == "of a later Flower":
        change(path, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    elif kind == "half made":
        change(path, "DELETE FROM alembic_version")
    else:
        path.write_bytes(path.read_bytes()[:100] + bytes(path.stat().st_size - 100))
    with caplog.at_level(logging.WARNING):
        assert works(tmp_path)
    assert f"{path}: cannot be used" in caplog.text and "is made anew" in caplog.text


def test_a_state_that_can_be_used_is_kept(
    path: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What keeps it from being opened now may pass; it is not what lies in it."""
    monkeypatch.setitem(link_state._SETTINGS, "busy_timeout", "1")
    change(path, "CREATE TABLE mark (content)")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OperationalError, match="locked"):
            state_of(tmp_path)
    assert works(tmp_path) and "is made anew" not in caplog.text
    change(path, "INSERT INTO mark VALUES (1)")
