"""Lets a site's question for messages wait until there is one, so that it need not ask again.

One look at the database serves all sites: ten sites that asked ten times a second would take most
of a core. Who asks is told by the key that the request was signed with.
"""

import asyncio
import sqlite3
import time
from pathlib import Path

from starlette.types import Receive, Scope

from server.fleet_api.authentication import claimed_key

HOLD_SECONDS = 2.0
_LOOK_SECONDS = 0.05
_CALLED = """
    SELECT DISTINCT node.public_key FROM message_ins
    JOIN node ON node.node_id = message_ins.dst_node_id WHERE message_ins.delivered_at = ''
"""


class Doorbell:
    """Knows the keys of the nodes that have a message waiting, as of its last look."""

    def __init__(self, database: Path) -> None:
        # Read only: in WAL mode no writer waits for it.
        address = f"{database.absolute().as_uri()}?mode=ro"
        self._connection = sqlite3.connect(address, uri=True, check_same_thread=False)
        self._called: frozenset[bytes] = frozenset()

    def watch(self) -> None:
        """Look for ever."""
        while True:
            self.look()
            time.sleep(_LOOK_SECONDS)

    def look(self) -> None:
        """Ask the database who has a message waiting."""
        self._called = frozenset(key for (key,) in self._connection.execute(_CALLED))

    async def wait(self, scope: Scope, receive: Receive) -> bool:
        """Wait for a message for the site that asks, HOLD_SECONDS at most.

        receive: of a request whose body was read. Whether the site is still there; when it hung up,
        a message handed out would reach nobody.
        """
        key, end = claimed_key(scope), time.monotonic() + HOLD_SECONDS
        hung_up = asyncio.ensure_future(receive())
        while key not in self._called and time.monotonic() < end and not hung_up.done():
            await asyncio.wait({hung_up}, timeout=_LOOK_SECONDS)
        return not hung_up.done() and hung_up.cancel()
