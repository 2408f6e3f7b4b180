"""Processes to be killed: each forks from one that has loaded what all of them need for seconds."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
_FORKS = """
import json, os, sys, traceback
for line in sys.stdin:
    asked = json.loads(line)
    if isinstance(asked, int):
        print(os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1]), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        try:
            child(*asked)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(pid, flush=True)
"""


class Nursery:
    """Starts children. They print to standard error: standard output is the nursery's."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin and process.stdout
        self._asks, self._told = process.stdin, process.stdout
        self._last = 0

    def starts(self, *words: object) -> int:
        """The process of a child that is given `words`, each as its text."""
        self._last = self._asked([str(word) for word in words])
        return self._last

    def ended(self, child: int | None = None) -> int:
        """How a child, or the last one, ended, once it has: its exit code, or the signal as a
        negative number."""
        return self._asked(child or self._last)

    def _asked(self, what: list[str] | int) -> int:
        print(json.dumps(what), file=self._asks, flush=True)
        return int(self._told.readline())


@contextmanager
def nursery(code: str, *arguments: object) -> Iterator[Nursery]:
    """The nursery for a Python text that defines `child` of some words; `arguments` are its own.

    What still lives of its children, and of theirs, at the end of the block ends with it.
    """
    command = [sys.executable, "-c", code + _FORKS, *map(str, arguments)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield Nursery(process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
