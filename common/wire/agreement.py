"""Who masks a sum with whom: the sites of one sum, and the public masking key of each.

The sites agree anew before each sum. Every site's key is made for it alone, and in a deployment the
site's node signs it, so that the server carries the keys and can swap none (Bonawitz et al. 2017,
round 0; `docs/privacy.md`).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast, get_args

from flwr.app import ConfigRecord, Message, RecordDict

from common.canonical_json import canonical
from common.config.distributed import FEWEST
from common.errors import FederationError, because_of
from common.identity.signatures import statement
from common.wire.reasons import Reason

Purpose = Literal["train", "validation", "test", "statistics"]
KEY_BYTES = 32
RECORD = "agreement"
"""The name of the record in a message."""
_KEY = "masking-key"
_LONGEST_SIGNATURE = 128
_Item = TypeVar("_Item", str, bytes)


@dataclass(frozen=True)
class MaskingKey:
    """A site's public key for one agreement."""

    public: bytes
    """X25519, 32 bytes."""
    signature: str = ""
    """Ed25519 (hex) by the site's signing key; "" in a simulation, where nobody signs."""

    def __post_init__(self) -> None:
        if len(self.public) != KEY_BYTES or len(self.signature) > _LONGEST_SIGNATURE:
            raise FederationError("a masking key that is not 32 bytes with an Ed25519 signature")

    def statement(self, company: str, site: str) -> bytes:
        """What the site signs: that this key is its own for this sum of these members.

        Args:
            company: the agreement's `Agreement.company`.
            site: whose key it is.
        """
        said = {"company": company, "site": site, "key": self.public.hex()}
        return statement("masking key", said)

    def content(self) -> RecordDict:
        """The answer to the question for the key."""
        return RecordDict(
            {_KEY: ConfigRecord({"public": self.public, "signature": self.signature})}
        )

    @classmethod
    def read(cls, reply: Message) -> "MaskingKey | None":
        """The key in a site's answer; None if it has none. Raises FederationError for no key."""
        record = reply.content.config_records.get(_KEY)
        if record is None:
            return None
        public, signature = record.get("public"), record.get("signature")
        if not isinstance(public, bytes) or not isinstance(signature, str):
            raise FederationError("a masking key that cannot be read")
        return cls(public, signature)


@dataclass(frozen=True)
class Agreement:
    """The sites of one sum. Raises FederationError for fewer than three, or one named twice."""

    round: int
    """The round and the attempt of the sum; no two sums of a study have both the same."""
    attempt: int
    sites: tuple[str, ...]
    """Sorted by name."""
    keys: Mapping[str, MaskingKey] = field(default_factory=dict)
    """Site -> its key; empty in the question for the keys."""
    purpose: Purpose = "train"
    """What is summed: a round's gradients, the counts of an evaluation's split, or the statistics
    of the training cells."""

    def __post_init__(self) -> None:
        if self.purpose not in get_args(Purpose):
            raise FederationError(f"an agreement for {self.purpose!r:.40}")
        if len(set(self.sites)) < max(FEWEST, len(self.sites)) or list(self.sites) != sorted(
            self.sites
        ):
            raise FederationError(
                f"an agreement of {len(self.sites)} sites; expected {FEWEST} or more, each once, "
                "sorted by name"
            )
        if self.keys and set(self.keys) != set(self.sites):
            raise FederationError("an agreement whose keys are not those of its sites")

    def facts(self, study: str) -> dict[str, Any]:
        """What names the agreement, without its keys; `study` is the study's digest."""
        names = {"round": self.round, "attempt": self.attempt, "purpose": self.purpose}
        return {"study": study, "sites": list(self.sites)} | names

    def context(self, study: str, model: str) -> dict[str, Any]:
        """All that the masks of the sum depend on, beside the pair of sites.

        Two sites that were shown another study, round, attempt, set of sites, set of keys or model
        make masks that do not cancel, and the sum tells nothing (Pasquini et al. 2022, arXiv
        2111.07380).

        Args:
            study: the study's digest.
            model: SHA-256 (hex) of the model vector that the sites were given.
        """
        keys = {site: key.public.hex() for site, key in sorted(self.keys.items())}
        return self.facts(study) | {"keys": keys, "model": model}

    def company(self, study: str, fingerprints: Mapping[str, str]) -> str:
        """SHA-256 (hex) of the sum and its members, as every one of them signs it.

        Args:
            study: the study's digest.
            fingerprints: site -> its fingerprint in the registry, for every site of the agreement.
        """
        content = self.facts(study) | {"fingerprints": dict(fingerprints)}
        return hashlib.sha256(canonical(content)).hexdigest()

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the agreement with its keys and signatures."""
        keys = {site: [key.public.hex(), key.signature] for site, key in self.keys.items()}
        return hashlib.sha256(canonical(self.facts("") | {"keys": keys})).hexdigest()

    def record(self) -> ConfigRecord:
        """The agreement for a message."""
        keys = [self.keys[site] for site in self.sites] if self.keys else []
        return ConfigRecord(
            {
                "round": self.round,
                "attempt": self.attempt,
                "purpose": self.purpose,
                "sites": list(self.sites),
                "keys": [key.public for key in keys],
                "signatures": [key.signature for key in keys],
            }
        )

    @classmethod
    def read(cls, message: Message) -> "Agreement | None":
        """The message's agreement; None if it has none.

        Raises:
            FederationError: it cannot be read, or is none that a site may take part in.
        """
        record = message.content.config_records.get(RECORD)
        if record is None:
            return None
        with because_of(Reason.BAD_QUESTION):
            try:
                sites = _listed(record, "sites", str)
                publics = _listed(record, "keys", bytes)
                signed = zip(publics, _listed(record, "signatures", str), strict=True)
                made = [MaskingKey(*one) for one in signed]
                of_site = dict(zip(sites, made, strict=True)) if made else {}
                number, attempt = int(str(record["round"])), int(str(record["attempt"]))
                purpose = cast(Purpose, str(record["purpose"]))
                return cls(number, attempt, sites, of_site, purpose)
            except (KeyError, ValueError, TypeError) as error:
                said = f"an agreement that cannot be read ({type(error).__name__})"
                raise FederationError(said) from error


def _listed(record: ConfigRecord, key: str, kind: type[_Item]) -> tuple[_Item, ...]:
    """The list under `key`. Raises TypeError unless all its items are of the kind."""
    found = record[key]
    if not isinstance(found, list) or not all(isinstance(one, kind) for one in found):
        raise TypeError(key)
    return tuple(one for one in found if isinstance(one, kind))
