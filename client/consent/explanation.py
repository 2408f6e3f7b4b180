"""A study in plain words, for the person who decides whether the site takes part."""

from collections.abc import Collection
from dataclasses import dataclass

from client.consent.eligibility import TakingPart, taking_part
from client.consent.obstacles import obstacles
from client.ledger.cost import StudyCost
from client.ledger.ledger import Ledger
from client.ledger.summary import beside_epsilon, left
from client.policy.policy import Policy, cohort_refusal, read_policy
from common.config.study import PrivacySpec, Site, Study
from common.errors import DataError, HemofedError, PrivacyError
from common.models import build, trainable
from common.models.parameter_vector import Layout
from common.privacy.accounting import epsilon, study_event
from common.privacy.masking.study_sum import study_sum
from common.privacy.planning.plan import cohort_of
from common.privacy.planning.score_precision import forecast
from common.privacy.planning.statistics_precision import statistics_forecast
from common.privacy.planning.threat_models import seen
from common.text import count

_LEAVES = {
    "none": "nothing",
    "noised": "confusion counts with noise, paid for from the budget",
    "exact": "exact confusion counts, losses and calibration: they describe patients",
}


@dataclass(frozen=True)
class Explanation:
    """What the study asks of the site, topic by topic, and what speaks against it."""

    topics: tuple[tuple[str, str], ...]
    obstacles: tuple[HemofedError, ...]
    """Why the study cannot train here; none: it can."""
    cells: TakingPart | None
    """The site's cells in the study; None where they cannot be opened, which is an obstacle."""


def explain(site: Site, study: Study, members: Collection[str]) -> Explanation:
    """What `study` means for `site`. Raises PrivacyError when the site has no policy.

    members: the active members of the registry that the site trusts.
    """
    policy, cells = read_policy(site.policy), _cells(site, study)
    topics = (
        ("study", f"{study.name}, digest {study.digest}"),
        ("description", study.description or "none given"),
        ("trains", _training(study)),
        ("together", _cohort(site, study, members)),
        ("your cells", cells.words if cells else "not known: they cannot be opened"),
        *([("by type", f"{cells.by_type} (train/validation/test)")] if cells else []),
        ("privacy", _privacy(study, StudyCost(study).noise_multiplier)),
        ("each round", _update(study)),
        ("of metrics", _metrics(site, policy, study)),
        *_statistics(study),
        (
            "never leave",
            "images, file names, patients' names, the exact counts of your training cells, errors",
        ),
        ("budget", _budget(site, policy)),
    )
    found = obstacles(site, policy, study)
    if fault := cohort_refusal(policy, study, members):
        said = f"of the registry's active members {fault}"
        found.append(PrivacyError(said, fault.reason))
    return Explanation(topics, tuple(found), cells)


def _cells(site: Site, study: Study) -> TakingPart | None:
    try:
        return taking_part(site, study)
    except DataError:
        return None


def _training(study: Study) -> str:
    start = study.model.weights or "random weights"
    part = "its head" if study.model.encoder == "frozen" else "all of it"
    return (
        f"{study.model.name} from {start}, {part}, to tell {len(study.cell_types)} cell types "
        f"apart ({', '.join(study.cell_types)}) in {study.image_side} pixels that show "
        f"{study.field_um:g} um; {count(study.rounds, 'round')}"
    )


def _cohort(site: Site, study: Study, members: Collection[str]) -> str:
    training = [name for name, member in study.cohort.items() if member.role == "train"]
    mine = study.cohort.get(site.name)
    if mine is None:
        role = "this site is not in it"
    elif mine.role == "train":
        role = f"this site trains, with {count(mine.units, 'unit')} declared"
    else:
        role = f"this site only evaluates ({mine.role})"
    needed = study.fewest_sites
    strangers = [name for name in training if name not in members]
    gone = f"; NOT active members, so they will not: {', '.join(strangers)}" if strangers else ""
    return f"{', '.join(training)} train, at least {needed} in each round{gone}; {role}"


def protection(privacy: PrivacySpec) -> str:
    """A study's privacy in a few words.

    >>> from common.config.study import PrivacySpec
    >>> protection(PrivacySpec(mode="none"))
    'without privacy: unbounded'
    >>> protection(PrivacySpec(mode="distributed", epsilon=3, colluders=0))
    'epsilon 3 at delta 1e-05 for each image, against the server, not against another site'
    """
    if privacy.mode == "none":
        return "without privacy: unbounded"
    whole = f"epsilon {privacy.epsilon:g} at delta {privacy.delta:g} for each {privacy.unit}"
    return whole + (f", {_against(privacy)}" if privacy.mode == "distributed" else "")


def _against(privacy: PrivacySpec) -> str:
    """Whom the epsilon of a study in mode distributed speaks of."""
    if not privacy.colluders:
        return "against the server, not against another site"
    return f"against the server with the help of {count(privacy.colluders, 'other site')}"


def _privacy(study: Study, noise: float) -> str:
    privacy = study.privacy
    if privacy.mode == "none":
        return (
            "NONE: unbounded. What leaves can be used to find out who was in the training cells; "
            "each answer is a row in the ledger that no epsilon speaks of"
        )
    bound = (
        f"at most {protection(privacy)}, over the whole study and "
        f"{count(privacy.spare_rounds, 'round')} that may have to be done again; gradients are "
        f"clipped at {privacy.max_grad_norm:g}"
    )
    if privacy.mode == "distributed":
        return f"{bound}; {_shared_noise(study)}"
    return f"{bound} and noise of {noise:.3g} times that is added here, before anything leaves"


def _shared_noise(study: Study) -> str:
    """Who adds the noise of a study in mode distributed, and what is left against all others."""
    event, cohort = study_event(study.privacy, study.rounds), cohort_of(study)
    alone = seen(event, cohort, insiders=cohort.sites - 1)
    return (
        f"noise of {event.noise_multiplier:.3g} times that is made of the shares of "
        f"{count(cohort.shares, 'site')}, for of {cohort.sites} that train "
        f"{cohort.colluders} may tell the server all they know and {cohort.dropouts} may be away. "
        f"This lab adds its share, {alone.noise_multiplier:.3g} times, before anything leaves. "
        "Against all others together that share is all there is: epsilon "
        f"{epsilon([alone], study.privacy.delta):.3g}"
    )


def _update(study: Study) -> str:
    model = build(study.model, len(study.cell_types), study.image_side, study.seed)
    if study.privacy.mode == "distributed":
        said = _masked(study, sum(value.numel() for value in trainable(model).values()))
    else:
        size, number = Layout.of(model).size, study.transport.up
        protected = "with the noise in it" if study.privacy.mode != "none" else "as it is"
        said = (
            f"one vector of {size:,} {number} numbers leaves, the change of the model, {protected}"
        )
    if study.model.centre:
        said += "; the first round's is the mean of the cells' features in place of training"
    return said


def _masked(study: Study, size: int) -> str:
    return (
        f"one sum of {size:,} integers of {study_sum(study, size).bits} bits leaves, of the "
        "clipped gradients with this lab's share of the noise, under masks: the server reads it "
        f"only within the sum over all sites of the round, {study.fewest_sites} or more"
    )


def _metrics(site: Site, policy: Policy, study: Study) -> str:
    said = f"the policy (metrics: {policy.metrics}) lets out {_LEAVES[policy.metrics]}"
    if policy.metrics != "noised" or study.privacy.mode == "none":
        return said
    sharp = forecast(study)
    if study.privacy.mode == "distributed" and site.name in study.training_sites:
        said += ", only summed under masks with the other sites' and with one noise for all"
    return (
        f"{said}; together up to epsilon {study.evaluation.epsilon:g} more; "
        f"{sharp.words if sharp else 'how sharp they are cannot be told without declared units'}"
    )


def _statistics(study: Study) -> list[tuple[str, str]]:
    """The topic of a study that asks for statistics of the training cells."""
    told = statistics_forecast(study)
    if told is None:
        return []
    said = f"{told.words}; summed under masks like a round, with one noise for all"
    return [("statistics", f"before the first round leaves {said}")]


def _budget(site: Site, policy: Policy) -> str:
    """What the ledger has spent and what is left, or why that is not known."""
    try:
        with Ledger.read(site.ledger) as ledger:
            spent = epsilon(ledger.events(), policy.delta)
            remains = left(ledger, policy.delta, policy.lifetime_epsilon)
            beside = beside_epsilon(len(ledger.rows("unprotected")))
    except PrivacyError as error:
        return f"not known: {error}"
    said = (
        f"spent so far: epsilon {spent:.3g} of {policy.lifetime_epsilon:g} for life at "
        f"delta {policy.delta:g}; left for one more study: {remains:.3g}; one study may spend "
        f"{policy.study_epsilon:g}"
    )
    return f"{said}; {beside}" if beside else said
