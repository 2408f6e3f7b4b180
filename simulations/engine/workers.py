"""Persistent worker processes that run the ClientApp, one message at a time each.

Messages cross as Flower's own protobuf. A worker keeps what it has loaded (model, cell caches)
from one message to the next; what it answers depends on the message alone.
"""

import heapq
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from itertools import count
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Self

from flwr.app import Context, Error, Message

from common.errors import ConfigError
from common.wire.flower_internals import (
    ProtoContext,
    ProtoMessage,
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
)

ClientFunction = Callable[[Message, Context], Message]
MakeClient = Callable[[int], ClientFunction]
"""Importable function: the seed -> the ClientApp; called once in each worker."""

Answer = tuple[Message, Context]
"""A reply, and the node's context after it."""

_CLIENT_FAILED = 3
"""Flower's code of a ClientApp that raised or died."""
_LONGEST_SOCKET = 107
"""Bytes of a Unix socket's path."""
_SOCKET = "/pymp-xxxxxxxx/listener-xxxxxxxx"
"""What multiprocessing adds to the folder's."""
_SHORT = "/tmp"  # noqa: S108  a folder of our own is made in it
_MANY = 4
"""So many messages wait for each other worker before one is handed over ahead of its turn."""


def _start_forkserver() -> None:
    """Start the server of processes, whose socket lies below TMPDIR where its path fits in there.

    Raises ConfigError: the path is too long, and /tmp cannot be written.
    """
    folder, before = tempfile.gettempdir(), tempfile.tempdir
    fits = len(os.fsencode(folder)) <= _LONGEST_SOCKET - len(_SOCKET)
    try:
        tempfile.tempdir = folder if fits else _SHORT
        forkserver.ensure_running()
    except OSError as error:
        raise ConfigError(
            f"{tempfile.tempdir}: no socket for the worker processes can be made there "
            f"({error.strerror or error}); set TMPDIR to a folder that can be written, with a path "
            "of 70 letters at most"
        ) from error
    finally:
        tempfile.tempdir = before


@dataclass(order=True)
class _Job:
    """A message that waits for a worker; ordered by rank, then by arrival."""

    rank: int
    number: int
    message: Message = field(compare=False)
    context: Context = field(compare=False)
    future: Future[Answer] = field(compare=False)


class WorkerPool:
    """`workers` processes; `submit` queues a message for the next free one.

    Processes come from a server that has the heavy modules loaded, so a worker starts in
    milliseconds and shares their memory; that server starts beside whatever the caller does next.
    """

    def __init__(
        self, workers: int | None, make: MakeClient, seed: int, preload: tuple[str, ...] = ()
    ) -> None:
        """preload: modules that the clients need, besides the one of `make`."""
        self.size = workers or os.cpu_count() or 1
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([make.__module__, __name__, *preload])
        self._start = (make, seed)
        self._numbers = count()
        self._waiting: list[_Job] = []
        self._all: list[_Worker] = []
        self._closed = False
        self._change = threading.Condition()
        """Guards the three above."""
        _start_forkserver()
        for _ in range(self.size):
            threading.Thread(target=self._attend, name="worker", daemon=True).start()

    def submit(self, message: Message, context: Context, rank: int = 0) -> Future[Answer]:
        """The reply and the node's context after it; an error reply when the worker died.

        Messages of a lower rank go first, so that a federation is not kept by its baselines.
        """
        job = _Job(rank, next(self._numbers), message, context, Future())
        self._queue(job)
        return job.future

    def close(self) -> None:
        """End the processes; what is under way or has not begun is cancelled."""
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

    def _attend(self) -> None:
        """Serve one worker, and its successors, until the pool is closed.

        Where many messages wait, a worker has the next one at hand when it has answered one, and
        need not wait for it. Of few, each goes to the worker that is free first.
        """
        worker, sent = None, deque[_Job]()
        while (job := self._next(ahead=bool(sent))) or sent:
            if job is not None:
                sent.append(job)
            try:
                worker = worker or self._hire()
                if job is not None:
                    worker.send(job.message, job.context)
                if job is None or len(sent) > 1:
                    answer = worker.receive()
                    sent.popleft().future.set_result(answer)
            except Exception as error:  # whatever it is, nobody may wait for ever
                self._fail(worker, sent, error)
                worker = None

    def _fail(self, worker: "_Worker | None", sent: deque[_Job], error: Exception) -> None:
        """End the worker; a death is the answer to the message that it was at, the next one has not
        begun. Another error, a fault of ours, is raised to all who wait for this worker."""
        code = self._dismiss(worker) if worker else None
        if worker and isinstance(error, EOFError | OSError) and not self._closed:
            job = sent.popleft()
            reason = f"the worker died (exit code {code}, {type(error).__name__})"
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

    def _hire(self) -> "_Worker":
        worker = _Worker(self._context, *self._start)
        with self._change:
            if not self._closed:
                self._all.append(worker)
                return worker
        worker.stop()
        raise CancelledError("the worker pool is closed")

    def _dismiss(self, worker: "_Worker") -> int | None:
        """End a worker; its exit code."""
        code = worker.stop()
        with self._change:
            self._all.remove(worker)
        return code


class _Worker:
    """One process and the line to it."""

    def __init__(
        self, context: multiprocessing.context.ForkServerContext, make: MakeClient, seed: int
    ) -> None:
        self._line, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_serve, args=(theirs, make, seed), daemon=True
        )
        self._process.start()
        theirs.close()
        self._ending = threading.Lock()

    def send(self, message: Message, context: Context) -> None:
        self._line.send_bytes(context_to_proto(context).SerializeToString())
        self._line.send_bytes(message_to_proto(message).SerializeToString())

    def receive(self) -> Answer:
        """The answer to the first message that has none yet. Raises EOFError: the worker died."""
        after = context_from_proto(ProtoContext.FromString(self._line.recv_bytes()))
        reply = message_from_proto(ProtoMessage.FromString(self._line.recv_bytes()))
        return reply, after

    def stop(self) -> int | None:
        """End the process, whatever it does; its exit code.

        The pool's end and the thread that meets the dead worker may both come here, at once.
        """
        with self._ending:
            self._process.kill()
            self._process.join()
            self._line.close()
            return self._process.exitcode


def _serve(line: Connection, make: MakeClient, seed: int) -> None:
    """A worker's whole life: answer messages until the line closes."""
    _leave_interrupts_to_parent()
    come: queue.SimpleQueue[tuple[Message, Context] | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(line, come), daemon=True).start()
    client = make(seed)
    while asked := come.get():
        message, context = asked
        reply = client(message, context)
        line.send_bytes(context_to_proto(context).SerializeToString())
        line.send_bytes(message_to_proto(reply).SerializeToString())


def _read(line: Connection, come: "queue.SimpleQueue[tuple[Message, Context] | None]") -> None:
    """Take what the parent sends, while the client computes: the parent never waits to send."""
    try:
        while True:
            context = context_from_proto(ProtoContext.FromString(line.recv_bytes()))
            come.put((message_from_proto(ProtoMessage.FromString(line.recv_bytes())), context))
    except EOFError:
        pass
    finally:
        come.put(None)


def _leave_interrupts_to_parent() -> None:
    """Ctrl-C reaches the whole group; the parent decides when a worker ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
