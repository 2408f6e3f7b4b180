"""Sends a study's questions to its sites, one message per site and question, and counts bytes."""

from collections.abc import Collection, Iterator, Mapping
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
    """Bytes sent and received since the last call of `taken`."""

    down: int = 0
    """Bytes of the messages to the sites."""
    up: int = 0
    """Bytes of the sites' sound replies."""

    def taken(self) -> tuple[int, int]:
        """Return (down, up), and count both from 0 again.

        >>> traffic = Traffic(down=8, up=5)
        >>> traffic.taken(), traffic.taken()
        ((8, 5), (0, 0))
        """
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
        """Site -> the head of its privacy ledger, which each question shows to the site."""
        self.traffic = Traffic()
        self.least = study.fewest_sites
        """How many sites must be connected before any of them is asked."""

    def present(self, but: Collection[str]) -> set[str]:
        """Return the connected sites but those in `but`, once there are `least` of them.

        Raises:
            FederationError: fewer connect within the round's deadline.
        """
        wait = self._study.round.deadline_seconds
        return set(self._roster.wait_for(self.least, wait, but, self._observer.waits_for))

    def connected(self) -> set[str]:
        """Return the sites that are connected at this moment."""
        return set(self._roster.present(self._study.round.deadline_seconds))

    def ask(
        self,
        kind: str,
        task: Task,
        model: Vector | None,
        sites: list[str],
        but: Mapping[str, object],
    ) -> Iterator[tuple[str, Reply]]:
        """Ask the connected sites among `sites`, and yield (site, reply) as the replies come.

        Args:
            kind: the message type: "train", "evaluate", or a query, which has no model.
            task: the round and attempt that the question belongs to.
            model: the parameters (P,) float32 that are sent; None: none.
            sites: the sites to ask.
            but: suspended sites, which are not asked.

        Raises:
            FederationError: fewer than `least` sites connect within the round's deadline; for an
                evaluation, fewer than `round.min_sites`.
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
        """Note the reply's bytes and its site's ledger head, and return the reply."""
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
        self,
        kind: str,
        task: Task,
        model: Vector | None,
        sites: list[str],
        but: Mapping[str, object],
    ) -> dict[str, Message]:
        """Return a message for each connected site.

        The sites with the most units come first, because they take the longest.
        """
        wait = self._study.round.deadline_seconds
        least = min(self.least, self._study.round.min_sites) if kind == "evaluate" else self.least
        present = self._roster.wait_for(least, wait, but=but, tell=self._observer.waits_for)
        order = sorted(sites, key=lambda site: (-self._study.cohort[site].units, site))
        number = str(task.round)
        vector = None if model is None else encode(model, self._study.transport.down)
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
