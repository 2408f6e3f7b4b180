"""What server and sites say to each other: the content of each message, written and read here.

query          -> the site's name
query.prepare  task (and the server's signature, in a deployment) -> the site's name, once its
               cells (and their features) are ready
query.withdraw task (in a deployment) -> the site's name: the proposed study is taken back
query.keys     task + agreement without keys -> the site's masking key (mode distributed)
train          task + model vector -> update vector + report
               task + model vector + agreement -> masked sum + report (mode distributed)
evaluate       task + model vector (+ agreement) -> tally (masked counts)
query.statistics  task + agreement -> masked counts of the training cells (mode distributed)
A site may answer each but query with an absence: it sits out, and is asked again the next time.
It may answer any of them with a refusal: a reason of the closed list (common/wire/reasons.py) and a
reference into the site's own log. The error's text stays at the site.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from common.config.loading import parse
from common.config.study import Number, Study
from common.errors import ConfigError, FederationError, ModelError, because_of
from common.metrics import BINS, Tally
from common.noised_tally import NoisedTally
from common.wire.agreement import RECORD as AGREEMENT
from common.wire.agreement import Agreement
from common.wire.proposal import Proposal
from common.wire.reasons import Reason
from common.wire.reply_status import Kind, ReplyStatus
from common.wire.vector_codec import Vector, decode, encode

LONGEST_STUDY = 2 * 2**20
"""Most characters in a study's JSON; a study with a cohort of 10,000 sites has fewer."""
Counted = Tally | NoisedTally
"""How a model does on a site's cells: exact counts, or noised ones."""
WITHDRAW = "query.withdraw"
KEYS = "query.keys"
STATISTICS = "query.statistics"
_KINDS = ("query.prepare", WITHDRAW, KEYS, STATISTICS, "train", "evaluate")
_REFERENCE = re.compile(r"[0-9a-f]{2,16}")


Split = Literal["validation", "test"]


@dataclass(frozen=True)
class Task:
    """One round's work for a site.

    Raises FederationError for a round, attempt or split that there is not.
    """

    study: Study
    round: int
    attempt: int = 0
    split: Split = "validation"
    """Which cells an evaluation counts: validation or test."""
    head: str = ""
    """The site's ledger head that the server saw last; a ledger without it is an old copy."""
    agreement: Agreement | None = None
    """Whom the site masks with, in mode distributed; None in any other message."""

    def content(self, model: Array | None = None) -> RecordDict:
        """The message's content; `model` is encoded once, and all sites' messages share it."""
        record = ConfigRecord(
            {
                "study": self.study.model_dump_json(),
                "round": self.round,
                "attempt": self.attempt,
                "split": self.split,
                "head": self.head,
            }
        )
        content = RecordDict({"task": record})
        if self.agreement is not None:
            content[AGREEMENT] = self.agreement.record()
        if model is not None:
            # Not by the constructor, which copies the array; each copy would be hashed again.
            vector = content["model"] = ArrayRecord()
            vector["values"] = model
        return content

    def __post_init__(self) -> None:
        if not 0 <= self.round <= self.study.rounds or self.attempt < 0:
            raise FederationError(
                f"round {self.round}, attempt {self.attempt}: "
                f"the study has {self.study.rounds} rounds"
            )
        if self.split not in ("validation", "test"):
            raise FederationError(f"split {self.split!r:.40}: expected validation or test")

    @classmethod
    def read(cls, message: Message) -> "Task":
        """The message's task.

        Raises FederationError when there is none, or it asks for a round that the study does not
        have, and ConfigError when the study is not valid.
        """
        record, kind = message.content.config_records.get("task"), message.metadata.message_type
        with because_of(Reason.BAD_QUESTION):
            if record is None:
                raise FederationError(f"a {kind} message without a task")
            try:
                study = _study(str(record["study"]))
                numbers = int(str(record["round"])), int(str(record["attempt"]))
                split, head = cast(Split, str(record["split"])), str(record["head"])
                return cls(study, *numbers, split, head, Agreement.read(message))
            except (KeyError, ValueError, RecursionError) as error:
                said = f"a {kind} message whose task cannot be read ({type(error).__name__})"
                raise FederationError(said) from error


def task_facts(message: Message) -> dict[str, str | int] | None:
    """What an audit line says of a message's task; None when it has none.

    Whatever the sender wrote, the result holds only numbers, a digest and words of this module.
    """
    record = message.content.config_records.get("task")
    if record is None:
        return None
    kind = message.metadata.message_type
    numbers = {name: record.get(name) for name in ("round", "attempt")}
    return {
        "kind": kind if kind in _KINDS else "unknown",
        "study": _digest(str(record.get("study"))),
        **{name: value if type(value) is int else -1 for name, value in numbers.items()},
    }


def task_words(message: Message) -> tuple[str, str]:
    """The split and the ledger head that a message's task names; "" and "" when it has none."""
    record = message.content.config_records.get("task") or ConfigRecord()
    return str(record.get("split", "")), str(record.get("head", ""))


@dataclass(frozen=True)
class Update:
    """A site's answer to train: new minus old parameters, and what it says about the round."""

    values: Vector
    """float32 (P,): new minus old parameters."""
    layout: str
    """The digest of the parameters' `Layout`."""
    head: str = ""
    """The head of the site's ledger after this round was paid for; `read_head` reads it."""
    epsilon: float | None = None
    """Upper bound of what the study has cost the site so far."""
    loss: float | None = None
    """The mean loss, only without privacy. Nothing else that depends on the cells is sent, not even
    the time that training took: the server has a clock of its own."""

    def content(self, number: Number = "float32") -> RecordDict:
        """The reply's content; `number` is the study's `transport.up`."""
        report = _report(self.layout, self.head, epsilon=self.epsilon, loss=self.loss)
        update = ArrayRecord({"values": encode(self.values, number)})
        return RecordDict({"update": update, "report": report})

    @classmethod
    def read(cls, message: Message, size: int, number: Number = "float32") -> "Update":
        """The update in a reply.

        Raises ModelError unless the reply holds exactly one vector of `size` such numbers.
        """
        array, layout, figures = _read_update(message)
        return cls(
            decode(array, size, number),
            layout,
            read_head(message),
            figures["epsilon"],
            figures["loss"],
        )


@dataclass(frozen=True)
class MaskedUpdate:
    """A site's answer to train in mode distributed: its noised sum, uniform under its masks."""

    packed: bytes | memoryview
    """The (P,) integers modulo 2^bits, as `packed_integers.pack` writes them."""
    layout: str
    """The digest of the parameters' `Layout`."""
    head: str = ""
    """The head of the site's ledger after this round was paid for; `read_head` reads it."""
    epsilon: float | None = None
    """Upper bound of what the study has cost the site so far."""

    def content(self, size: int, form: str) -> RecordDict:
        """The reply's content, of `size` integers; `form` is the sum's `IntegerSum.form`."""
        array = Array(dtype="uint8", shape=(size,), stype=form, data=bytes(self.packed))
        report = _report(self.layout, self.head, epsilon=self.epsilon)
        return RecordDict({"update": ArrayRecord({"values": array}), "report": report})

    @classmethod
    def read(cls, message: Message, size: int, form: str) -> "MaskedUpdate":
        """The masked sum in a reply.

        Raises ModelError unless the reply holds exactly one vector of `size` integers in `form`.
        """
        array, layout, figures = _read_update(message)
        if (array.stype, tuple(array.shape)) != (form, (size,)):
            raise ModelError(
                f"expected {size} masked integers as {form}; got shape {tuple(array.shape)} as "
                f"{array.stype!r:.40}"
            )
        return cls(array.data, layout, read_head(message), figures["epsilon"])


def _report(layout: str, head: str, **figures: float | None) -> ConfigRecord:
    known = {name: float(value) for name, value in figures.items() if value is not None}
    return ConfigRecord({"layout": layout, "head": head, **known})


def _read_update(message: Message) -> tuple[Array, str, dict[str, float | None]]:
    """The vector of an answer to train, the layout that it names, and its figures."""
    arrays, report = message.content.array_records.get("update"), _config(message, "report")
    layout = report.get("layout")
    if arrays is None or list(arrays) != ["values"] or not isinstance(layout, str):
        raise ModelError("the reply holds no single update vector with its layout")
    figures = {name: _number(report.get(name)) for name in ("epsilon", "loss")}
    return arrays["values"], layout, figures


def content_bytes(content: RecordDict) -> int:
    """Bytes that a message's vectors, texts and numbers come to."""
    vectors = sum(len(v.data) for record in content.array_records.values() for v in record.values())
    said = (value for record in content.config_records.values() for value in record.values())
    return vectors + sum(len(v) if isinstance(v, str | bytes) else 8 for v in said)


def proposal_content(proposal: Proposal) -> RecordDict:
    """The content of a deployed server's query.prepare: the study with its signature."""
    content = Task(proposal.study, 0).content()
    content["proposal"] = ConfigRecord({"signature": proposal.signature})
    return content


def read_proposal(message: Message) -> Proposal:
    """The signed study that the message asks about; its signature is not checked here.

    Raises FederationError when it is not signed, and like `Task.read`.
    """
    signature = _config(message, "proposal").get("signature")
    if not isinstance(signature, str):
        raise FederationError("a study that is not signed")
    content = {"study": Task.read(message).study, "signature": signature}
    return parse(Proposal, content, "proposal in the message")


def tally_content(tally: Counted, head: str = "") -> RecordDict:
    """A site's answer to evaluate; `head` is its ledger's after the answer was paid for."""
    if isinstance(tally, NoisedTally):
        record = ConfigRecord({"noised": tally.to_bytes(), "head": head})
    else:
        exact, confidence = tally.to_bytes()
        record = ConfigRecord({"counts": exact, "confidence": confidence, "head": head})
    return RecordDict({"tally": record})


def masked_counts_content(counts: bytes, head: str) -> RecordDict:
    """A site's answer where counts are summed under masks: uint64, as they are."""
    return RecordDict({"tally": ConfigRecord({"masked": counts, "head": head})})


def read_masked_counts(message: Message, size: int) -> NDArray[np.uint64]:
    """The masked counts in a site's answer, uint64 (size,).

    Raises FederationError when there are none, or not as many.
    """
    found = _config(message, "tally").get("masked")
    if not isinstance(found, bytes) or len(found) != 8 * size:
        raise FederationError(f"the reply holds no {size} masked counts")
    return np.frombuffer(found, "<u8").astype(np.uint64)


def read_head(message: Message) -> str:
    """The ledger's head in an answer that was paid for; "" where the answer has none."""
    records = (_config(message, name) for name in ("report", "tally"))
    return next((str(record["head"])[:128] for record in records if record.get("head")), "")


def read_tally(message: Message, study: Study) -> Counted:
    """The site's counts; the study, not the site, says how much noise is in noised ones.

    Raises FederationError when the reply holds no sound tally of the study's classes.
    """
    from common.privacy.metrics_noise import metrics_sigma  # loads torch: not where letters pass

    record, classes = _config(message, "tally"), len(study.cell_types)
    noised, counts, confidence = (record.get(n) for n in ("noised", "counts", "confidence"))
    try:
        if isinstance(noised, bytes):
            return NoisedTally.from_bytes(noised, classes, metrics_sigma(study) ** 2)
        if isinstance(counts, bytes) and isinstance(confidence, bytes):
            return Tally.from_bytes(counts, confidence, classes)
    except ValueError as error:
        raise FederationError(f"the reply holds no sound tally: {error}") from error
    raise FederationError(
        f"the reply holds no sound tally: no counts and confidence of shape "
        f"{(classes, classes, BINS)}, and no noised counts"
    )


def name_content(site: str) -> RecordDict:
    """A site's answer to query."""
    return RecordDict({"site": ConfigRecord({"name": site})})


def read_name(message: Message) -> str:
    """The site's name in a reply to query. Raises FederationError when the reply has none."""
    name = _config(message, "site").get("name")
    if not isinstance(name, str):
        raise FederationError("the reply to a query holds no site name")
    return name


def refusal_content(reason: Reason, reference: str) -> RecordDict:
    """A site's answer when an error stops it: this is all that leaves the site of the error."""
    return RecordDict({"refusal": ConfigRecord({"reason": reason.value, "reference": reference})})


def absence_content(reason: Reason) -> RecordDict:
    """A site's answer when it does not take part this time; that is not a refusal."""
    return RecordDict({"absence": ConfigRecord({"reason": reason.value})})


def read_absence(message: Message) -> ReplyStatus | None:
    """The status of a reply that is an absence, or None when it is not one."""
    record = message.content.config_records.get("absence")
    if record is None:
        return None
    return ReplyStatus(Kind.SITS_OUT, reason=Reason.read(str(record.get("reason"))))


def read_refusal(message: Message) -> ReplyStatus | None:
    """The status of a reply that is a refusal, or None when it is not one."""
    record = message.content.config_records.get("refusal")
    if record is None:
        return None
    reference = str(record.get("reference"))
    known = reference if _REFERENCE.fullmatch(reference) else "its last lines"
    reason = Reason.read(str(record.get("reason")))
    return ReplyStatus(Kind.REFUSED, reason=reason, reference=known)


def _config(message: Message, name: str) -> ConfigRecord:
    """The config record of that name; an empty one when there is none."""
    return message.content.config_records.get(name) or ConfigRecord()


def _digest(study: str) -> str:
    """The digest of the study in a task; "not a study" where it cannot be read as one."""
    try:
        return _study(study).digest
    except (ValueError, RecursionError, ConfigError):
        return "not a study"


@lru_cache(maxsize=8)
def _study(text: str) -> Study:
    if len(text) > LONGEST_STUDY:
        raise ConfigError(f"study in the message: {len(text)} characters; {LONGEST_STUDY} at most")
    return parse(Study, json.loads(text), "study in the message")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None
