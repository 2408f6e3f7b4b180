"""The server's order: what is asked of whom, signed, so that nobody else can ask a site.

A message passes through a database and a listener on its way. Whoever writes to the one, or finds
a hole in the other, could make a site train, pay and log a round that the server never asked for.
So a site computes nothing that its server's key has not signed, word by word.
"""

import hashlib
from dataclasses import asdict, dataclass
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, Message

from common.errors import FederationError
from common.identity.signatures import sign, statement, verify
from common.wire.messages import task_facts, task_words

CLOCK_SECONDS = 600.0
"""An order is refused when it is older than its term by more: beyond the clocks' difference that
the server's port bears, and a second try."""


@dataclass(frozen=True)
class Order:
    """Whatever in a message makes a site compute, pay or answer one thing and not another."""

    receiver: str
    """The site's name in the registry."""
    run: int
    """Flower's number of the run; another one is made whenever the rounds go on."""
    kind: str
    """Flower's message type: train, evaluate, query.prepare, query."""
    study: str
    """Its digest; "" in a message without a task."""
    round: int
    attempt: int
    split: str
    head: str
    """Of the site's ledger, as the server saw it last."""
    arrays: dict[str, str]
    """record.array -> SHA-256 (hex) of its type, shape and bytes: the whole model vector."""
    term: float
    """Until when an answer is of use, in seconds of Unix time."""

    @classmethod
    def of(cls, message: Message, receiver: str) -> Self:
        """What the message asks of the site, whether or not anybody ordered it."""
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
            arrays=_array_digests(message),
            term=message.metadata.created_at + message.metadata.ttl,
        )

    def sign(self, key: Ed25519PrivateKey) -> str:
        """The server's signature (hex). Raises ValueError when the term is no finite number."""
        return sign(key, self._statement())

    def check(self, public: str, signature: str, now: float) -> None:
        """Raise FederationError unless `public` (PEM) signed this, for a term that is not over.

        now: seconds of Unix time. An order that was signed once is good for its receiver, run,
        round and attempt alone; that none of them is paid for twice is the ledger's work.
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


def _array_digests(message: Message) -> dict[str, str]:
    """record.array -> digest, of all arrays of the message."""
    return {
        f"{name}.{key}": _array_digest(array)
        for name, record in message.content.array_records.items()
        for key, array in record.items()
    }


def _array_digest(array: Array) -> str:
    """SHA-256 (hex) of what the array is and holds; kept with it: one goes to many sites."""
    kept: str | None = vars(array).get("_hemofed_digest")
    if kept is None:
        head = f"{array.dtype} {tuple(array.shape)} {array.stype}\n".encode()
        digest = hashlib.sha256(head)
        digest.update(array.data)
        kept = vars(array)["_hemofed_digest"] = digest.hexdigest()
    return kept
