"""Flower's SuperLink state, which the fleet listener and the rounds share: one SQLite file, and
beside it a file for each piece of a vector under way (`server.flower.body_store`).

The listener puts in what the sites send, the rounds take it out, and the other way round. Neither
needs Flower's control or runtime API for that, so no such API is served anywhere.
"""

import fcntl
import logging
import sqlite3
from pathlib import Path

from alembic.util.exc import CommandError
from sqlalchemy.exc import DatabaseError

from common.files import make_folder
from server.flower.body_store import BodyStore
from server.flower.internals import (
    SQLITE_PRAGMAS,
    LinkState,
    NoOpFederationManager,
    get_objectstore_linkstate_factories,
    sql_mixin,
)
from server.home import ServerHome

_FAULTS_OF_CONTENT = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""SQLite's codes. The first is of statements that do not fit: a table is there, or is not."""
_log = logging.getLogger("hemofed.superlink")
_SETTINGS = {"page_size": "65536", "busy_timeout": "60000"}
"""Large pages: updates are large. Flower waits 5 s for a locked database, after which a reply is
lost; ten sites at once are enough for that."""


def database(home: Path) -> Path:
    """The SQLite file of the server home."""
    return ServerHome(home).state / "link.sqlite"


def prepare_database() -> None:
    """Let this process open databases with the settings above."""
    # The page size counts only before the first table and before the journal is a WAL.
    vars(sql_mixin)["SQLITE_PRAGMAS"] = tuple(
        (_SETTINGS | dict(SQLITE_PRAGMAS) | _SETTINGS).items()
    )


def open_state(home: Path) -> LinkState:
    """The state of the server home; made when there is none that can be used.

    A process that was killed while it made or renewed the tables leaves one that no other can go on
    with. What is lost with it is asked again: the nodes follow from the registry, and a round under
    way is begun anew.
    """
    prepare_database()
    path = database(home)
    make_folder(path.parent)
    # The tables are made by the first who opens the file; two at once would trip over each other.
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _open(path)
        except (DatabaseError, CommandError) as error:
            if not _is_of_the_content(error):
                raise
            _log.warning("%s: cannot be used (%s), and is made anew", path, _first_line(error))
            for end in ("", "-wal", "-shm"):
                path.with_name(f"{path.name}{end}").unlink(missing_ok=True)
            return _open(path)


def _open(path: Path) -> LinkState:
    objects, states = get_objectstore_linkstate_factories(str(path), NoOpFederationManager())
    objects.store_instance = store = BodyStore(path)
    store.initialize()
    return states.state()


def _is_of_the_content(error: DatabaseError | CommandError) -> bool:
    """Whether what lies in the file is at fault; a full disk, say, or a lock, is not."""
    if isinstance(error, CommandError):  # tables of a Flower that is not installed
        return True
    # The low byte is the kind; what lies above it is SQLite's finer distinction.
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _FAULTS_OF_CONTENT


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
