"""A study's questions to its sites, and what comes back: one message a site and question."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from flwr.app import Message
from flwr.serverapp import Grid

from common.config.study import Study
from common.wire.messages import Task, content_bytes, read_head
from common.wire.vector_codec import Vector, encode
from server.rounds.messaging import Reply, Roster, exchange, unusable
from server.rounds.observer import Observer


@dataclass
class Traffic:
    """Bytes of the messages to the sites and of their sound replies, since `taken`."""

    down: int = 0
    up: int = 0

    def taken(self) -> tuple[int, int]:
        """Down and up; both are counted from 0 again."""
        found = self.down, self.up
        self.down = self.up = 0
        return found


class Dispatch:
    """Asks the connected sites of a cohort."""

    def __init__(self, study: Study, grid: Grid, observer: Observer) -> None:
        self._study = study
        self._grid = grid
        self._observer = observer
        self._roster = Roster(grid, set(study.cohort))
        self.heads: dict[str, str] = {}
        """Site -> the head of its ledger, shown to it with each question."""
        self.traffic = Traffic()
        self.least = study.round.min_sites
        """Sites that must be connected before any is asked."""

    def ask(
        self, kind: str, task: Task, model: Vector, sites: list[str], but: Mapping[str, object]
    ) -> Iterator[tuple[str, Reply]]:
        """What each connected site of `sites` says to the question, as it comes.

        but: suspended sites, which are not asked. Raises FederationError when fewer than `least`
        sites are there within the round's deadline.
        """
        messages = self._messages(kind, task, model, sites, but)
        waiting = set(messages)
        self._observer.waits_for(waiting)
        self.traffic.down += sum(content_bytes(one.content) for one in messages.values())
        for site, reply in exchange(self._grid, messages, self._study.round.deadline_seconds):
            yield site, self._noted(site, reply)
            waiting.discard(site)
            self._observer.waits_for(waiting)

    def _noted(self, site: str, reply: Reply) -> Reply:
        """The reply, once its bytes and its site's ledger head are noted."""
        if not isinstance(reply, Message):
            return reply
        self.traffic.up += content_bytes(reply.content)
        try:
            if head := read_head(reply):
                self.heads[site] = head
        except Exception as error:
            return unusable(error)
        return reply

    def _messages(
        self, kind: str, task: Task, model: Vector, sites: list[str], but: Mapping[str, object]
    ) -> dict[str, Message]:
        """One message a connected site, those with most cells first: they take longest."""
        wait = self._study.round.deadline_seconds
        present = self._roster.wait_for(self.least, wait, but=but, tell=self._observer.waits_for)
        order = sorted(sites, key=lambda site: (-self._study.cohort[site].units, site))
        number, vector = str(task.round), encode(model, self._study.transport.down)
        return {
            site: Message(
                replace(task, head=self.heads.get(site, "")).content(vector),
                present[site],
                kind,
                group_id=number,
                ttl=wait,
            )
            for site in order
            if site in present
        }
