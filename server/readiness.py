"""Whether enough sites stand ready for a study, before its first round is paid for."""

from collections.abc import Callable
from threading import Event

from flwr.app import Message
from flwr.serverapp import Grid

from common.errors import FederationError
from common.proposal import Proposal
from common.protocol import proposal_content, read_name
from server.exchange import Roster, exchange

_ASK_AGAIN_SECONDS = 5.0

Tell = Callable[[dict[str, str]], None]
"""Called with what each site of the cohort says: ready, refused with its reason, or absent."""


def wait_until_ready(proposal: Proposal, grid: Grid, tell: Tell, halt: Event) -> None:
    """Return once `round.min_sites` training sites have approved the study and opened their cells.

    However long that takes: people read studies at their own pace. All are asked each time, for a
    site that was ready may have gone, or its hours may be over. `tell` may raise to give up.
    """
    study = proposal.study
    while not halt.is_set():
        said = _ask(proposal, grid, list(study.cohort))
        tell(said)
        training = [site for site, member in study.cohort.items() if member.role == "train"]
        if sum(said[site] == "ready" for site in training) >= study.round.min_sites:
            return
        halt.wait(_ASK_AGAIN_SECONDS)


def _ask(proposal: Proposal, grid: Grid, sites: list[str]) -> dict[str, str]:
    """What the sites say to `query.prepare`."""
    wait = proposal.study.round.deadline_seconds
    present = Roster(grid, set(sites)).present(wait)
    content = proposal_content(proposal)
    messages = {
        site: Message(content, node, "query.prepare", ttl=wait) for site, node in present.items()
    }
    said = dict.fromkeys(sites, "not connected")
    for site, reply in exchange(grid, messages, wait):
        said[site] = reply if isinstance(reply, str) else _ready(site, reply)
    return said


def _ready(site: str, reply: Message) -> str:
    try:
        name = read_name(reply)
    except FederationError as error:
        return str(error)
    return "ready" if name == site else f"calls itself {name:.64}"
