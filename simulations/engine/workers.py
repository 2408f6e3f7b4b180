"""A pool of workers that run the ClientApp, one message at a time each.

A worker is a process of this machine (`processes`) or of a Ray node (`ray_workers`). It keeps what
it has loaded (model, cell caches) from one message to the next; what it answers depends on the
message alone.
"""

import heapq
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol, Self

from flwr.app import Context, Error, Message

from common.errors import FederationError
from common.wire.flower_internals import (
    ProtoContext,
    ProtoMessage,
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
)

ClientFunction = Callable[[Message, Context], Message]
MakeClient = Callable[[int, int], ClientFunction]
"""Importable function: (seed, the worker's number on its machine) -> the ClientApp; called once in
each worker."""

Answer = tuple[Message, Context]
"""A reply, and the node's context after it."""

_CLIENT_FAILED = 3
"""Flower's code of a ClientApp that raised or died."""
_MANY = 4
"""So many messages wait for each other worker before one is handed over ahead of its turn."""


class WorkersGoneError(FederationError):
    """Where the workers run is gone, or has no room for them: no plan can go on."""


class Worker(Protocol):
    """One worker, wherever it runs; used by one thread, but for `stop`."""

    def send(self, message: Message, context: Context) -> None:
        """Hand a message over. Raises EOFError or OSError: the worker died."""

    def receive(self) -> Answer:
        """The answer to the first message that has none yet.

        Raises EOFError or OSError: the worker died.
        """

    def stop(self) -> str:
        """End the worker, whatever it does; how it ended, in words. May be called twice, at once:
        by the pool's end and by the thread that meets the dead worker."""


def packed(message: Message, context: Context) -> tuple[bytes, bytes]:
    """The two as they cross to another process: Flower's own protobuf."""
    return (
        message_to_proto(message).SerializeToString(),
        context_to_proto(context).SerializeToString(),
    )


def unpacked(message: bytes, context: bytes) -> Answer:
    """What was `packed`."""
    return (
        message_from_proto(ProtoMessage.FromString(message)),
        context_from_proto(ProtoContext.FromString(context)),
    )


StartWorker = Callable[[int], Worker]
"""The worker's number -> the worker. Whatever it raises is raised to who waits for an answer."""


@dataclass(order=True)
class _Job:
    """A message that waits for a worker; ordered by rank, then by arrival."""

    rank: int
    number: int
    message: Message = field(compare=False)
    context: Context = field(compare=False)
    future: Future[Answer] = field(compare=False)


class WorkerPool:
    """`size` workers; `submit` queues a message for the next free one."""

    def __init__(self, size: int, start: StartWorker) -> None:
        self.size = size
        self._start = start
        self._numbers = count()
        self._waiting: list[_Job] = []
        self._all: list[Worker] = []
        self._closed = False
        self._change = threading.Condition()
        """Guards the three above."""
        for number in range(size):
            threading.Thread(
                target=self._attend, args=(number,), name="worker", daemon=True
            ).start()

    def submit(self, message: Message, context: Context, rank: int = 0) -> Future[Answer]:
        """The reply and the node's context after it; an error reply when the worker died.

        Messages of a lower rank go first, so that a federation is not kept by its baselines.
        """
        job = _Job(rank, next(self._numbers), message, context, Future())
        self._queue(job)
        return job.future

    def close(self) -> None:
        """End the workers; what is under way or has not begun is cancelled."""
        with self._change:
            self._closed = True
            self._change.notify_all()
            for worker in self._all:
                worker.stop()
            for job in self._waiting:
                job.future.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _queue(self, job: _Job) -> None:
        with self._change:
            if self._closed:
                job.future.cancel()
            else:
                heapq.heappush(self._waiting, job)
                self._change.notify()

    def _next(self, ahead: bool) -> _Job | None:
        """The waiting job of the lowest rank; None once the pool is closed.

        ahead: for a worker that has one in hand; None unless there is enough for the others.
        """
        with self._change:
            if ahead and len(self._waiting) <= _MANY * (self.size - 1):
                return None
            self._change.wait_for(lambda: self._waiting or self._closed)
            return None if self._closed else heapq.heappop(self._waiting)

    def _attend(self, number: int) -> None:
        """Serve one worker, and its successors, until the pool is closed.

        Where many messages wait, a worker has the next one at hand when it has answered one, and
        need not wait for it. Of few, each goes to the worker that is free first.
        """
        worker, sent = None, deque[_Job]()
        while (job := self._next(ahead=bool(sent))) or sent:
            if job is not None:
                sent.append(job)
            try:
                worker = worker or self._hire(number)
                if job is not None:
                    worker.send(job.message, job.context)
                if job is None or len(sent) > 1:
                    answer = worker.receive()
                    sent.popleft().future.set_result(answer)
            except Exception as error:  # whatever it is, nobody may wait for ever
                self._fail(worker, sent, error)
                worker = None

    def _fail(self, worker: Worker | None, sent: deque[_Job], error: Exception) -> None:
        """End the worker; a death is the answer to the message that it was at, the next one has not
        begun. Another error, a fault of ours, is raised to all who wait for this worker."""
        end = self._dismiss(worker) if worker else ""
        if worker and isinstance(error, EOFError | OSError) and not self._closed:
            job = sent.popleft()
            reason = f"the worker died ({end}, {type(error).__name__})"
            reply = Message(Error(_CLIENT_FAILED, reason), reply_to=job.message)
            job.future.set_result((reply, job.context))
            while sent:
                self._queue(sent.pop())
        while sent:
            future = sent.pop().future
            if self._closed:
                future.cancel()
            else:
                future.set_exception(error)

    def _hire(self, number: int) -> Worker:
        worker = self._start(number)
        with self._change:
            if not self._closed:
                self._all.append(worker)
                return worker
        worker.stop()
        raise CancelledError("the worker pool is closed")

    def _dismiss(self, worker: Worker) -> str:
        """End a worker; how it ended."""
        end = worker.stop()
        with self._change:
            self._all.remove(worker)
        return end
