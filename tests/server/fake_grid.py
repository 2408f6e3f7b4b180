"""A Grid whose sites are functions of this process: what they answer, a test decides."""

from collections.abc import Callable, Iterable, Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from common.wire.messages import name_content
from server.rounds.observer import Observer
from server.rounds.record import RoundRecord

Answer = Callable[[Message], RecordDict | None]
"""The content of a site's reply; None: it stays silent."""


class AfterRound(Observer):
    """Calls a function with the record of each round."""

    def __init__(self, observe: Callable[[RoundRecord], object]) -> None:
        self._observe = observe

    def round_done(self, record: RoundRecord) -> None:
        self._observe(record)


class FakeGrid(Grid):
    """Nodes 2, 3, ... are the sites, in order."""

    def __init__(self, sites: Mapping[str, Answer]) -> None:
        self._names = dict(enumerate(sites, start=2))
        self._sites = dict(sites)
        self._replies: dict[str, Message] = {}
        self._count = 0
        self.sent: list[tuple[str, str]] = []
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1

    def set_run(self, run: Run) -> None:
        raise AssertionError("not used")

    @property
    def run(self) -> Run:
        return Run.create_empty(1)

    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise AssertionError("deprecated")

    def get_node_ids(self) -> Iterable[int]:
        return list(self._names)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identifiers = []
        for message in messages:
            self._count += 1
            identifier = str(self._count)
            message.metadata.__dict__["_message_id"] = identifier
            name = self._names[message.metadata.dst_node_id]
            kind = message.metadata.message_type
            self.sent.append((name, kind))
            content = name_content(name) if kind == "query" else self._sites[name](message)
            if content is not None:
                self._replies[identifier] = Message(content, reply_to=message)
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise AssertionError("not used")
