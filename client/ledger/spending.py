"""Paying for what leaves the site, before its noise is drawn."""

from dataclasses import dataclass

from client.ledger.binding import open_ledger
from client.ledger.hash_chain import Plan, planned
from client.ledger.ledger import Ledger
from client.policy.policy import Policy, permit, read_policy
from client.randomness import Entropy
from common.config.study import Site, Study
from common.errors import PrivacyError, because_of
from common.privacy.accounting import Event, epsilon, epsilon_at_most, study_event
from common.privacy.metrics_noise import evaluations, metrics_noise
from common.privacy.noise import grid_for, grid_sigma
from common.wire.messages import Task
from common.wire.reasons import Fault, Reason


@dataclass(frozen=True)
class Account:
    """What a round's noise is, what the study has cost so far at most, and where the ledger
    stands."""

    noise_multiplier: float = 0.0
    epsilon: float | None = None
    head: str = ""


def study_noise(study: Study) -> float:
    """The training's noise multiplier: meets the study's epsilon over all its rounds."""
    if study.privacy.mode == "none":
        return 0.0
    return study_event(study.privacy, study.rounds).noise_multiplier


def permit_study(site: Site, study: Study) -> None:
    """Raise PrivacyError when the site's policy refuses the study; no cell is looked at."""
    permit(read_policy(site.policy), study, study_noise(study))


def check_drawable(study: Study, size: int) -> None:
    """Raise PrivacyError where the training's noise cannot be drawn; nothing is paid.

    size: trainable parameters of the study's model.
    """
    if study.privacy.mode != "none":
        bound = study.privacy.max_grad_norm
        grid_sigma(size, bound, study_noise(study), grid_for(size, bound))


def check_affordable(site: Site, study: Study) -> None:
    """Raise PrivacyError when the site's budget ends before the study would, or when its ledger is
    not the one of its cells; nothing is paid.

    Debits are held against the budget one by one too; this is so that no study is begun, and its
    first rounds paid for, that cannot be ended.
    """
    policy = read_policy(site.policy)
    with _open(site, policy, "") as ledger:
        fault = _shortage(ledger, policy, study)
    if fault:
        raise PrivacyError(f"study {study.name} cannot be paid to its end: {fault}", fault.reason)


def _shortage(ledger: Ledger, policy: Policy, study: Study) -> Fault | None:
    wanted = _planned(policy, study)
    if not wanted:
        return None
    plans = [plan.event for plan in ledger.plans(wanted)]
    return policy.budget.excess([plan.event for plan in wanted], plans)


def _planned(policy: Policy, study: Study) -> list[Plan]:
    """All that the study may ever do to the site's cells, by the policy's word on metrics."""
    if study.privacy.mode == "none":
        return []
    plans = [planned(study.digest, 1, _training(study), _most(study))]
    if policy.metrics == "noised":
        plans.append(planned(study.digest, -1, _metrics(study), evaluations(study)))
    return plans


def pay_for_training(site: Site, task: Task, entropy: Entropy) -> Account:
    """Debit a round's steps; of a study without privacy, write down that the round leaves.

    Raises PrivacyError when the ledger refuses.
    """
    study, policy = task.study, read_policy(site.policy)
    if study.privacy.mode == "none":
        return _note_unprotected(site, policy, task, task.round, entropy)
    return _pay(site, policy, task, task.round, _training(study), _most(study), entropy)


def pay_for_metrics(site: Site, task: Task, policy: Policy, entropy: Entropy) -> Account:
    """Debit one evaluation's noised counts. Raises PrivacyError when the ledger refuses."""
    event, most = _metrics(task.study), evaluations(task.study)
    return _pay(site, policy, task, _evaluation_number(task), event, most, entropy)


def note_exact_metrics(site: Site, task: Task, policy: Policy, entropy: Entropy) -> Account:
    """Write down that an evaluation's exact figures leave. Raises PrivacyError when it cannot."""
    return _note_unprotected(site, policy, task, _evaluation_number(task), entropy)


def spent_epsilon(site: Site, study: Study) -> float:
    """What the site's ledger says the study has cost, at the study's delta."""
    with open_ledger(site) as ledger:
        return epsilon(ledger.spent(study.digest), study.privacy.delta)


def _evaluation_number(task: Task) -> int:
    """Evaluations stand in the ledger beside the rounds, under numbers that no round has."""
    return -(2 * task.round + (task.split == "test")) - 1


def _pay(
    site: Site, policy: Policy, task: Task, number: int, event: Event, most: int, entropy: Entropy
) -> Account:
    """Write the row; the noise may be drawn after this, not before.

    The server says which round and attempt this is, so neither bounds what it may ask for: `most`
    does, the number of such answers that the noise was calibrated for.
    A source that repeats (a simulation) gives the same bits for the same round again, so a round
    that was cut off releases nothing more when it is done again and is not paid twice.
    """
    study = task.study
    with _open(site, policy, task.head) as ledger:
        if not (entropy.repeats and ledger.has(study.digest, number)):
            ledger.debit(study.digest, number, task.attempt, event, most)
        # Exact where the plan ends, with spare rounds and without.
        marks = {study.rounds * event.steps, most * event.steps}
        spent = epsilon_at_most(ledger.spent(study.digest), study.privacy.delta, marks)
        return Account(event.noise_multiplier, spent, ledger.head)


def _note_unprotected(
    site: Site, policy: Policy, task: Task, number: int, entropy: Entropy
) -> Account:
    """Write the row of an answer without noise before it leaves; like `_pay`, but costs nothing."""
    study = task.study
    with _open(site, policy, task.head) as ledger:
        if not (entropy.repeats and ledger.has(study.digest, number, kind="unprotected")):
            ledger.note_unprotected(study.digest, number, task.attempt)
        return Account(head=ledger.head)


def _open(site: Site, policy: Policy, head: str) -> Ledger:
    """The site's ledger, which must hold the row that the server acknowledged last."""
    with because_of(Reason.OTHER_LEDGER):
        return open_ledger(site, budget=policy.budget, expected_head=head or None)


def _training(study: Study) -> Event:
    """A round's steps."""
    return _event(study, study_noise(study), study.privacy.sample_rate, study.privacy.local_steps)


def _metrics(study: Study) -> Event:
    """One evaluation."""
    return _event(study, metrics_noise(study), 1.0, 1)


def _most(study: Study) -> int:
    """How often a site may be asked to train: the noise is calibrated for that many rounds."""
    return study.rounds + study.privacy.spare_rounds


def _event(study: Study, noise: float, sample_rate: float, steps: int) -> Event:
    return Event(
        mechanism="poisson_discrete_gaussian",
        sample_rate=sample_rate,
        noise_multiplier=noise,
        steps=steps,
        unit=study.privacy.unit,
        mode="local",
    )
