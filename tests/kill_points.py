"""Kills a process at its k-th step that anybody else can see: k = 1, 2, ... are all of its moments.

A process that is killed leaves what it wrote, sent, renamed and committed, and nothing else of it.
So two moments between which it does none of these are one, and it is enough to be killed before
each step. Steps are counted in Python: `os`, the statements of a transaction in SQLite, sockets.
"""

import os
import signal
import socket
import sqlite3
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

_STEPS = ("write", "replace", "link", "unlink", "ftruncate", "utime")
_AGAIN = "again"
_unlink = os.unlink
_connect = sqlite3.connect
Result = TypeVar("Result")


class KillPoints:
    """Counts the steps of a process within the stretch of its work that an order names."""

    def __init__(self) -> None:
        self._order, self._left, self._next = Path(), 0, ""
        for name in _STEPS:
            setattr(os, name, self._counted(getattr(os, name)))
        socket.socket.sendall = self._counted(socket.socket.sendall)  # type: ignore[method-assign]
        sqlite3.connect = self._connected  # type: ignore[assignment]

    def await_order(self, order: Path) -> None:
        """Count nothing, also where a process that this one was forked from did."""
        self._order, self._left = order, 0

    def begin(self, stretch: str) -> None:
        """Another stretch of work begins: count its steps if that is ordered.

        Whoever begins it first takes the order away. What is started again is killed again, one
        step later, if the order says so.
        """
        self._left, self._next = 0, ""
        if self._order.exists():
            named, step, again = self._order.read_text().split()
            if named == stretch:
                self._left = int(step)
                self._next = f"{named} {self._left + 1} {again}" if again == _AGAIN else ""
                _unlink(self._order)

    def _step(self, what: str) -> None:
        """Count a step, or be killed before it; what it was is in a file beside the order."""
        self._left -= 1
        if self._left == 0:
            with _died_at(self._order).open("a") as told:
                told.write(f"{what}\n")
            if self._next:
                self._order.write_text(self._next)
            os.kill(os.getpid(), signal.SIGKILL)

    def _counted(self, call: Callable[..., Result]) -> Callable[..., Result]:
        @wraps(call)
        def counted(*words: Any, **named: Any) -> Result:
            if call is not _unlink or os.path.lexists(words[0]):  # else there is nothing to see
                self._step(f"{call.__name__} {_name_of(words)}".strip())
            return call(*words, **named)

        return counted

    def _connected(self, *words: Any, **named: Any) -> sqlite3.Connection:
        step = self._step

        class Counted(sqlite3.Connection):
            def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
                if self.in_transaction:  # what is read outside of one changes nothing
                    step(statement.split(" ")[0])
                return super().execute(statement, *values)

        return _connect(*words, **named, factory=Counted)


def order_kill(order: Path, stretch: str, step: int, *, again: bool = False) -> None:
    """Kill whoever awaits this order before that step (from 1 on) of the stretch of its work.

    again: what is started in its place is killed one step later, and so on, until the stretch is
    over.
    """
    _died_at(order).unlink(missing_ok=True)
    draft = order.with_suffix(".draft")
    draft.write_text(f"{stretch} {step} {_AGAIN if again else 'once'}")
    draft.replace(order)


def deaths(order: Path) -> list[str]:
    """Before which steps processes were killed by the order."""
    told = _died_at(order)
    return told.read_text().splitlines() if told.exists() else []


def _died_at(order: Path) -> Path:
    return order.with_suffix(".died")


def _name_of(words: tuple[Any, ...]) -> str:
    """What the file that a step changes is called."""
    named = [Path(word).name for word in words if isinstance(word, str | Path)]
    return named[-1] if named else ""
