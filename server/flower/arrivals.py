"""Tells with two short queries whether replies came, or the rest of one.

Flower's own look at a run's replies takes dozens of statements, most of which build objects; the
rounds look many times until a reply is whole.
"""

import json
import time
from collections.abc import Collection

from common.wire.flower_internals import uint64_to_int64
from server.flower.body_store import BodyStore

THOROUGH_SECONDS = 1.0
"""The seconds after which all is looked at again: what the clock decides leaves no trace in the
database, such as a site that is gone, or a reply that broke off."""
_NEW = "SELECT 1 FROM message_res WHERE run_id = :run AND delivered_at = '' LIMIT 1"
_WHOLE = """
    SELECT value FROM json_each(:replies) WHERE NOT EXISTS (
        SELECT 1 FROM objects WHERE is_available = 0 AND (
            object_id = value
            OR object_id IN (SELECT child_id FROM object_children WHERE parent_id = value)
        )
    )
"""


class Arrivals:
    """Looks for the replies of one run in the store's database."""

    def __init__(self, store: BodyStore, run: int) -> None:
        self._store = store
        self._run = uint64_to_int64(run)
        self._next = 0.0

    def is_time(self) -> bool:
        """Return whether it is time for a thorough look, which is counted from this one."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + THOROUGH_SECONDS
        return True

    def any_new(self) -> bool:
        """Return whether a reply was announced that was not looked at yet."""
        return bool(self._store.query(_NEW, {"run": self._run}))

    def whole(self, replies: Collection[str]) -> set[str]:
        """Return which of these replies wait for none of their objects."""
        said = {"replies": json.dumps(list(replies))}
        return {row["value"] for row in self._store.query(_WHOLE, said)} if replies else set()
