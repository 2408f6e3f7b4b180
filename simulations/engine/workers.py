"""A pool of workers that run the ClientApp; each worker answers one message at a time.

A worker is a process of this machine (`processes`) or of a Ray node (`ray_workers`). It keeps the
model and the cell caches that it has loaded from one message to the next, but its answer depends
only on the message.
"""

import heapq
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol, Self

from flwr.app import Context, Error, Message

from common.errors import FederationError
from common.wire.flower_internals import ProtoContext, context_from_proto, context_to_proto
from common.wire.message_parts import Part, from_parts, parts

ClientFunction = Callable[[Message, Context], Message]
MakeClient = Callable[[int, int], ClientFunction]
"""(seed, the worker's number on its machine) -> the ClientApp. The function must be importable; it
is called once in each worker."""

Answer = tuple[Message, Context]
"""A reply and the node's context after it."""

_CLIENT_FAILED = 3
"""Flower's error code of a ClientApp that raised an error or died."""
_MANY = 4
"""How many messages must wait per other worker before a busy one is handed its next one early."""


class WorkersGoneError(FederationError):
    """The machine or cluster of the workers is gone or has no room: no plan can continue."""


class Worker(Protocol):
    """One worker, wherever it runs. Only one thread uses it, except that any may call `stop`."""

    def send(self, message: Message, context: Context) -> None:
        """Hand a message to the worker.

        Raises:
            EOFError, OSError: the worker died.
        """

    def receive(self) -> Answer:
        """Return the answer to the oldest unanswered message.

        Raises:
            EOFError, OSError: the worker died.
        """

    def stop(self) -> str:
        """End the worker, whatever it is doing, and return in words how it ended.

        Two threads may call this at the same time: the one that closes the pool and the one that
        finds the worker dead.
        """


def packed(message: Message, context: Context) -> list[Part]:
    """A message and its context in parts, for another process."""
    return [context_to_proto(context).SerializeToString(), *parts(message)]


def unpacked(came: Iterable[Part]) -> Answer:
    """The message and its context that were `packed`; takes no more parts than theirs."""
    each = iter(came)
    context = context_from_proto(ProtoContext.FromString(bytes(next(each))))
    return from_parts(each), context


StartWorker = Callable[[int], Worker]
"""The worker's number -> the worker. Its errors are raised to those who wait for an answer."""


@dataclass(order=True)
class _Job:
    """A message that waits for a worker. Jobs are ordered by rank, then by arrival."""

    rank: int
    number: int
    message: Message = field(compare=False)
    context: Context = field(compare=False)
    future: Future[Answer] = field(compare=False)


class WorkerPool:
    """A pool of `size` workers; `submit` queues a message for the next free one."""

    def __init__(self, size: int, start: StartWorker) -> None:
        """start: starts a worker, when the first message needs it."""
        self.size = size
        self._start = start
        self._numbers = count()
        self._waiting: list[_Job] = []
        self._all: list[Worker] = []
        self._closed = False
        self._change = threading.Condition()
        """Guards `_waiting`, `_all` and `_closed`."""
        for number in range(size):
            threading.Thread(
                target=self._attend, args=(number,), name="worker", daemon=True
            ).start()

    def submit(self, message: Message, context: Context, rank: int = 0) -> Future[Answer]:
        """Queue a message; its future gives the reply and the node's context after it.

        If the worker dies, the reply is an error. Messages of a lower rank go first, so that the
        baselines do not delay the federation.
        """
        job = _Job(rank, next(self._numbers), message, context, Future())
        self._queue(job)
        return job.future

    def close(self) -> None:
        """End the workers and cancel all unanswered messages."""
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
        """Return the waiting job of the lowest rank; None once the pool is closed.

        ahead: whether the worker is still busy. Then this returns None at once unless enough jobs
        wait for the other workers.
        """
        with self._change:
            if ahead and len(self._waiting) <= _MANY * (self.size - 1):
                return None
            self._change.wait_for(lambda: self._waiting or self._closed)
            return None if self._closed else heapq.heappop(self._waiting)

    def _attend(self, number: int) -> None:
        """Serve one worker, and those that replace it, until the pool is closed.

        If many messages wait, a worker is handed its next message early, so that it need not wait
        after an answer. If few wait, each goes to the worker that is free first.
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
            except Exception as error:  # whatever it is, every waiting caller must get an answer
                self._fail(worker, sent, error)
                worker = None

    def _fail(self, worker: Worker | None, sent: deque[_Job], error: Exception) -> None:
        """End the worker after an error.

        If the worker died, the message that it was working on gets an error reply, and the next
        one, which it has not started, is queued again. Any other error is a fault of this program
        and is raised to everyone who waits for this worker.
        """
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
        """End a worker and return in words how it ended."""
        end = worker.stop()
        with self._change:
            self._all.remove(worker)
        return end
