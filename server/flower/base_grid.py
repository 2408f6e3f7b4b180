"""The base class of a Grid that belongs to one run."""

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from common.wire.flower_internals import Run


class RunGrid(Grid):
    """A Grid that belongs to one run; its subclasses define how messages travel."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)
