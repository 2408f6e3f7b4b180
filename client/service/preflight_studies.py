"""What a site's check says about the studies that it knows: how many of its cells take part."""

from collections.abc import Iterable
from typing import Literal

from client.consent.approvals import SignedApprovals
from client.consent.decisions import Decision
from client.consent.eligibility import taking_part
from client.consent.proposals import Proposals
from client.home import SiteHome
from common.config.loading import load
from common.config.study import Site, Study
from common.errors import HemofedError
from common.text import count

Verdict = Literal["ok", "warning", "wrong"]


def look_at_studies(home: SiteHome, site: Site) -> tuple[Verdict, str]:
    """Return the worst verdict on the approved and the proposed studies, and a text on each.

    The text holds counts of cells, which stay at the site. An approved study in which none of the
    site's cells can take part is "wrong". A declared number of units that is far off is a
    "warning", and so is any fault of a study that nobody has approved.
    """
    studies = studies_of(home, SignedApprovals(home).approved())
    approved = {study.digest for study in studies}
    proposed = [one.study for one in Proposals(home).all() if one.study.digest not in approved]
    if not (studies or proposed):
        return "ok", "none is proposed"
    looks = [_look(site, study, True) for study in studies]
    looks += [_look(site, study, False) for study in proposed]
    verdicts = [verdict for verdict, _ in looks]
    worst: Verdict = next((v for v in ("wrong", "warning") if v in verdicts), "ok")
    return worst, "; ".join(said for _, said in looks)


def studies_of(home: SiteHome, approved: Iterable[Decision]) -> list[Study]:
    """The studies that these decisions approved, read from the home.

    Raises ConfigError for a file that is missing or is no valid study.
    """
    return [load(Study, home.approvals / f"{decision.digest}.yaml") for decision in approved]


def _look(site: Site, study: Study, approved: bool) -> tuple[Verdict, str]:
    bad: Verdict = "wrong" if approved else "warning"
    name = study.name if approved else f"{study.name} (not approved)"
    try:
        told = taking_part(site, study)
    except HemofedError as error:
        return bad, f"{name}: {error}"
    if told.nothing:
        return bad, f"{name}: {told.nothing}"
    if told.differs:
        return "warning", f"{name}: {told.differs}"
    return "ok", f"{name}: {count(told.units['train'], told.unit)} can train"
