"""A site's request to the operator: to be known under a name, by two public keys."""

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
    """A site's name, its public keys, and when it claimed them."""

    name: SiteName
    node_public_key: str = Field(max_length=1000)
    """PEM, ECDSA P-384."""
    signing_public_key: str = Field(max_length=1000)
    """PEM, Ed25519."""
    created: AwareDatetime

    @field_validator("node_public_key")
    @classmethod
    def _one_spelling_of_node_key(cls, pem: str) -> str:
        """Rewrite the PEM in one form, because the server compares node keys byte for byte."""
        return node_public_pem(parse_node_public(pem)).decode()

    @field_validator("signing_public_key")
    @classmethod
    def _one_spelling_of_signing_key(cls, pem: str) -> str:
        return signing_public_pem(parse_signing_public(pem))


class AdmissionRequest(Strict):
    """A claim, with proof that the site has both private keys, and the old key's consent."""

    claim: Claim
    signature: str = Field(max_length=512)
    """Signature (hex) of the claim by the claimed signing key."""
    node_signature: str = Field(max_length=512)
    """Signature (hex) of the claim by the claimed node key."""
    consent: str | None = Field(default=None, max_length=512)
    """Signature (hex) of the claim by the name's previous signing key; None: it had none."""

    @classmethod
    def make(
        cls,
        name: str,
        node_key: EllipticCurvePrivateKey,
        signing_key: Ed25519PrivateKey,
        now: datetime,
        old_key: Ed25519PrivateKey | None = None,
    ) -> Self:
        """Return a request, signed by the keys that it claims, and by the key that they replace.

        Args:
            name: the site's name.
            node_key: the new node key.
            signing_key: the new signing key.
            now: with a time zone.
            old_key: the name's previous signing key; None: it had none.
        """
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
        """The fingerprint of the name and both keys, which people compare by telephone."""
        content = self.claim.model_dump(mode="json", exclude={"created"})
        return digest_fingerprint(statement("member", content))

    def check(self) -> None:
        """Check the signatures of both claimed keys.

        Raises:
            FederationError: the claim was altered, or its maker did not have a private key.
        """
        what = f"request of {self.claim.name}"
        verify(self.claim.signing_public_key, _message(self.claim), self.signature, what)
        verify_node(self.claim.node_public_key, _message(self.claim), self.node_signature, what)

    def check_consent(self, older: "AdmissionRequest") -> None:
        """Check that the signing key of the request `older` signed this claim.

        Raises:
            FederationError: it did not.
        """
        what = f"new keys of {self.claim.name}, by the old key"
        verify(older.claim.signing_public_key, _message(self.claim), self.consent or "", what)

    def text(self) -> str:
        """Return the content of the file that the site sends: canonical JSON and a line end."""
        return canonical(self.model_dump(mode="json")).decode() + "\n"


def _message(claim: Claim) -> bytes:
    return statement("request", claim.model_dump(mode="json"))
