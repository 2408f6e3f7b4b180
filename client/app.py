"""The Flower ClientApp, which answers for one lab. Simulations and deployments use the same one."""

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.consent.approvals import Approvals
from client.consent.obstacles import check_ready
from client.data.site_cells import open_cells
from client.lab_log import LabLog
from client.ledger.binding import check_deployable
from client.ledger.ledger import Ledger
from client.ledger.spending import check_payable, pay_for_training
from client.masking.held_keys import HeldKeys, agreement_of
from client.masking.pairs import Pair, mask_pairs
from client.policy.attendance import Clock, SitsOutError, attend
from client.policy.policy import permit, read_policy
from client.randomness import Entropy, SystemEntropy
from client.request import Request
from client.site import open_site, site_file
from client.training.job import Job
from client.training.masked_sum import masked_sum
from client.training.metrics_release import masked_counts, released_tally
from client.training.selftest import check_alone
from client.training.statistics_release import check_asked, masked_statistics
from client.training.training import train
from client.training.workspace import Workspace, workspace
from common.config.study import Site
from common.device import limit_memory, resolve
from common.errors import ConfigError, FederationError, HemofedError, PrivacyError, because_of
from common.models.parameter_vector import flatten, load
from common.privacy.statistics_noise import statistics_sigma
from common.wire.messages import (
    MaskedUpdate,
    Task,
    Update,
    absence_content,
    masked_counts_content,
    name_content,
    refusal_content,
    tally_content,
    task_facts,
)
from common.wire.reasons import Reason
from common.wire.vector_codec import Vector, array_digest, decode

Handler = Callable[[Message, Request], RecordDict]


def client_app(
    entropy: Entropy | None = None,
    approvals: Approvals | None = None,
    clock: Clock = datetime.now,
    turn: int = 0,
) -> ClientApp:
    """A ClientApp that draws its private randomness from `entropy` (default: the system's).

    approvals: what a deployed site's runner asks before anything else; None (simulations): the
    policy alone decides. clock: returns the local time, for the policy's hours. turn: the number of
    this client among several on a machine, by which it chooses a GPU (`resolve`).
    """
    bits: Entropy = entropy or SystemEntropy()
    log, held = LabLog(), HeldKeys()

    def answer(message: Message, context: Context, handler: Handler) -> Message:
        return _answer(message, context, partial(_asked, handler, approvals, clock, turn), log)

    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return _answer(message, context, lambda _, site: name_content(site.name), log)

    @app.query("prepare")
    def prepare(message: Message, context: Context) -> Message:
        return answer(message, context, _prepare)

    @app.query("keys")
    def masking_key(message: Message, context: Context) -> Message:
        return answer(message, context, lambda _, request: _masking_key(request, held, bits))

    @app.query("statistics")
    def statistics(message: Message, context: Context) -> Message:
        return answer(message, context, lambda _, request: _statistics(request, held, bits))

    @app.train()
    def training(message: Message, context: Context) -> Message:
        return answer(message, context, lambda m, request: _train(m, request, held, bits))

    @app.evaluate()
    def evaluation(message: Message, context: Context) -> Message:
        return answer(message, context, lambda m, request: _evaluate(m, request, held, bits))

    return app


def _asked(
    handler: Handler,
    approvals: Approvals | None,
    clock: Clock,
    turn: int,
    message: Message,
    site: Site,
) -> RecordDict:
    """The handler's answer, if the message's study is approved, the ledger is not a simulated
    site's, and the policy's hours allow it.

    The policy is read when the message comes. Before the answer leaves, the approval and the policy
    are checked again, since a person may have changed either while it was computed.

    Raises PrivacyError when one of them forbids the answer, SitsOutError outside the hours.
    """
    request = Request(site, read_policy(site.policy), Task.read(message))
    if approvals is not None:
        approvals.check(site, request.policy, request.study)
        with because_of(Reason.OTHER_LEDGER), Ledger.read(site.ledger) as ledger:
            check_deployable(ledger)
    attend(request.policy, clock)
    content = handler(message, replace(request, site=_on_its_device(site, turn)))
    if approvals is not None:
        approvals.check(site, request.policy, request.study)
    _check_policy(request)
    return content


def _check_policy(request: Request) -> None:
    """Raise PrivacyError where the policy is not the one that the answer goes by any more.

    Asked before a payment, so that no budget that was lowered meanwhile is overrun, and at last.
    """
    path = request.site.policy
    if read_policy(path) != request.policy:
        raise PrivacyError(
            f"{path}: was changed while an answer was computed by it; that answer does not leave, "
            "and what it has cost is spent. The next one goes by the policy as it is",
            Reason.CHANGED_POLICY,
        )


def _answer(
    message: Message,
    context: Context,
    handler: Callable[[Message, Site], RecordDict],
    log: LabLog,
) -> Message:
    """Reply with the handler's content, an absence or a refusal.

    An error's text stays in the site's log.
    """
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


def _on_its_device(site: Site, turn: int) -> Site:
    """The site with the name of the device that everything for it is computed on.

    If there is no such device the site stays as it is: the handler reports that with all other
    obstacles.
    """
    try:
        device = str(resolve(site.runtime.device, turn))
    except ConfigError:
        return site
    runtime = site.runtime.model_copy(update={"device": device})
    return site.model_copy(update={"runtime": runtime})


def _prepare(message: Message, request: Request) -> RecordDict:
    """Report every obstacle before anybody pays; if there is none, prepare the cells' features."""
    check_ready(request.site, request.policy, request.study)
    _workspace(request)
    return name_content(request.site.name)


def _masking_key(request: Request, held: HeldKeys, entropy: Entropy) -> RecordDict:
    """Make the site's key for a sum under masks; nothing here touches a cell.

    A site that could not pay says so here, where it costs nobody anything: once it has given a key,
    a refusal costs the other sites an attempt.
    """
    permit(request.policy, request.study, request.cost.noise_multiplier)
    purpose = agreement_of(request).purpose
    if purpose == "statistics":
        check_asked(request)
    elif purpose != "train" and request.policy.metrics != "noised":
        said = f"the policy's metrics are {request.policy.metrics}: its counts enter no sum"
        raise PrivacyError(said, Reason.METRICS)
    check_payable(request, purpose, entropy)
    return held.make(request, entropy).content()


def _statistics(request: Request, held: HeldKeys, entropy: Entropy) -> RecordDict:
    """Ask the policy, then open the cells, then pay for their statistics, and answer with them."""
    site, study = request.site, request.study
    permit(request.policy, study, request.cost.noise_multiplier)
    check_asked(request)
    statistics_sigma(study)
    cells = open_cells(site, study)
    pairs = mask_pairs(request, "statistics", "", held, entropy)  # there is no model to agree on
    _check_policy(request)
    return masked_counts_content(*masked_statistics(request, cells, pairs, entropy))


def _train(message: Message, request: Request, held: HeldKeys, entropy: Entropy) -> RecordDict:
    """Ask the policy, then open the cells, then pay, then train: in this order.

    Nothing touches a cell before the policy has allowed it. Once a cell is touched under privacy,
    what leaves is noise on whatever came of it, never an error that depends on it.
    """
    site, study, policy, task = request.site, request.study, request.policy, request.task
    member = study.cohort.get(site.name)
    if member is None or member.role != "train" or task.round < 1:
        said = f"study {study.name}: site {site.name} is not asked to train"
        raise FederationError(said, Reason.BAD_QUESTION)
    noise = request.cost.noise_multiplier
    permit(policy, study, noise)
    bench = _workspace(request)
    with because_of(Reason.BAD_QUESTION):
        before = _receive(message, bench, request)
    job = Job(study, site.name, member, task.round, noise, policy.max_weight)
    request.cost.check_drawable(bench.trainable_size)
    job.check()
    check_alone(site, study)
    if study.privacy.mode == "distributed":
        # By the digest of the model as it came: masks made for another one do not cancel with it.
        pairs = mask_pairs(request, "train", _model_digest(message), held, entropy)
        return _masked(job, bench, request, pairs, entropy)
    _check_policy(request)
    account = pay_for_training(request, entropy)
    loss = train(job, bench.inputs, entropy)
    if policy.metrics != "exact":
        loss = None
    change = flatten(bench.parameters) - before
    layout = bench.layout.digest
    update = Update(change, layout, account.head, account.epsilon, loss)
    return update.content(study.transport.up)


def _masked(
    job: Job, bench: Workspace, request: Request, pairs: Sequence[Pair], entropy: Entropy
) -> RecordDict:
    """Pay for the round, and answer with the site's noised sum under the masks of `pairs`."""
    _check_policy(request)
    account = pay_for_training(request, entropy)
    packed, plan = masked_sum(job, bench.inputs, pairs, entropy)
    update = MaskedUpdate(packed, bench.layout.digest, account.head, account.epsilon)
    return update.content(plan.size, plan.form)


def _model_digest(message: Message) -> str:
    """SHA-256 (hex) of the model vector as it came."""
    return array_digest(message.content.array_records["model"]["values"])


def _evaluate(message: Message, request: Request, held: HeldKeys, entropy: Entropy) -> RecordDict:
    site, study = request.site, request.study
    if site.name not in study.cohort:
        said = f"study {study.name}: site {site.name} is not in its cohort"
        raise FederationError(said, Reason.BAD_QUESTION)
    permit(request.policy, study, request.cost.noise_multiplier)
    bench = _workspace(request)
    with because_of(Reason.BAD_QUESTION):
        _receive(message, bench, request)
    check_alone(site, study)
    split = request.task.split
    if request.task.agreement is not None and request.policy.metrics == "noised":
        pairs = mask_pairs(request, split, _model_digest(message), held, entropy)
        _check_policy(request)
        return masked_counts_content(*masked_counts(request, bench.inputs, pairs, entropy))
    if _in_sums_alone(request):
        said = "in mode distributed this site's counts leave in a sum of many sites alone"
        raise PrivacyError(said, Reason.METRICS)
    _check_policy(request)
    tally, head = released_tally(request, bench.inputs, entropy)
    return tally_content(tally, head)


def _in_sums_alone(request: Request) -> bool:
    """Whether the site's noised counts leave only under masks: it trains in mode distributed."""
    study = request.study
    trains = request.site.name in study.training_sites
    return study.privacy.mode == "distributed" and trains and request.policy.metrics == "noised"


def _workspace(request: Request) -> Workspace:
    """The model and the cells, within the policy's share of a GPU's memory."""
    limit_memory(resolve(request.site.runtime.device), request.policy.gpu_memory_share)
    return workspace(request.site, request.study)


def _receive(message: Message, bench: Workspace, request: Request) -> Vector:
    """Load the message's model vector into the model, and return it: updates are differences to it.

    Raises FederationError when there is no vector, or it is not finite, or has larger weights than
    the policy accepts, and ModelError when it does not fit the model.
    """
    arrays = message.content.array_records.get("model")
    if arrays is None or list(arrays) != ["values"]:
        raise FederationError(f"a {message.metadata.message_type} message without a model vector")
    values = decode(arrays["values"], bench.layout.size, request.study.transport.down)
    if not np.isfinite(values).all():
        raise FederationError("the message's model is not finite")
    largest, most = float(np.abs(values).max()), request.policy.max_weight
    if largest > most:
        raise FederationError(
            f"the message's model has a weight of {largest:.4g}; the policy's max_weight is "
            f"{most:g}. Models that learn well stay below 30: lower the study's "
            "learning rate",
            Reason.MAX_WEIGHT,
        )
    load(bench.parameters, values)
    return values


def _reason(error: Exception) -> Reason:
    """What the server may know of the error."""
    if isinstance(error, HemofedError):
        return error.reason
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return Reason.NO_MEMORY
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Reason.NO_ROOM
    return Reason.INTERNAL


app = client_app()
