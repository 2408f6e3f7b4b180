"""Long polling: holds a site's request for messages until there is one, so it asks less often.

One look at the database serves all sites; ten sites that asked ten times a second would take most
of a core. A site is recognised by the key that signed its request.
"""

import asyncio
import sqlite3
import time
from pathlib import Path

from starlette.types import Receive, Scope

from server.fleet_api.authentication import claimed_key

HOLD_SECONDS = 2.0
"""How long a request for messages is held at most."""
_LOOK_SECONDS = 0.05
"""The time between two looks at the database."""
_CALLED = """
    SELECT DISTINCT node.public_key FROM message_ins
    JOIN node ON node.node_id = message_ins.dst_node_id WHERE message_ins.delivered_at = ''
"""


class Doorbell:
    """Knows the keys of the nodes that had a message waiting at its last look."""

    def __init__(self, database: Path) -> None:
        # Read only: in WAL mode no writer waits for it.
        address = f"{database.absolute().as_uri()}?mode=ro"
        self._connection = sqlite3.connect(address, uri=True, check_same_thread=False)
        self._called: frozenset[bytes] = frozenset()

    def watch(self) -> None:
        """Look again and again, without end."""
        while True:
            self.look()
            time.sleep(_LOOK_SECONDS)

    def look(self) -> None:
        """Look up in the database which nodes have a message waiting."""
        self._called = frozenset(key for (key,) in self._connection.execute(_CALLED))

    async def wait(self, scope: Scope, receive: Receive) -> bool:
        """Wait up to HOLD_SECONDS for a message for the site that asks.

        Args:
            scope: the request's.
            receive: the request's, after its body was read.

        Returns:
            Whether the site is still there. If it hung up, a message would reach nobody.
        """
        key, end = claimed_key(scope), time.monotonic() + HOLD_SECONDS
        hung_up = asyncio.ensure_future(receive())
        while key not in self._called and time.monotonic() < end and not hung_up.done():
            await asyncio.wait({hung_up}, timeout=_LOOK_SECONDS)
        return not hung_up.done() and hung_up.cancel()
