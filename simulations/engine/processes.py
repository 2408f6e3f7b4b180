"""Workers that are processes of this machine."""

import multiprocessing
import os
import queue
import signal
import socket
import tempfile
import threading
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess

from flwr.app import Context, Message

from common.errors import ConfigError
from common.wire.message_line import received_parts, send_part
from simulations.engine.workers import (
    Answer,
    MakeClient,
    StartWorker,
    Worker,
    packed,
    unpacked,
)

_LONGEST_SOCKET = 107
"""The most bytes of a Unix socket's path."""
_SOCKET = "/pymp-xxxxxxxx/listener-xxxxxxxx"
"""What multiprocessing appends to the folder's path."""
_SHORT = "/tmp"  # noqa: S108  multiprocessing makes its own folder in it

_starting_or_ending = threading.Lock()
"""Every process that starts looks which others have ended; an exit code can be read only once."""


def processes(make: MakeClient, seed: int, preload: tuple[str, ...] = ()) -> StartWorker:
    """Return the function that starts a `WorkerPool`'s processes.

    A server process that has loaded the heavy modules forks the workers, so that a worker starts in
    milliseconds and shares their memory. The server starts here, while the caller continues.

    Args:
        make: makes the client, in each worker.
        seed: passed to `make`.
        preload: modules that the clients need, besides the one of `make`.

    Raises:
        ConfigError: no socket for the processes can be made.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([make.__module__, __name__, *preload])
    _start_forkserver()

    def start(number: int) -> Worker:
        return _ProcessWorker(context, make, seed, number)

    return start


def _start_forkserver() -> None:
    """Start the server process; its socket is below TMPDIR, or /tmp if TMPDIR's path is too long.

    Raises:
        ConfigError: the socket cannot be made there.
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


class _ProcessWorker:
    """One worker process and the socket to it."""

    def __init__(
        self,
        context: multiprocessing.context.ForkServerContext,
        make: MakeClient,
        seed: int,
        number: int,
    ) -> None:
        self._line, theirs = socket.socketpair()
        self._process: BaseProcess = context.Process(
            target=_serve, args=(theirs, make, seed, number), daemon=True
        )
        with _starting_or_ending:
            self._process.start()
        theirs.close()

    def send(self, message: Message, context: Context) -> None:
        _send(self._line, message, context)

    def receive(self) -> Answer:
        """Return the answer to the oldest unanswered message.

        Raises:
            EOFError: the worker died.
        """
        return _receive(self._line)

    def stop(self) -> str:
        with _starting_or_ending:
            self._process.kill()
            self._process.join()
            self._line.close()
            return f"exit code {self._process.exitcode}"


def _serve(line: socket.socket, make: MakeClient, seed: int, number: int) -> None:
    """Answer messages in a worker process until the socket closes."""
    _leave_interrupts_to_parent()
    come: queue.SimpleQueue[tuple[Message, Context] | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(line, come), daemon=True).start()
    client = make(seed, number)
    while asked := come.get():
        message, context = asked
        _send(line, client(message, context), context)


def _read(line: socket.socket, come: "queue.SimpleQueue[tuple[Message, Context] | None]") -> None:
    """Take the parent's messages while the client computes, so that the parent never waits."""
    try:
        while True:
            come.put(_receive(line))
    except EOFError:
        pass
    finally:
        come.put(None)


def _send(line: socket.socket, message: Message, context: Context) -> None:
    for part in packed(message, context):
        send_part(line, part)


def _receive(line: socket.socket) -> Answer:
    return unpacked(received_parts(line))


def _leave_interrupts_to_parent() -> None:
    """Ignore Ctrl-C, which reaches the whole process group: the parent decides when to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
