"""Persistent worker processes that run the ClientApp, one message at a time each.

Messages cross as Flower's own protobuf. A worker keeps what it has loaded (model, cell caches)
from one message to the next; what it answers depends on the message alone.
"""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Self

from flwr.app import Context, Error, Message
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
)
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.proto.message_pb2 import Message as ProtoMessage

ClientFunction = Callable[[Message, Context], Message]
MakeClient = Callable[[int], ClientFunction]
"""Importable function: the seed -> the ClientApp; called once in each worker."""

Answer = tuple[Message, Context]
"""A reply, and the node's context after it."""

_CLIENT_FAILED = 3
"""Flower's code of a ClientApp that raised or died."""


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
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        self._waiting: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._numbers = count()
        self._all: list[_Worker] = []
        self._lock = threading.Lock()
        self._closed = False
        self._threads = ThreadPoolExecutor(self.size, thread_name_prefix="worker")
        for _ in range(self.size):
            self._idle.put(None)  # a place whose worker is hired when the first job comes
        forkserver.ensure_running()

    def submit(self, message: Message, context: Context, rank: int = 0) -> Future[Answer]:
        """The reply and the node's context after it; an error reply when the worker died.

        Messages of a lower rank go first, so that a federation is not kept by its baselines.
        """
        future: Future[Answer] = Future()
        self._waiting.put(_Job(rank, next(self._numbers), message, context, future))
        self._threads.submit(self._serve_next)
        return future

    def close(self) -> None:
        """End the processes; what is under way or has not begun is cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with suppress(queue.Empty):
            while True:
                self._waiting.get_nowait().future.cancel()
        with self._lock:
            self._closed = True
            for worker in self._all:
                worker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hire(self) -> "_Worker":
        worker = _Worker(self._context, *self._start)
        with self._lock:
            if not self._closed:
                self._all.append(worker)
                return worker
        worker.stop()
        raise CancelledError("the worker pool is closed")

    def _replace(self, dead: "_Worker") -> tuple["_Worker", int | None]:
        """A new worker for one that died, and how that one ended."""
        code = dead.stop()
        worker = self._hire()
        with self._lock:
            self._all.remove(dead)
        return worker, code

    def _serve_next(self) -> None:
        """Answer the waiting message of the lowest rank."""
        job = self._waiting.get()
        if not job.future.set_running_or_notify_cancel():
            return
        try:
            job.future.set_result(self._call(job.message, job.context))
        except BaseException as error:
            job.future.set_exception(error)

    def _call(self, message: Message, context: Context) -> Answer:
        worker = self._idle.get()
        try:
            worker = worker or self._hire()
            return worker.call(message, context)
        except (EOFError, OSError) as death:
            if worker is None:
                raise
            worker, code = self._replace(worker)
            reason = f"the worker died (exit code {code}, {type(death).__name__})"
            return Message(Error(_CLIENT_FAILED, reason), reply_to=message), context
        finally:
            self._idle.put(worker)


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

    def call(self, message: Message, context: Context) -> Answer:
        self._line.send_bytes(context_to_proto(context).SerializeToString())
        self._line.send_bytes(message_to_proto(message).SerializeToString())
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
    client = make(seed)
    while True:
        try:
            context = context_from_proto(ProtoContext.FromString(line.recv_bytes()))
            message = message_from_proto(ProtoMessage.FromString(line.recv_bytes()))
        except EOFError:
            return
        reply = client(message, context)
        line.send_bytes(context_to_proto(context).SerializeToString())
        line.send_bytes(message_to_proto(reply).SerializeToString())


def _leave_interrupts_to_parent() -> None:
    """Ctrl-C reaches the whole group; the parent decides when a worker ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
