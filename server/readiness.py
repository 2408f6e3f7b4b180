"""Whether enough sites stand ready for a study, before its first round is paid for."""

from collections.abc import Callable, Iterator, Mapping
from threading import Event
from typing import Literal

from flwr.app import Message
from flwr.serverapp import Grid

from common.config import Study
from common.errors import FederationError
from common.plain_text import shown
from common.proposal import Proposal
from common.protocol import proposal_content, read_name
from server.exchange import NoReply, Roster, exchange

_ASK_AGAIN_SECONDS = 5.0
_ANSWER_SECONDS, _LONGEST_ANSWER_SECONDS = 30.0, 240.0
"""A site that still computes its features is asked again rather than waited for; each time it has
twice as long, so that a slow machine too gets to what it can keep."""

Said = NoReply | Literal["ready"]
Tell = Callable[[dict[str, Said]], None]
"""Called with what each site of the cohort said last; of one that is being asked again that is its
answer to the question before."""

NOT_CONNECTED, ASKED = NoReply("not connected"), NoReply("asked")


def wait_until_ready(proposal: Proposal, grid: Grid, tell: Tell, halt: Event) -> None:
    """Return once `round.min_sites` training sites have approved the study and opened their cells.

    However long that takes: people read studies at their own pace. All are asked each time, for a
    site that was ready may have gone, or its hours may be over. `tell` may raise to give up.
    """
    study = proposal.study
    patience = _ANSWER_SECONDS
    training = {site for site, member in study.cohort.items() if member.role == "train"}
    said: dict[str, Said] = dict.fromkeys(study.cohort, NOT_CONNECTED)
    while not halt.is_set():
        ready: set[str] = set()
        present = Roster(grid, set(study.cohort)).present(_within(study, _ANSWER_SECONDS))
        for site, before in said.items():
            if site not in present:
                said[site] = NOT_CONNECTED
            elif before is NOT_CONNECTED:
                said[site] = ASKED
        tell(dict(said))
        for site, word in _ask(proposal, grid, present, _within(study, patience)):
            said[site] = word
            tell(dict(said))
            ready |= {site} if word == "ready" else set()
            if len(ready & training) >= study.round.min_sites:
                return
        patience = min(2 * patience, _LONGEST_ANSWER_SECONDS)
        halt.wait(_ASK_AGAIN_SECONDS)


def _within(study: Study, seconds: float) -> float:
    """So many seconds, but no more than a round has."""
    return min(study.round.deadline_seconds, seconds)


def _ask(
    proposal: Proposal, grid: Grid, present: Mapping[str, int], wait: float
) -> Iterator[tuple[str, Said]]:
    """What the sites say to `query.prepare`, as they say it."""
    content = proposal_content(proposal)
    messages = {
        site: Message(content, node, "query.prepare", ttl=wait) for site, node in present.items()
    }
    for site, reply in exchange(grid, messages, wait):
        yield site, reply if isinstance(reply, NoReply) else _ready(site, reply)


def _ready(site: str, reply: Message) -> Said:
    try:
        name = read_name(reply)
    except FederationError as error:
        return NoReply(str(error))
    return "ready" if name == site else NoReply(f"calls itself {shown(name, 64)}")
