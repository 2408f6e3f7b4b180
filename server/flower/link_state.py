"""Flower's SuperLink state, which the fleet listener and the rounds share.

It is one SQLite file, with a file beside it for each piece of a vector under way
(`server.flower.body_store`). The listener stores what the sites send, and the rounds read it; the
rounds store what the sites fetch. Neither needs Flower's control or runtime API for that, so no
such API is served anywhere.
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
"""SQLite's error codes for unusable content. SQLITE_ERROR stands for statements that do not fit the
tables, such as one that makes a table which exists."""
_log = logging.getLogger("hemofed.superlink")
_SETTINGS = {"page_size": "65536", "busy_timeout": "60000"}
"""Large pages, because updates are large, and a longer wait for a locked database. Flower waits for
5 s, after which a reply is lost; ten sites at once are enough for that."""


def database(home: Path) -> Path:
    """Return the path of the server home's SQLite file."""
    return ServerHome(home).state / "link.sqlite"


def prepare_database() -> None:
    """Make this process open databases with `_SETTINGS`."""
    # The page size takes effect only before the first table is made and the journal becomes a WAL.
    vars(sql_mixin)["SQLITE_PRAGMAS"] = tuple(
        (_SETTINGS | dict(SQLITE_PRAGMAS) | _SETTINGS).items()
    )


def open_state(home: Path) -> LinkState:
    """Open the state of the server home; make it if there is none, or none that can be used.

    A process that is killed while it makes or renews the tables leaves a state that cannot be used.
    It is deleted. What is lost with it comes back: the nodes follow from the registry, and a round
    under way starts anew.
    """
    prepare_database()
    path = database(home)
    make_folder(path.parent)
    # The first process that opens the file makes the tables; two at once would get in each other's
    # way.
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
    """Return whether the file's content is at fault, rather than, say, a full disk or a lock."""
    if isinstance(error, CommandError):  # the tables are of a Flower version not installed here
        return True
    # The low byte is the kind of error; the bits above it distinguish more finely.
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _FAULTS_OF_CONTENT


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
