"""Messages to the sites and their replies, over Flower's Grid, with every wait bounded."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol, runtime_checkable

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
"""Seconds between two looks for replies or sites."""


Reply = Message | ReplyStatus
"""A sound reply, or why there is none."""

_MISSING = {
    ErrorCode.MESSAGE_UNAVAILABLE: IN_TIME,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: IN_TIME,
    ErrorCode.NODE_UNAVAILABLE: AWAY,
    LOST: QUESTION_LOST,
    UNREADABLE: ReplyStatus(Kind.LEFT_OUT, "the reply cannot be read"),
}
"""What Flower, or the listener, puts in the place of a reply that did not come."""


def exchange(
    grid: Grid, messages: Mapping[str, Message], deadline: float
) -> Iterator[tuple[str, Reply]]:
    """Send a message to each site; yield (site, reply) as they come, then the missing ones.

    deadline: seconds after which the sites still silent are given up.
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
    """A Grid that knows each connected node's site by its key; of another one the nodes are asked.

    In a deployment a node's own word for its name would let one site stand in for another.
    """

    def site_names(self) -> dict[int, str]: ...


@runtime_checkable
class TakesBack(Protocol):
    """A Grid that keeps what comes until it is read."""

    def withdraw(self, message_ids: Collection[str]) -> None: ...


class Roster:
    """Which node is which site. Nodes may come, go, and come back under another id."""

    def __init__(self, grid: Grid, cohort: set[str]) -> None:
        self._grid = grid
        self._cohort = cohort
        self._names: dict[int, str] = {}

    def present(self, deadline: float) -> dict[str, int]:
        """Site -> node id, for the cohort's sites that are connected at this moment.

        Raises FederationError when two nodes go by one name.
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
        """Wait until `count` sites are there, not counting those of `but`.

        tell: called with the sites that are not there, at each look. Raises FederationError after
        `deadline` seconds.
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
    """A tenth of the seconds waited so far: a fast site is not kept, a slow one costs few looks.

    looked: seconds that the last look took; a Grid may wait there itself.
    """
    pause = min(max(waited / 10, _SHORTEST_PAUSE), LONGEST_PAUSE)
    time.sleep(max(pause - looked, 0.0))


def _push(grid: Grid, messages: Mapping[str, Message]) -> dict[str, str]:
    """Message id -> site. One push a message: a Grid may skip one and return fewer ids."""
    waiting: dict[str, str] = {}
    for site, message in messages.items():
        for identifier in grid.push_messages([message]):
            waiting[identifier] = site
    return waiting


def sound(reply: Message) -> Reply:
    """The reply, or what it says in place of an answer."""
    if reply.has_error() and reply.error.code in _MISSING:
        return _MISSING[reply.error.code]
    if reply.has_error():
        return ReplyStatus(Kind.FAILED, f"Flower code {reply.error.code}")
    try:
        return read_refusal(reply) or read_absence(reply) or reply
    except Exception as error:
        return unusable(error)


def unusable(error: Exception) -> ReplyStatus:
    """What became of a reply at whose reading `error` was raised: that site's, and nobody else's.

    Raises it again when it is this machine's: memory or a disk that is full.
    """
    if isinstance(error, MemoryError | OSError):
        raise error
    known = isinstance(error, HemofedError)
    words = str(error) if known else f"it cannot be read ({type(error).__name__})"
    return ReplyStatus(Kind.LEFT_OUT, words)
