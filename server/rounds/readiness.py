"""Waits until enough sites are ready for a study, before its first round costs them anything."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from threading import Event

from flwr.app import Message
from flwr.serverapp import Grid

from common.backoff import Backoff
from common.errors import FederationError
from common.untrusted_text import shown
from common.wire.messages import proposal_content, read_name
from common.wire.proposal import Proposal
from common.wire.reply_status import ASKED, AWAY, IN_TIME, READY, Kind, ReplyStatus
from server.rounds.messaging import Roster, TakesBack, sound

_ASK_AGAIN_SECONDS = 5.0
"""The pause between a site's answer and the next question to it; a `ready` counts twice as long."""
_ANSWER_SECONDS, _LONGEST_ANSWER_SECONDS = 30.0, 240.0
"""The first and the longest time that a site has to answer. A site that still computes its features
runs out of time and is asked again with twice as long, so that a slow machine, too, reaches a point
from which it can continue."""
_TELL_SECONDS, _LOOK_SECONDS = 2.0, 0.2
"""The longest time between two calls of `tell`, and the time between two looks for answers."""

Tell = Callable[[dict[str, ReplyStatus]], None]
"""Called with the last answer of each site of the cohort. While a site is asked again, this is its
answer to the previous question."""


def wait_until_ready(proposal: Proposal, grid: Grid, tell: Tell, halt: Event) -> None:
    """Return once `fewest_sites` training sites have approved the study and opened their cells.

    There is no deadline, because people take their time to read a study. Every site is asked
    repeatedly, because a site that was ready may have gone, or its hours may be over.

    Args:
        proposal: the study as it is shown to the sites.
        grid: reaches the sites.
        tell: called when an answer changes, and at least every two seconds; an exception that it
            raises ends the wait.
        halt: once set, the function returns whether or not the sites are ready.
    """
    study, asking, told, due = (
        proposal.study,
        _Asking(proposal, grid),
        dict[str, ReplyStatus](),
        0.0,
    )
    training = set(study.training_sites)
    while not halt.is_set():
        asking.look(now := time.monotonic())
        if asking.said != told or now >= due:
            told, due = dict(asking.said), now + _TELL_SECONDS
            tell(dict(told))
        if len(asking.ready(now) & training) >= study.fewest_sites:
            asking.take_back()
            return
        halt.wait(min(_LOOK_SECONDS, _ASK_AGAIN_SECONDS))


@dataclass(frozen=True)
class _Asked:
    """A question that a site has not answered yet."""

    site: str
    end: float
    """When the answer is late, in seconds of the monotonic clock."""


class _Asking:
    """The open questions, one per site: a site that is slow or gone holds up no other."""

    def __init__(self, proposal: Proposal, grid: Grid) -> None:
        self._study = proposal.study
        self._content = proposal_content(proposal)
        self._grid = grid
        self._roster = Roster(grid, set(self._study.cohort))
        self._under_way: dict[str, _Asked] = {}
        self._due = dict.fromkeys(self._study.cohort, 0.0)
        self._patience = {
            site: Backoff(_ANSWER_SECONDS, _LONGEST_ANSWER_SECONDS) for site in self._study.cohort
        }
        self._ready: dict[str, float] = {}
        self.said: dict[str, ReplyStatus] = dict.fromkeys(self._study.cohort, AWAY)

    def ready(self, now: float) -> set[str]:
        """Return the sites whose last answer is `ready` and is recent enough to count."""
        return {
            site
            for site, at in self._ready.items()
            if self.said[site] is READY and now - at <= 2 * _ASK_AGAIN_SECONDS
        }

    def look(self, now: float) -> None:
        """Take the answers that came, give up the late ones, and ask the sites that are due."""
        present = self._roster.present(self._within(_ANSWER_SECONDS))
        self._take(now)
        self._give_up(now, present)
        for site, word in self.said.items():
            if site not in present:
                self.said[site] = AWAY
            elif word is AWAY:
                self.said[site], self._due[site] = ASKED, now
        waiting = {asked.site for asked in self._under_way.values()}
        for site, node in present.items():
            if site not in waiting and now >= self._due[site]:
                self._ask(site, node, now)
        self._take(now)

    def take_back(self) -> None:
        """Withdraw every open question."""
        self._withdraw(list(self._under_way))

    def _ask(self, site: str, node: int, now: float) -> None:
        wait = self._within(self._patience[site].seconds)
        message = Message(self._content, node, "query.prepare", ttl=wait)
        for identifier in self._grid.push_messages([message]):
            self._under_way[identifier] = _Asked(site, now + wait)

    def _take(self, now: float) -> None:
        if not self._under_way:
            return
        for reply in self._grid.pull_messages(list(self._under_way)):
            asked = self._under_way.pop(reply.metadata.reply_to_message_id, None)
            if asked is not None:
                said = sound(reply)
                word = said if isinstance(said, ReplyStatus) else _ready(asked.site, said)
                self.said[asked.site] = word
                self._due[asked.site] = now + _ASK_AGAIN_SECONDS
                if word is READY:
                    self._ready[asked.site] = now
                elif word == IN_TIME:
                    self._patience[asked.site].grow()

    def _give_up(self, now: float, present: Collection[str]) -> None:
        late = {name: one for name, one in self._under_way.items() if now >= one.end}
        gone = [name for name, one in self._under_way.items() if one.site not in present]
        for asked in late.values():
            self.said[asked.site] = IN_TIME
            self._due[asked.site] = now + _ASK_AGAIN_SECONDS
            self._patience[asked.site].grow()
        self._withdraw([*late, *gone])

    def _withdraw(self, identifiers: Collection[str]) -> None:
        for identifier in identifiers:
            self._under_way.pop(identifier, None)
        if identifiers and isinstance(self._grid, TakesBack):
            self._grid.withdraw(identifiers)

    def _within(self, seconds: float) -> float:
        """Return `seconds`, or the round's deadline if that is shorter."""
        return min(self._study.round.deadline_seconds, seconds)


def _ready(site: str, reply: Message) -> ReplyStatus:
    try:
        name = read_name(reply)
    except FederationError as error:
        return ReplyStatus(Kind.LEFT_OUT, str(error))
    return READY if name == site else ReplyStatus(Kind.LEFT_OUT, f"calls itself {shown(name, 64)}")
