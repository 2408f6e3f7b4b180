"""The Flower ClientApp: one lab's answers. The same in a simulation and in a deployment."""

import errno
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.consent.approvals import Approvals
from client.consent.obstacles import check_ready
from client.lab_log import LabLog
from client.ledger.binding import check_deployable
from client.ledger.ledger import Ledger
from client.ledger.spending import check_drawable, pay_for_training, permit_study, study_noise
from client.policy.attendance import Clock, SitsOutError, attend
from client.policy.policy import Policy, read_policy
from client.randomness import Entropy, SystemEntropy
from client.site import open_site, site_file
from client.training.job import Job
from client.training.metrics_release import released_tally
from client.training.selftest import check_alone
from client.training.training import train
from client.training.workspace import Workspace, workspace
from common.config.study import Site, Study
from common.errors import FederationError, HemofedError, PrivacyError, because_of
from common.models.parameter_vector import flatten, load
from common.wire.messages import (
    Task,
    Update,
    absence_content,
    name_content,
    refusal_content,
    tally_content,
    task_facts,
)
from common.wire.reasons import Reason
from common.wire.vector_codec import Vector, decode

Handler = Callable[[Message, Site], RecordDict]


def client_app(
    entropy: Entropy | None = None,
    approvals: Approvals | None = None,
    clock: Clock = datetime.now,
) -> ClientApp:
    """A ClientApp that draws its private randomness from `entropy` (default: the system's).

    approvals: what a deployed site's runner asks before anything else; None (simulations): the
    policy alone decides. clock: the local time, for the policy's hours.
    """
    bits: Entropy = entropy or SystemEntropy()
    log = LabLog()

    def answer(message: Message, context: Context, handler: Handler) -> Message:
        return _answer(message, context, _asked(handler, approvals, clock), log)

    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return _answer(message, context, lambda _, site: name_content(site.name), log)

    @app.query("prepare")
    def prepare(message: Message, context: Context) -> Message:
        return answer(message, context, _prepare)

    @app.train()
    def training(message: Message, context: Context) -> Message:
        return answer(message, context, lambda m, site: _train(m, site, bits))

    @app.evaluate()
    def evaluation(message: Message, context: Context) -> Message:
        return answer(message, context, lambda m, site: _evaluate(m, site, bits))

    return app


def _asked(handler: Handler, approvals: Approvals | None, clock: Clock) -> Handler:
    """The handler, once the message's study is approved, the ledger is no simulation's, and it is
    the site's hour.

    What a person changes while the answer is computed is asked again before it leaves: an approval
    taken back, a policy that says something else.
    """

    def asking(message: Message, site: Site) -> RecordDict:
        policy = read_policy(site.policy)
        _check_approved(message, site, approvals)
        if approvals is not None:
            with because_of(Reason.OTHER_LEDGER), Ledger.read(site.ledger) as ledger:
                check_deployable(ledger)
        attend(site, clock)
        content = handler(message, site)
        _check_approved(message, site, approvals)
        if read_policy(site.policy) != policy:
            raise PrivacyError(
                f"{site.policy}: was changed while an answer was computed by it; that answer does "
                "not leave, and what it cost is spent. The next one goes by the policy as it is",
                Reason.CHANGED_POLICY,
            )
        return content

    return asking


def _check_approved(message: Message, site: Site, approvals: Approvals | None) -> None:
    if approvals is not None:
        approvals.check(site, Task.read(message).study)


def _answer(message: Message, context: Context, handler: Handler, log: LabLog) -> Message:
    """The handler's reply, an absence or a refusal. An error's text stays in the site's log."""
    file = Path("site.log")
    try:
        site = open_site(site_file(context))
        file = site.log
        torch.set_num_threads(site.runtime.threads)
        content = handler(message, site)
    except SitsOutError as absence:
        content = absence_content(absence.reason)
    except Exception as error:
        about = f"{message.metadata.message_type} {(task_facts(message) or {}).get('study')}"
        content = refusal_content(_reason(error), log.note(file, about, error))
    return Message(content, reply_to=message)


def _prepare(message: Message, site: Site) -> RecordDict:
    """Say all that stands in the way before anybody pays; else have the cells' features ready."""
    study = Task.read(message).study
    check_ready(site, study)
    workspace(site, study)
    return name_content(site.name)


def _train(message: Message, site: Site, entropy: Entropy) -> RecordDict:
    """Ask the policy, then open the cells, then pay, then train: in this order.

    Nothing before the policy's word touches a cell, and once a cell is touched under privacy what
    leaves is noise on whatever came of it, never an error that depends on it.
    """
    task = Task.read(message)
    study = task.study
    member = study.cohort.get(site.name)
    if member is None or member.role != "train" or task.round < 1:
        said = f"study {study.name}: site {site.name} is not asked to train"
        raise FederationError(said, Reason.BAD_QUESTION)
    permit_study(site, study)
    bench, policy = workspace(site, study), read_policy(site.policy)
    with because_of(Reason.BAD_QUESTION):
        before = _receive(message, bench, study, policy)
    job = Job(study, site.name, member, task.round, study_noise(study), policy.max_weight)
    check_drawable(study, bench.trainable_size)
    job.check()
    check_alone(site, study)
    account = pay_for_training(site, task, entropy)
    loss = train(job, bench.inputs, entropy)
    if policy.metrics != "exact":
        loss = None
    change = flatten(bench.parameters) - before
    layout = bench.layout.digest
    update = Update(change, layout, account.head, account.epsilon, loss)
    return update.content(study.transport.up)


def _evaluate(message: Message, site: Site, entropy: Entropy) -> RecordDict:
    task = Task.read(message)
    if site.name not in task.study.cohort:
        said = f"study {task.study.name}: site {site.name} is not in its cohort"
        raise FederationError(said, Reason.BAD_QUESTION)
    permit_study(site, task.study)
    bench, policy = workspace(site, task.study), read_policy(site.policy)
    with because_of(Reason.BAD_QUESTION):
        _receive(message, bench, task.study, policy)
    check_alone(site, task.study)
    tally, head = released_tally(site, task, bench.inputs, entropy)
    return tally_content(tally, head)


def _receive(message: Message, bench: Workspace, study: Study, policy: Policy) -> Vector:
    """Load the message's model vector; the vector, for the difference.

    Raises FederationError: none, or one that is not finite, or with larger weights than the policy
    takes. ModelError: it does not fit.
    """
    arrays = message.content.array_records.get("model")
    if arrays is None or list(arrays) != ["values"]:
        raise FederationError(f"a {message.metadata.message_type} message without a model vector")
    values = decode(arrays["values"], bench.layout.size, study.transport.down)
    if not np.isfinite(values).all():
        raise FederationError("the message's model is not finite")
    largest = float(np.abs(values).max())
    if largest > policy.max_weight:
        raise FederationError(
            f"the message's model has a weight of {largest:.4g}; the policy's max_weight is "
            f"{policy.max_weight:g}. Models that learn well stay below 30: lower the study's "
            "learning rate",
            Reason.MAX_WEIGHT,
        )
    load(bench.parameters, values)
    return values


def _reason(error: Exception) -> Reason:
    """What the server may know of it."""
    if isinstance(error, HemofedError):
        return error.reason
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return Reason.NO_MEMORY
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Reason.NO_ROOM
    return Reason.INTERNAL


app = client_app()
