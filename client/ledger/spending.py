"""Paying for what leaves the site, before its noise is drawn."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from client.ledger.binding import open_ledger
from client.ledger.cost import StudyCost
from client.ledger.hash_chain import STATISTICS, PlannedDebits, planned
from client.ledger.ledger import Ledger
from client.policy.policy import Policy
from client.randomness import Entropy
from client.request import Request
from common.config.study import Site, Study
from common.errors import PrivacyError, because_of
from common.privacy.accounting import Event, epsilon, epsilon_at_most
from common.wire.agreement import Purpose
from common.wire.messages import Task
from common.wire.reasons import Fault, Reason


@dataclass(frozen=True)
class Account:
    """What a payment gives: the noise to draw, a bound of the cost so far, the ledger's head."""

    noise_multiplier: float = 0.0
    """Noise multiplier of what was paid for; 0 for an answer without noise."""
    epsilon: float | None = None
    """Upper bound of what the study has cost so far, at its delta; None: no epsilon bounds it."""
    head: str = ""
    """Hash of the ledger's last row."""


class _Debit(NamedTuple):
    """One answer in the ledger: its number there, its event, and how many such are planned."""

    number: int
    event: Event
    most: int


def check_affordable(site: Site, policy: Policy, cost: StudyCost) -> None:
    """Raise PrivacyError when the budget ends before the study, or the ledger is not the cells'.

    Nothing is paid. Each debit is compared with the budget too; this check makes sure that no study
    begins, and is paid for its first rounds, that cannot be completed.
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
    """All that the study may ever do to the site's cells, as far as the policy allows metrics."""
    if cost.unprotected:
        return []
    digest = cost.study.digest
    plans = [planned(digest, 1, cost.training, cost.trainings)]
    if cost.statistics is not None:
        plans.append(planned(digest, STATISTICS, cost.statistics, 1))
    if policy.metrics == "noised":
        plans.append(planned(digest, -1, cost.metrics, cost.evaluations))
    return plans


def pay_for_training(request: Request, entropy: Entropy) -> Account:
    """Debit a round's steps; for a study without privacy, note that its update leaves.

    Raises PrivacyError when the ledger refuses.
    """
    if request.cost.unprotected:
        return _note_unprotected(request, request.task.round, entropy)
    return _pay(request, _debit(request, "train"), entropy)


def pay_for_metrics(request: Request, entropy: Entropy) -> Account:
    """Debit one evaluation's noised counts. Raises PrivacyError when the ledger refuses."""
    return _pay(request, _debit(request, request.task.split), entropy)


def pay_for_statistics(request: Request, entropy: Entropy) -> Account:
    """Debit the training cells' statistics.

    Raises PrivacyError when the ledger refuses, or the study asks for none.
    """
    return _pay(request, _debit(request, "statistics"), entropy)


def check_payable(request: Request, purpose: Purpose, entropy: Entropy) -> None:
    """Raise PrivacyError where the payment for a sum under masks would be refused.

    Nothing is paid. A site asks this before it gives a key: once it has, its refusal costs the
    other sites an attempt.
    """
    study, task = request.study, request.task
    number, event, most = _debit(request, purpose)
    with _open(request.site, request.policy, task.head) as ledger:
        again = entropy.repeats and ledger.has(study.digest, number)
        fault = None if again else ledger.refusal(study.digest, number, task.attempt, event, most)
    if fault:
        said = f"study {study.name}, round {task.round}: no key for a sum that is not paid: {fault}"
        raise PrivacyError(said, fault.reason)


def note_exact_metrics(request: Request, entropy: Entropy) -> Account:
    """Note that an evaluation's exact figures leave. Raises PrivacyError when that is refused."""
    return _note_unprotected(request, _evaluation_number(request.task), entropy)


def spent_epsilon(site: Site, study: Study) -> float:
    """The epsilon that the study has cost by the site's ledger, at the study's delta."""
    with open_ledger(site) as ledger:
        return epsilon(ledger.spent(study.digest), study.privacy.delta)


def _debit(request: Request, purpose: Purpose) -> _Debit:
    """What the answer to the request costs. Raises PrivacyError for statistics of a study without.

    The numbers of training rounds begin at 1 (see `client.ledger.hash_chain.part_of`).
    """
    task, cost = request.task, request.cost
    if purpose == "train":
        return _Debit(task.round, cost.training, cost.trainings)
    if purpose != "statistics":
        number = _evaluation_number(replace(task, split=purpose))
        return _Debit(number, cost.metrics, cost.evaluations)
    if cost.statistics is None:
        raise PrivacyError(f"study {request.study.name}: asks for no statistics")
    return _Debit(STATISTICS, cost.statistics, 1)


def _evaluation_number(task: Task) -> int:
    """The number of an evaluation in the ledger: negative, so that no round has it."""
    return -(2 * task.round + (task.split == "test")) - 1


def _pay(request: Request, debit: _Debit, entropy: Entropy) -> Account:
    """Write the debit; the noise may be drawn after this, not before.

    The server says which round and attempt this is, so neither bounds what it may ask for; `most`
    does, the number of such answers that the noise was calibrated for.
    A source that repeats (a simulation's) gives the same bits for the same round again, so a round
    that was cut off releases nothing more when it is repeated, and is not paid for twice.
    """
    study, task = request.study, request.task
    number, event, most = debit
    with _open(request.site, request.policy, task.head) as ledger:
        if not (entropy.repeats and ledger.has(study.digest, number)):
            ledger.debit(study.digest, number, task.attempt, event, most)
        # Exact where the plan ends, with spare rounds and without.
        marks = {study.rounds * event.steps, most * event.steps}
        spent = epsilon_at_most(ledger.spent(study.digest), study.privacy.delta, marks)
        return Account(event.noise_multiplier, spent, ledger.head)


def _note_unprotected(request: Request, number: int, entropy: Entropy) -> Account:
    """Note an answer without noise before it leaves; like `_pay`, but it costs nothing."""
    study, task = request.study, request.task
    with _open(request.site, request.policy, task.head) as ledger:
        if not (entropy.repeats and ledger.has(study.digest, number, kind="unprotected")):
            ledger.note_unprotected(study.digest, number, task.attempt)
        return Account(head=ledger.head)


def _open(site: Site, policy: Policy, head: str) -> Ledger:
    """Open the site's ledger, which must hold the row `head` that the server acknowledged last."""
    with because_of(Reason.OTHER_LEDGER):
        return open_ledger(site, budget=policy.budget, expected_head=head or None)
