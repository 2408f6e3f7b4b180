"""Paying for a round before its noise is drawn."""

from dataclasses import dataclass

from client.entropy import Entropy
from client.ledger import Ledger
from client.site import open_cells
from common.config import Site, Study
from common.privacy.accounting import Event, calibrate, epsilon
from common.protocol import Task


@dataclass(frozen=True)
class Account:
    """What the round's noise is, and what the study has cost so far."""

    noise_multiplier: float = 0.0
    epsilon: float | None = None


def study_noise(study: Study) -> float:
    """The noise multiplier that meets the study's epsilon over all its rounds."""
    privacy = study.privacy
    steps = study.rounds * privacy.local_steps
    return calibrate(privacy.epsilon, privacy.delta, privacy.sample_rate, steps)


def pay(site: Site, task: Task, entropy: Entropy) -> Account:
    """Debit the round in the site's ledger; its noise may be drawn after this, not before.

    A source that repeats (a simulation) gives the same bits for the same round again, so a round
    that was cut off releases nothing more when it is done again and is not paid twice.
    Raises PrivacyError when the ledger refuses.
    """
    privacy = task.study.privacy
    if privacy.mode == "none":
        return Account()
    noise = study_noise(task.study)
    event = Event(
        mechanism="poisson_discrete_gaussian",
        sample_rate=privacy.sample_rate,
        noise_multiplier=noise,
        steps=privacy.local_steps,
        unit=privacy.unit,
        mode=privacy.mode,
    )
    with open_ledger(site, task.study) as ledger:
        if not (entropy.repeats and ledger.has(task.study.digest, task.round)):
            ledger.debit(task.study.digest, task.round, task.attempt, event)
        spent = epsilon(ledger.events(task.study.digest), privacy.delta)
    return Account(noise, spent)


def spent_epsilon(site: Site, study: Study) -> float:
    """What the site's ledger says the study has cost, at the study's delta."""
    with open_ledger(site, study) as ledger:
        return epsilon(ledger.events(study.digest), study.privacy.delta)


def create_ledger(site: Site, study: Study) -> None:
    """Make the ledger of a data set that never trained; one that exists is left as it is."""
    if not site.ledger.exists():
        Ledger.create(site.ledger, open_cells(site, study).fingerprint).close()


def open_ledger(site: Site, study: Study) -> Ledger:
    """The site's ledger. Raises PrivacyError: missing, damaged, or another data set's."""
    return Ledger.open(site.ledger, open_cells(site, study).fingerprint)
