"""What the rounds tell of a round while it lasts."""

from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Protocol

from common.audit.entry import loggable
from common.audit.log import AuditLog
from common.config.study import Study
from server.studies.store import Stored


class Watcher(Protocol):
    """Who wants to know what happens within a round."""

    def waits_for(self, sites: AbstractSet[str]) -> None:
        """The study waits for these sites to connect or to answer; for none, it computes."""
        ...

    def left_out(self, number: int, site: str, reason: str) -> None:
        """A reply to round `number` came and cannot be used."""
        ...


class Unwatched:
    """Nobody does, as in a simulation."""

    def waits_for(self, sites: AbstractSet[str]) -> None: ...

    def left_out(self, number: int, site: str, reason: str) -> None: ...


class Notes:
    """Writes it down: in the study's state for `status`, and in the audit log for good."""

    def __init__(self, stored: Stored, study: Study, log: AuditLog) -> None:
        self._stored = stored
        self._study = study
        self._audit = log
        self._waits: AbstractSet[str] | None = None

    def waits_for(self, sites: AbstractSet[str]) -> None:
        if sites == self._waits:
            return
        self._waits = frozenset(sites)
        with suppress(OSError):  # a full disk costs the status a word, not the sites a round
            self._stored.say("running", rounds=self._study.rounds, waits=sorted(sites))

    def left_out(self, number: int, site: str, reason: str) -> None:
        digest, why = self._study.digest, loggable(reason)
        self._audit.append("reply_left_out", digest=digest, round=number, site=site, reason=why)
