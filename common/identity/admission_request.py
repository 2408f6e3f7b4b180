"""What a site asks of the operator: to be known under a name, by two public keys."""

from datetime import datetime
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AwareDatetime, Field, field_validator

from common.canonical_json import canonical
from common.config.study import SiteName, Strict
from common.identity.keys import (
    node_public_pem,
    parse_node_public,
    parse_signing_public,
    signing_public_pem,
)
from common.identity.signatures import (
    digest_fingerprint,
    sign,
    sign_as_node,
    statement,
    verify,
    verify_node,
)


class Claim(Strict):
    """A name and the public keys that go with it."""

    name: SiteName
    node_public_key: str = Field(max_length=1000)
    """PEM, ECDSA P-384."""
    signing_public_key: str = Field(max_length=1000)
    """PEM, Ed25519."""
    created: AwareDatetime

    @field_validator("node_public_key")
    @classmethod
    def _one_spelling_of_node_key(cls, pem: str) -> str:
        """The server compares node keys byte for byte, so there is one way to write each."""
        return node_public_pem(parse_node_public(pem)).decode()

    @field_validator("signing_public_key")
    @classmethod
    def _one_spelling_of_signing_key(cls, pem: str) -> str:
        return signing_public_pem(parse_signing_public(pem))


class AdmissionRequest(Strict):
    """A claim with proof that both private keys are at hand, and the old key's consent to new."""

    claim: Claim
    signature: str = Field(max_length=512)
    """Signature of the claimed signing key."""
    node_signature: str = Field(max_length=512)
    """Signature of the claimed node key."""
    consent: str | None = Field(default=None, max_length=512)
    """Signature of the signing key that this name had before; None for a name that asks first."""

    @classmethod
    def make(
        cls,
        name: str,
        node_key: EllipticCurvePrivateKey,
        signing_key: Ed25519PrivateKey,
        now: datetime,
        old_key: Ed25519PrivateKey | None = None,
    ) -> Self:
        """Sign a request with the keys it is about, and with the key that they replace."""
        claim = Claim(
            name=name,
            node_public_key=node_public_pem(node_key).decode(),
            signing_public_key=signing_public_pem(signing_key),
            created=now,
        )
        message = _message(claim)
        return cls(
            claim=claim,
            signature=sign(signing_key, message),
            node_signature=sign_as_node(node_key, message),
            consent=sign(old_key, message) if old_key else None,
        )

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the name and both keys, which site and operator compare by telephone."""
        content = self.claim.model_dump(mode="json", exclude={"created"})
        return digest_fingerprint(statement("member", content))

    def check(self) -> None:
        """Raise FederationError when the claim was altered or a private key was not at hand."""
        what = f"request of {self.claim.name}"
        verify(self.claim.signing_public_key, _message(self.claim), self.signature, what)
        verify_node(self.claim.node_public_key, _message(self.claim), self.node_signature, what)

    def check_consent(self, older: "AdmissionRequest") -> None:
        """Raise FederationError unless the signing key of `older` agreed to these new keys."""
        what = f"new keys of {self.claim.name}, by the old key"
        verify(older.claim.signing_public_key, _message(self.claim), self.consent or "", what)

    def text(self) -> str:
        """The file that the site sends."""
        return canonical(self.model_dump(mode="json")).decode() + "\n"


def _message(claim: Claim) -> bytes:
    return statement("request", claim.model_dump(mode="json"))
