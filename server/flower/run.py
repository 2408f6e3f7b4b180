"""The Flower run around the rounds of a study: starts it, keeps it alive and ends it."""

import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from common.errors import FederationError
from common.wire.bundle import BUNDLE_HASH
from common.wire.flower_internals import (
    HEARTBEAT_DEFAULT_INTERVAL,
    NOOP_FEDERATION_ID,
    NOOP_FLWR_AID,
    SUPERLINK_NODE_ID,
    Run,
    Status,
    SubStatus,
    TaskIdentity,
    TaskType,
)
from server.flower.internals import LinkState


class FlowerRun:
    """A Flower run as a context manager; inside it the SuperLink passes the run's messages on.

    Runs that an earlier process left behind are ended first, so that sites drop what belongs to
    them.
    """

    def __init__(self, state: LinkState) -> None:
        self._state = state
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        end_unfinished(self._state)
        number = self._state.create_run(
            fab_id="hemofed/hemofed",
            fab_version="1",
            fab_hash=BUNDLE_HASH,
            override_config={},
            federation_id=NOOP_FEDERATION_ID,
            federation_config=None,
            flwr_aid=NOOP_FLWR_AID,
            primary_task_type=TaskType.SERVER_APP,
        )
        self.run: Run = self._state.get_run_info(run_ids=[number])[0]
        self._task = self.run.primary_task_id or 0
        if not (self._state.claim_task(self._task) and self._state.activate_task(self._task)):
            raise FederationError(f"run {number}: could not be started in the SuperLink's state")
        # Flower's Message reads its sender from this process-wide place.
        TaskIdentity.run_id, TaskIdentity.task_id = number, self._task
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        self._beats.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._beats.join()
        ended = SubStatus.COMPLETED if kind is None else SubStatus.STOPPED
        self._state.finish_task(self._task, ended, "")
        self._state.cleanup_run(self.run.run_id)

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_DEFAULT_INTERVAL / 3):
            # A full disk is temporary; if this thread ended, the run would end later.
            with suppress(SQLAlchemyError):
                self._state.acknowledge_task_heartbeat(self._task)


def end_unfinished(state: LinkState) -> None:
    """End every run that is not over. This process is the only one that starts runs."""
    for status in (Status.PENDING, Status.STARTING, Status.RUNNING):
        for run in state.get_run_info(statuses=[status]):
            state.stop_run(run.run_id)
