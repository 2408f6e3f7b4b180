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

FOLDER = "state"
_BUSY_MILLISECONDS = "60000"


def database(home: Path) -> Path:
    """The SQLite file of the server home."""
    return home / FOLDER / "link.sqlite"


def wait_for_locks() -> None:
    """Let this process wait for a locked database.

    Flower waits 5 s, after which a reply is lost; ten sites at once are enough for that.
    """
    pragmas = dict(SQLITE_PRAGMAS) | {"busy_timeout": _BUSY_MILLISECONDS}
    vars(sql_mixin)["SQLITE_PRAGMAS"] = tuple(pragmas.items())


def open_state(home: Path) -> LinkState:
    """The state of the server home; made when there is none."""
    wait_for_locks()
    path = database(home)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _, factory = get_objectstore_linkstate_factories(str(path), NoOpFederationManager())
    # The tables are made by the first who opens the file; two at once would trip over each other.
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return factory.state()
