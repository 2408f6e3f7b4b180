"""Flower's SuperLink state: one SQLite file that the fleet listener and the rounds share.

The listener puts in what the sites send, the rounds take it out, and the other way round. Neither
needs Flower's control or runtime API for that, so no such API is served anywhere.
"""

import fcntl
from pathlib import Path

from flwr.server.superlink.linkstate import LinkState
from flwr.supercore import sql_mixin
from flwr.supercore.constant import SQLITE_PRAGMAS
from flwr.superlink.config_loader import get_objectstore_linkstate_factories
from flwr.superlink.federation import NoOpFederationManager

from common.files import make_folder

FOLDER = "state"
_SETTINGS = {"page_size": "65536", "busy_timeout": "60000"}
"""Large pages: updates are large. Flower waits 5 s for a locked database, after which a reply is
lost; ten sites at once are enough for that."""


def database(home: Path) -> Path:
    """The SQLite file of the server home."""
    return home / FOLDER / "link.sqlite"


def prepare_database() -> None:
    """Let this process open databases with the settings above."""
    # The page size counts only before the first table and before the journal is a WAL.
    vars(sql_mixin)["SQLITE_PRAGMAS"] = tuple(
        (_SETTINGS | dict(SQLITE_PRAGMAS) | _SETTINGS).items()
    )


def open_state(home: Path) -> LinkState:
    """The state of the server home; made when there is none."""
    prepare_database()
    path = database(home)
    make_folder(path.parent)
    _, factory = get_objectstore_linkstate_factories(str(path), NoOpFederationManager())
    # The tables are made by the first who opens the file; two at once would trip over each other.
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return factory.state()
