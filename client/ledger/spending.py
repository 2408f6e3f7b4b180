"""Paying for what leaves the site, before its noise is drawn."""

from dataclasses import dataclass

from client.ledger.binding import open_ledger
from client.ledger.cost import StudyCost
from client.ledger.hash_chain import PlannedDebits, planned
from client.ledger.ledger import Ledger
from client.policy.policy import Policy
from client.randomness import Entropy
from client.request import Request
from common.config.study import Site, Study
from common.errors import PrivacyError, because_of
from common.privacy.accounting import Event, epsilon, epsilon_at_most
from common.wire.messages import Task
from common.wire.reasons import Fault, Reason


@dataclass(frozen=True)
class Account:
    """What a round's noise is, what the study has cost so far at most, and where the ledger
    stands."""

    noise_multiplier: float = 0.0
    epsilon: float | None = None
    head: str = ""


def check_affordable(site: Site, policy: Policy, cost: StudyCost) -> None:
    """Raise PrivacyError when the site's budget ends before the study would, or when its ledger is
    not the one of its cells; nothing is paid.

    Debits are held against the budget one by one too; this is so that no study is begun, and its
    first rounds paid for, that cannot be ended.
    """
    with _open(site, policy, "") as ledger:
        fault = _shortage(ledger, policy, cost)
    if fault:
        said = f"study {cost.study.name} cannot be paid to its end: {fault}"
        raise PrivacyError(said, fault.reason)


def _shortage(ledger: Ledger, policy: Policy, cost: StudyCost) -> Fault | None:
    wanted = _planned(policy, cost)
    if not wanted:
        return None
    plans = [plan.event for plan in ledger.plans(wanted)]
    return policy.budget.excess([plan.event for plan in wanted], plans)


def _planned(policy: Policy, cost: StudyCost) -> list[PlannedDebits]:
    """All that the study may ever do to the site's cells, by the policy's word on metrics."""
    if cost.unprotected:
        return []
    digest = cost.study.digest
    plans = [planned(digest, 1, cost.training, cost.trainings)]
    if policy.metrics == "noised":
        plans.append(planned(digest, -1, cost.metrics, cost.evaluations))
    return plans


def pay_for_training(request: Request, entropy: Entropy) -> Account:
    """Debit a round's steps; of a study without privacy, write down that the round leaves.

    Raises PrivacyError when the ledger refuses.
    """
    number, cost = request.task.round, request.cost
    if cost.unprotected:
        return _note_unprotected(request, number, entropy)
    return _pay(request, number, cost.training, cost.trainings, entropy)


def pay_for_metrics(request: Request, entropy: Entropy) -> Account:
    """Debit one evaluation's noised counts. Raises PrivacyError when the ledger refuses."""
    cost, number = request.cost, _evaluation_number(request.task)
    return _pay(request, number, cost.metrics, cost.evaluations, entropy)


def note_exact_metrics(request: Request, entropy: Entropy) -> Account:
    """Write down that an evaluation's exact figures leave. Raises PrivacyError when it cannot."""
    return _note_unprotected(request, _evaluation_number(request.task), entropy)


def spent_epsilon(site: Site, study: Study) -> float:
    """What the site's ledger says the study has cost, at the study's delta."""
    with open_ledger(site) as ledger:
        return epsilon(ledger.spent(study.digest), study.privacy.delta)


def _evaluation_number(task: Task) -> int:
    """Evaluations stand in the ledger beside the rounds, under numbers that no round has."""
    return -(2 * task.round + (task.split == "test")) - 1


def _pay(request: Request, number: int, event: Event, most: int, entropy: Entropy) -> Account:
    """Write the row; the noise may be drawn after this, not before.

    The server says which round and attempt this is, so neither bounds what it may ask for: `most`
    does, the number of such answers that the noise was calibrated for.
    A source that repeats (a simulation) gives the same bits for the same round again, so a round
    that was cut off releases nothing more when it is done again and is not paid twice.
    """
    study, task = request.study, request.task
    with _open(request.site, request.policy, task.head) as ledger:
        if not (entropy.repeats and ledger.has(study.digest, number)):
            ledger.debit(study.digest, number, task.attempt, event, most)
        # Exact where the plan ends, with spare rounds and without.
        marks = {study.rounds * event.steps, most * event.steps}
        spent = epsilon_at_most(ledger.spent(study.digest), study.privacy.delta, marks)
        return Account(event.noise_multiplier, spent, ledger.head)


def _note_unprotected(request: Request, number: int, entropy: Entropy) -> Account:
    """Write the row of an answer without noise before it leaves; like `_pay`, but costs nothing."""
    study, task = request.study, request.task
    with _open(request.site, request.policy, task.head) as ledger:
        if not (entropy.repeats and ledger.has(study.digest, number, kind="unprotected")):
            ledger.note_unprotected(study.digest, number, task.attempt)
        return Account(head=ledger.head)


def _open(site: Site, policy: Policy, head: str) -> Ledger:
    """The site's ledger, which must hold the row that the server acknowledged last."""
    with because_of(Reason.OTHER_LEDGER):
        return open_ledger(site, budget=policy.budget, expected_head=head or None)
