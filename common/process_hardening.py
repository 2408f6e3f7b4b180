"""What a process that holds cells or keys does first: it keeps to itself.

Files that it makes are its user's alone, whatever umask it was started with, and it leaves no core.
Python takes no module from the folder it was started in, here and in the processes that it starts.
A process of a deployment holds keys, or cells beside them; no other process of the same user reads
its memory or its environment. Those of a simulation can be measured.
"""

import ctypes
import os
import resource
import signal
import sys
from threading import Event

_PR_SET_DUMPABLE = 4
_SAFE_PATH = "PYTHONSAFEPATH"
_MODULES = "PYTHONPATH"


def keep_to_itself() -> None:
    """Take the module's rules on; call it before anything is opened."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ.update(environment())


def keep_secrets() -> None:
    """The same, in a process of a deployment.

    On Linux PR_SET_DUMPABLE keeps tracers out, and a core from a handler that asks for no limit.
    """
    keep_to_itself()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def told_to_stop() -> Event:
    """An event that is set when the process is asked to end, by a signal, Ctrl-C or a terminal that
    is closed; what it started would live on otherwise. `nohup` keeps the last from it."""
    halt = Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: halt.set())
    return halt


def python(*arguments: str) -> list[str]:
    """A command for this interpreter that takes no module from the folder it is started in."""
    return [sys.executable, "-P", *arguments]


def environment() -> dict[str, str]:
    """This process's, for one that it starts.

    A PYTHONPATH is its person's word, where it names a folder. What is relative to the folder that
    a process is started in names another one each time, and is left out: an empty entry, as
    `export PYTHONPATH=$PYTHONPATH:DIR` leaves one, is that folder itself.
    """
    return os.environ | {_SAFE_PATH: "1", _MODULES: os.pathsep.join(named_folders())}


def named_folders() -> list[str]:
    """The folders that PYTHONPATH names, wherever a process is started."""
    entries = os.environ.get(_MODULES, "").split(os.pathsep)
    return [entry for entry in entries if os.path.isabs(entry)]
