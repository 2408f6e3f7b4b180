"""Child processes that decode.

A Python of its own for each, with a line of JSON to and fro: multiprocessing's spawn would run the
caller's main script again, and its fork would take along the locks that torch's threads hold.
"""

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict

from client.data.decoding.chunk import Geometry, PixelChunk
from client.data.decoding.image import silence
from common.errors import DataError
from common.process_hardening import environment, keep_to_itself, python

_PROGRAM = "from client.data.decoding.processes import serve; serve()"


class Decoders:
    """Some children, each of which decodes one chunk at a time."""

    def __init__(self, children: list["subprocess.Popen[str]"]) -> None:
        self._idle: queue.Queue[subprocess.Popen[str]] = queue.Queue()
        for child in children:
            self._idle.put(child)

    def write(self, geometry: Geometry, chunk: PixelChunk) -> str:
        """`chunk.write(geometry)`, with its errors, in a child; from as many threads at once."""
        child = self._idle.get()
        try:
            reply = _ask(child, json.dumps([asdict(geometry), asdict(chunk)]))
        finally:
            self._idle.put(child)
        if "errno" in reply:
            raise OSError(reply["errno"], reply["strerror"])
        if "fault" in reply:
            raise DataError(reply["fault"])
        return str(reply["digest"])


@contextmanager
def decoders(number: int) -> Iterator[Decoders]:
    """Start `number` children; they end with the block, or with this process."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(  # noqa: S603 - this interpreter, a fixed program
                    python("-c", _PROGRAM),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment() | {"PYTHONPATH": path},
                    text=True,
                )
            )
            for _ in range(number)
        ]
        yield Decoders(children)


def serve() -> None:
    """What a child does: a chunk a line on stdin, a reply a line on stdout, until stdin ends."""
    # Ctrl-C reaches all processes of the terminal; the parent ends the children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_to_itself()
    silence()
    with suppress(BrokenPipeError), open(1, "wb", buffering=0, closefd=False) as replies:
        for line in sys.stdin:
            geometry, chunk = json.loads(line)
            reply = _reply(Geometry(**geometry), PixelChunk(**chunk))
            replies.write(json.dumps(reply).encode() + b"\n")


def _reply(geometry: Geometry, chunk: PixelChunk) -> dict[str, str | int | None]:
    try:
        return {"digest": chunk.write(geometry)}
    except DataError as error:
        return {"fault": str(error)}
    except OSError as error:
        return {"errno": error.errno, "strerror": error.strerror}


def _ask(child: "subprocess.Popen[str]", line: str) -> dict[str, str]:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        print(line, file=child.stdin, flush=True)
        answer = child.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:
        raise DataError("a process that decodes images died; is memory short?")
    reply: dict[str, str] = json.loads(answer)
    return reply
