"""Whether enough sites stand ready for a study, before its first round is paid for."""

from collections.abc import Callable, Iterator
from threading import Event

from flwr.app import Message
from flwr.serverapp import Grid

from common.errors import FederationError
from common.plain_text import shown
from common.proposal import Proposal
from common.protocol import proposal_content, read_name
from server.exchange import Roster, exchange

_ASK_AGAIN_SECONDS = 5.0
_ANSWER_SECONDS, _LONGEST_ANSWER_SECONDS = 30.0, 240.0
"""A site that still computes its features is asked again rather than waited for; each time it has
twice as long, so that a slow machine too gets to what it can keep."""

Tell = Callable[[dict[str, str]], None]
"""Called with what each site of the cohort says: ready, refused with its reason, or absent."""


def wait_until_ready(proposal: Proposal, grid: Grid, tell: Tell, halt: Event) -> None:
    """Return once `round.min_sites` training sites have approved the study and opened their cells.

    However long that takes: people read studies at their own pace. All are asked each time, for a
    site that was ready may have gone, or its hours may be over. `tell` may raise to give up.
    """
    study = proposal.study
    patience = _ANSWER_SECONDS
    training = [site for site, member in study.cohort.items() if member.role == "train"]
    while not halt.is_set():
        said = dict.fromkeys(study.cohort, "not connected")
        for site, word in _ask(proposal, grid, patience):
            said[site] = word
            tell(dict(said))
            if sum(said[site] == "ready" for site in training) >= study.round.min_sites:
                return
        tell(said)
        patience = min(2 * patience, _LONGEST_ANSWER_SECONDS)
        halt.wait(_ASK_AGAIN_SECONDS)


def _ask(proposal: Proposal, grid: Grid, patience: float) -> Iterator[tuple[str, str]]:
    """What the sites say to `query.prepare`, as they say it; "asked" until then."""
    deadline = proposal.study.round.deadline_seconds
    present = Roster(grid, set(proposal.study.cohort)).present(min(deadline, _ANSWER_SECONDS))
    wait = min(deadline, patience)
    content = proposal_content(proposal)
    messages = {
        site: Message(content, node, "query.prepare", ttl=wait) for site, node in present.items()
    }
    yield from ((site, "asked") for site in present)
    for site, reply in exchange(grid, messages, wait):
        yield site, reply if isinstance(reply, str) else _ready(site, reply)


def _ready(site: str, reply: Message) -> str:
    try:
        name = read_name(reply)
    except FederationError as error:
        return str(error)
    return "ready" if name == site else f"calls itself {shown(name, 64)}"
