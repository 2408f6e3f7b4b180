"""The server's order: what it asks of whom, signed, so that nobody else can ask a site.

A message passes through a database and a listener on its way. Whoever writes to the one, or finds
a hole in the other, could make a site train, pay and log a round that the server never asked for.
So a site computes nothing that its server's key has not signed in every part.
"""

from dataclasses import asdict, dataclass
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message

from common.errors import FederationError
from common.identity.signatures import sign, statement, verify
from common.wire.agreement import Agreement
from common.wire.messages import task_facts, task_words
from common.wire.vector_codec import array_digest

CLOCK_SECONDS = 600.0
"""A site refuses an order whose term ended longer ago than this. It allows for the difference of
clocks that the server's port tolerates, and for a second try."""


@dataclass(frozen=True)
class Order:
    """Everything in a message that decides what a site computes, pays for or answers."""

    receiver: str
    """The site's name in the registry."""
    run: int
    """Flower's number of the run; whenever the rounds are resumed, there is a new one."""
    kind: str
    """Flower's message type, such as train, evaluate or query.keys."""
    study: str
    """The study's digest; "" in a message without a task."""
    round: int
    attempt: int
    split: str
    head: str
    """The head of the site's ledger that the server saw last."""
    agreement: str
    """The digest of the agreement on masks, its keys and signatures too; "" where there is none."""
    arrays: dict[str, str]
    """record.array -> SHA-256 (hex) of its type, shape and bytes: the whole model vector."""
    term: float
    """Until when the server can use an answer, in seconds of Unix time."""

    @classmethod
    def of(cls, message: Message, receiver: str) -> Self:
        """What the message asks of the site `receiver`, whether or not the server ordered it."""
        facts = task_facts(message) or {"study": "", "round": -1, "attempt": -1}
        split, head = task_words(message)
        return cls(
            receiver=receiver,
            run=message.metadata.run_id,
            kind=message.metadata.message_type,
            study=str(facts["study"]),
            round=int(facts["round"]),
            attempt=int(facts["attempt"]),
            split=split,
            head=head,
            agreement=_agreement_digest(message),
            arrays=_array_digests(message),
            term=message.metadata.created_at + message.metadata.ttl,
        )

    def sign(self, key: Ed25519PrivateKey) -> str:
        """The server's signature (hex). Raises ValueError when the term is not a finite number."""
        return sign(key, self._statement())

    def check(self, public: str, signature: str, now: float) -> None:
        """Raise FederationError unless `public` (PEM) signed this, for a term that is not over.

        now: seconds of Unix time. A signed order is valid for its receiver, run, round and attempt
        alone; the ledger makes sure that none of them is paid for twice.
        """
        what = f"{self.kind:.40} of round {self.round}, attempt {self.attempt}"
        if not signature:
            raise FederationError(
                f"{what}: no order came with it; the server of an older hemofed sends none"
            )
        try:
            message = self._statement()
        except ValueError as error:
            raise FederationError(f"{what}: its term {self.term} is no time") from error
        verify(public, message, signature, what)
        if now > self.term + CLOCK_SECONDS:
            raise FederationError(
                f"{what}: its term was over {now - self.term:.0f} s ago; it is an old one, sent "
                "again, or a clock is wrong"
            )

    def _statement(self) -> bytes:
        return statement("order", asdict(self))


def _agreement_digest(message: Message) -> str:
    """The digest of the message's agreement; "" where there is none, or none that can be read."""
    try:
        agreement = Agreement.read(message)
    except FederationError:
        return ""
    return "" if agreement is None else agreement.digest


def _array_digests(message: Message) -> dict[str, str]:
    """record.array -> digest, for every array of the message."""
    return {
        f"{name}.{key}": array_digest(array)
        for name, record in message.content.array_records.items()
        for key, array in record.items()
    }
