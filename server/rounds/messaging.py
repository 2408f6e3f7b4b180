"""Sends messages to the sites and takes their replies over Flower's Grid; every wait is bounded."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol, TypeVar, runtime_checkable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from common.errors import FederationError, HemofedError
from common.wire.flower_internals import ErrorCode
from common.wire.messages import read_absence, read_name, read_refusal
from common.wire.reply_status import (
    AWAY,
    IN_TIME,
    LOST,
    QUESTION_LOST,
    UNREADABLE,
    Kind,
    ReplyStatus,
)

_SHORTEST_PAUSE, LONGEST_PAUSE = 0.01, 0.2
"""The least and the greatest number of seconds between two looks for replies or sites."""


T = TypeVar("T")
Reply = Message | ReplyStatus
"""A sound reply, or the reason why there is none."""

_MISSING = {
    ErrorCode.MESSAGE_UNAVAILABLE: IN_TIME,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: IN_TIME,
    ErrorCode.NODE_UNAVAILABLE: AWAY,
    LOST: QUESTION_LOST,
    UNREADABLE: ReplyStatus(Kind.LEFT_OUT, "the reply cannot be read"),
}
"""Flower's, or the listener's, error code in place of a reply -> the status that it stands for."""


def exchange(
    grid: Grid, messages: Mapping[str, Message], deadline: float
) -> Iterator[tuple[str, Reply]]:
    """Send each site its message, and yield (site, reply) as the replies come.

    The sites that have not answered after `deadline` seconds are yielded last, as late. If the
    grid keeps replies until they are read, the messages to these sites are withdrawn.
    """
    waiting = _push(grid, messages)
    now = last = time.monotonic()
    end = now + deadline
    while waiting and now < end:
        looked = now
        replies = list(grid.pull_messages(list(waiting)))
        for reply in replies:
            site = waiting.pop(reply.metadata.reply_to_message_id, None)
            if site is not None:
                yield site, sound(reply)
        now = time.monotonic()
        if replies:
            last = now
        elif waiting:
            _pause(now - last, now - looked)
            now = time.monotonic()
    if isinstance(grid, TakesBack):
        grid.withdraw(list(waiting))
    for site in waiting.values():
        yield site, ReplyStatus(Kind.LATE, f"within {deadline:g} s")


@runtime_checkable
class KnowsSites(Protocol):
    """A Grid that knows from a connected node's key which site it is.

    The nodes of any other Grid are asked for their names. In a deployment that would let one site
    pass for another.
    """

    def site_names(self) -> dict[int, str]:
        """Return node id -> site for the connected nodes."""
        ...


@runtime_checkable
class TakesBack(Protocol):
    """A Grid that keeps replies until they are read, so that it has to be told to drop some."""

    def withdraw(self, message_ids: Collection[str]) -> None:
        """Drop these messages and their replies: nobody waits for them any more."""
        ...


class Roster:
    """Tells which node is which site. Nodes may come, go, and come back with another id."""

    def __init__(self, grid: Grid, cohort: set[str]) -> None:
        self._grid = grid
        self._cohort = cohort
        self._names: dict[int, str] = {}

    def present(self, deadline: float) -> dict[str, int]:
        """Return site -> node id for the cohort's sites that are connected at this moment.

        A node that is asked for its name has `deadline` seconds to answer.

        Raises:
            FederationError: two nodes have the same name.
        """
        if isinstance(self._grid, KnowsSites):
            self._names = self._grid.site_names()
            return self._by_name()
        nodes = set(self._grid.get_node_ids())
        self._names = {node: name for node, name in self._names.items() if node in nodes}
        unknown = {str(node): node for node in sorted(nodes - set(self._names))}
        queries = {key: Message(RecordDict(), node, "query") for key, node in unknown.items()}
        for key, reply in exchange(self._grid, queries, deadline):
            if isinstance(reply, Message):
                self._names[unknown[key]] = read_name(reply)
        return self._by_name()

    def wait_for(
        self,
        count: int,
        deadline: float,
        but: Collection[str] = (),
        tell: Callable[[set[str]], None] | None = None,
    ) -> dict[str, int]:
        """Wait until `count` sites other than those in `but` are connected; return site -> node id.

        Args:
            count: how many sites must be connected.
            deadline: the longest wait, in seconds.
            but: sites that neither count nor are returned.
            tell: called at each look with the sites that are missing.

        Raises:
            FederationError: fewer than `count` are connected after `deadline` seconds.
        """
        started = time.monotonic()
        while len(sites := self._present_but(but, deadline)) < count:
            waited = time.monotonic() - started
            missing = self._cohort - set(sites) - set(but)
            if tell:
                tell(missing)
            if waited > deadline:
                raise FederationError(
                    f"{len(sites)} of at least {count} sites are connected after {deadline:g} s; "
                    f"missing: {', '.join(sorted(missing))}"
                )
            _pause(waited)
        return sites

    def _present_but(self, but: Collection[str], deadline: float) -> dict[str, int]:
        present = self.present(deadline)
        return {site: node for site, node in present.items() if site not in but}

    def _by_name(self) -> dict[str, int]:
        sites: dict[str, int] = {}
        for node, name in sorted(self._names.items()):
            if name in sites:
                raise FederationError(f"nodes {sites[name]} and {node} both go by {name!r}")
            if name in self._cohort:
                sites[name] = node
        return dict(sorted(sites.items()))


def _pause(waited: float, looked: float = 0.0) -> None:
    """Sleep for a tenth of the time waited so far, within the bounds of a pause.

    So a fast site is noticed soon, and a slow one costs few looks. The `looked` seconds that the
    last look took are subtracted, because a Grid may wait in it.
    """
    pause = min(max(waited / 10, _SHORTEST_PAUSE), LONGEST_PAUSE)
    time.sleep(max(pause - looked, 0.0))


def _push(grid: Grid, messages: Mapping[str, Message]) -> dict[str, str]:
    """Push the messages and return message id -> site.

    Each message is pushed by itself, because a Grid may skip some and return fewer ids.
    """
    waiting: dict[str, str] = {}
    for site, message in messages.items():
        for identifier in grid.push_messages([message]):
            waiting[identifier] = site
    return waiting


def sound(reply: Message) -> Reply:
    """Return the reply if it holds an answer, and otherwise the status that it stands for."""
    if reply.has_error() and reply.error.code in _MISSING:
        return _MISSING[reply.error.code]
    if reply.has_error():
        return ReplyStatus(Kind.FAILED, f"Flower code {reply.error.code}")
    try:
        return read_refusal(reply) or read_absence(reply) or reply
    except Exception as error:
        return unusable(error)


def read_reply(reply: Reply, read: Callable[[Message], T]) -> T | ReplyStatus:
    """Return what `read` makes of a reply, or why there is nothing: only that reply is lost.

    Raises:
        MemoryError, OSError: this machine is out of memory or its disk fails.
    """
    if isinstance(reply, ReplyStatus):
        return reply
    try:
        return read(reply)
    except Exception as error:  # whatever a hostile site sends, the round continues
        return unusable(error)


def unusable(error: Exception) -> ReplyStatus:
    """Return the status of a reply whose reading raised `error`: only that site's reply is lost.

    An error of this machine (MemoryError, OSError: its memory or disk is full) is raised again.

    >>> print(unusable(ValueError("not a number")))
    left out: it cannot be read (ValueError)
    """
    if isinstance(error, MemoryError | OSError):
        raise error
    known = isinstance(error, HemofedError)
    words = str(error) if known else f"it cannot be read ({type(error).__name__})"
    return ReplyStatus(Kind.LEFT_OUT, words)
