"""Withdraws proposals: tells each lab that may have received one that the operator took it back.

A lab that is away is told once it connects; until then its list still shows the study.
"""

import logging
import time
from pathlib import Path
from threading import Event

from flwr.app import Message

from common.audit.log import AuditLog
from common.config.study import Study
from common.errors import HemofedError
from common.identity import Registry
from common.wire.flower_internals import NodeStatus
from common.wire.messages import WITHDRAW, Task
from server.flower.grid import StateGrid
from server.flower.internals import LinkState
from server.flower.message_audit import Envelopes
from server.flower.run import FlowerRun
from server.rounds.messaging import Roster, exchange
from server.studies.store import Stored, stored_studies

_ANSWER_SECONDS, _AGAIN_SECONDS = 10.0, 5.0
_log = logging.getLogger("hemofed.rounds")


class Withdrawals:
    """Tells the sites of withdrawn studies, in the rounds' process, while no study runs."""

    def __init__(self, home: Path, state: LinkState, log: AuditLog, halt: Event) -> None:
        self._home = home
        self._state = state
        self._audit = log
        self._halt = halt
        self._due = 0.0

    def look(self) -> None:
        """Tell the connected sites that have not been told yet.

        A withdrawal is complete when every member of the study's cohort has confirmed it.
        """
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _AGAIN_SECONDS
        for stored in stored_studies(self._home):
            if stored.wanted != "withdraw":
                continue
            try:
                self._tell(stored)
            except HemofedError as error:
                _log.error("%s: %s", stored.folder.name, error)
                stored.want("stop")

    def _tell(self, stored: Stored) -> None:
        study, members = stored.study(), Registry.load(self._home).active()
        told = set(stored.said().get("told", []))
        told |= self._told(study, set(study.cohort) & set(members) - told)
        untold = sorted(set(study.cohort) & set(members) - told)
        words = {"note": f"not told yet: {', '.join(untold)}"} if untold else {}
        stored.say("withdrawn", told=sorted(told), sites={}, reasons={}, **words)
        if not untold:
            stored.want("stop")
            _log.info("%s: withdrawn, and every member of its cohort knows", stored.folder.name)

    def _told(self, study: Study, sites: set[str]) -> set[str]:
        """Tell those of the sites that are connected, and return the ones that confirm it."""
        online = {node.name for node in self._state.get_node_info(statuses=[NodeStatus.ONLINE])}
        if not sites & online:
            return set()
        with FlowerRun(self._state) as flower:
            grid = StateGrid(
                self._state, flower.run, self._halt, Envelopes(self._home, self._audit)
            )
            present = Roster(grid, sites).present(_ANSWER_SECONDS)
            messages = {
                site: Message(Task(study, 0).content(), node, WITHDRAW, ttl=_ANSWER_SECONDS)
                for site, node in present.items()
            }
            replies = exchange(grid, messages, _ANSWER_SECONDS)
            return {site for site, reply in replies if isinstance(reply, Message)}
