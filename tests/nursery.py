"""Processes to be killed: each forks from one that has loaded what all of them need for seconds."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
_FORKS = """
import json, os, sys, traceback
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            child(*json.loads(line))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Nursery:
    """One child at a time. It prints to standard error: standard output is the nursery's."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin and process.stdout
        self._asks, self._told = process.stdin, process.stdout

    def starts(self, *words: object) -> int:
        """The process of a child that is given `words`, each as its text."""
        print(json.dumps([str(word) for word in words]), file=self._asks, flush=True)
        return int(self._told.readline())

    def ended(self) -> int:
        """How the child ended, once it has: its exit code, or the signal as a negative number."""
        return int(self._told.readline())


@contextmanager
def nursery(code: str, *arguments: object) -> Iterator[Nursery]:
    """The nursery for a Python text that defines `child` of some words; `arguments` are its own."""
    command = [sys.executable, "-c", code + _FORKS, *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Nursery(process)
