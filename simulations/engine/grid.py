"""A Flower Grid within this process: its nodes are sites, and a worker pool answers messages."""

from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import count
from pathlib import Path

from flwr.app import Context, Message, RecordDict

from common.wire.flower_internals import Run, TaskIdentity
from server.flower.base_grid import RunGrid
from server.rounds.messaging import LONGEST_PAUSE
from simulations.engine.workers import WorkerPool

_SERVER_NODE = 1


class LocalGrid(RunGrid):
    """The Grid of one run. Several runs may share a pool, each with its own Grid.

    Messages are serialised on their way, so that neither side can change what the other holds.
    """

    def __init__(self, pool: WorkerPool, sites: Iterable[Path], run_id: int = 1) -> None:
        """sites: the site.yaml of each node."""
        super().__init__(Run.create_empty(run_id))
        self._pool = pool
        self._contexts = {
            node: Context(run_id, node, {"site": str(path.absolute())}, RecordDict(), {})
            for node, path in enumerate(sites, start=_SERVER_NODE + 1)
        }
        self._ids = count(1)
        self._waiting: dict[str, Future[tuple[Message, Context]]] = {}
        # Flower's Message reads its sender from this process-wide place.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, _SERVER_NODE, 1

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identifiers = []
        for message in messages:
            identifier = f"{self._run.run_id}-{next(self._ids)}"
            message.metadata.__dict__["_message_id"] = identifier
            context = self._contexts[message.metadata.dst_node_id]
            self._waiting[identifier] = self._pool.submit(message, context, self._run.run_id)
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have come.

        This waits up to LONGEST_PAUSE for the first one, so that the caller need not pause.
        """
        asked = {key: self._waiting[key] for key in message_ids if key in self._waiting}
        wait(asked.values(), LONGEST_PAUSE, FIRST_COMPLETED)
        return [self._collect(key) for key, future in asked.items() if future.done()]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies = []
        for key in self.push_messages(messages):
            self._waiting[key].exception(timeout)
            replies.append(self._collect(key))
        return replies

    def _collect(self, key: str) -> Message:
        reply, context = self._waiting.pop(key).result()
        self._contexts[context.node_id] = context
        return reply
