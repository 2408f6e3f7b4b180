"""What a lab wants to see at once: whether its client runs, and the state of each study."""

from dataclasses import asdict, dataclass
from typing import Any

from client.consent.proposals import Proposals
from client.home import SiteHome
from client.ledger.ledger import Ledger
from client.ledger.summary import left
from client.policy.policy import Policy, read_policy
from client.service.journal import StudyNote, read_notes
from client.service.service import runs
from client.site import open_site
from common.errors import HemofedError
from common.privacy.accounting import epsilon
from common.text import count


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The state and the cost of a study at this site."""

    study: str
    """The study's name."""
    digest: str
    """The study's digest."""
    state: str
    """The state in `client.service.journal`; "not asked yet" before the server's first question."""
    round: int
    """The last round that this site answered."""
    rounds: int
    """The number of rounds that the study plans."""
    spent: float | None
    """Epsilon, at the policy's delta; None: the ledger or the policy cannot be read."""
    unprotected: int
    """Answers that left without privacy. No epsilon counts them."""
    since: str
    """When the study came into this state: UTC, ISO 8601; "" before the first question."""

    @property
    def cost(self) -> str:
        """The epsilon and the unprotected answers, in words."""
        if self.spent is None:
            return "not known"
        bare = f"{count(self.unprotected, 'answer')} WITHOUT privacy" if self.unprotected else ""
        noised = f"epsilon {self.spent:.3g}" if self.spent or not bare else ""
        return " + ".join(filter(None, (noised, bare)))


@dataclass(frozen=True, kw_only=True)
class SiteOverview:
    """The state of a site: its client, its studies and its budget."""

    runs: bool
    """Whether the client's process runs."""
    paused: bool
    """Whether a person has paused the site."""
    studies: tuple[Standing, ...]
    left: float | None
    """The largest epsilon that one more study may have; None: ledger or policy cannot be read."""
    lifetime: float | None
    """The policy's lifetime epsilon; None: the policy cannot be read."""
    fault: str
    """Why the ledger or the policy cannot be read; "" when they can."""

    def as_dict(self) -> dict[str, Any]:
        """All fields, as JSON types."""
        return asdict(self)

    @property
    def budget(self) -> str:
        """What is left for one more study, in words, or why that is not known."""
        if self.left is None:
            return f"spent and left are not known: {self.fault}"
        return f"left for one more study: epsilon {self.left:.3g} of {self.lifetime:g} for life"


def overview(home: SiteHome) -> SiteOverview:
    """Read the state of the site in `home`.

    An unreadable ledger or policy ends up in `SiteOverview.fault`.

    Raises:
        ConfigError: there is no readable site.yaml.
        FederationError: a kept proposal was altered.
    """
    site = open_site(home.site_file)
    notes = read_notes(home.studies)
    for proposal in Proposals(home).all():
        study = proposal.study
        new = StudyNote(study.name, "not asked yet", 0, study.rounds, "")
        notes.setdefault(study.digest, new)
    spent, remains, lifetime, fault = dict[str, tuple[float, int]](), None, None, ""
    try:
        policy = read_policy(site.policy)
        lifetime = policy.lifetime_epsilon
        with Ledger.read(site.ledger) as ledger:
            spent = {digest: _spent(ledger, digest, policy) for digest in notes}
            remains = left(ledger, policy.delta, lifetime)
    except HemofedError as error:
        fault = str(error)
    return SiteOverview(
        runs=runs(home),
        paused=home.paused.exists(),
        studies=tuple(_standing(digest, note, spent) for digest, note in notes.items()),
        left=remains,
        lifetime=lifetime,
        fault=fault,
    )


def _spent(ledger: Ledger, digest: str, policy: Policy) -> tuple[float, int]:
    """A study's epsilon, and the number of its answers that left without privacy."""
    bare = sum(row.study == digest for row in ledger.rows("unprotected"))
    return epsilon(ledger.events(digest), policy.delta), bare


def _standing(digest: str, note: StudyNote, spent: dict[str, tuple[float, int]]) -> Standing:
    paid, bare = spent.get(digest, (None, 0))
    return Standing(
        study=note.study,
        digest=digest,
        state=note.state,
        round=note.round,
        rounds=note.rounds,
        spent=paid,
        unprotected=bare,
        since=note.since,
    )
